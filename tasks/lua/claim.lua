-- Give the caller the next job of a lane, with a lease and a new fencing token.
--
-- ARGV[3] lane, ARGV[4] worker, ARGV[5] lease in ms, ARGV[6] ms after which a first run is late
-- Returns the record as a flat list, or nil when nothing is ready.
local lane = ARGV[3]
local ring = key('ring', lane)

-- A job that cannot run any more is ended here and the next is taken; the bound keeps one call
-- short whatever the backlog, and the reconciler ends the rest.
for _ = 1, 20 do
  local head = redis.call('ZRANGE', ring, 0, 0, 'WITHSCORES')
  local tenant = head[1]
  if not tenant then return nil end
  local mine = key('ready', lane, tenant)
  local id = redis.call('ZPOPMIN', mine)[1]
  redis.call('HSET', key('vtime'), lane, head[2])
  if redis.call('EXISTS', mine) == 1 then
    redis.call('ZADD', ring, head[2] + 1, tenant)
  else
    redis.call('ZREM', ring, tenant)
  end
  redis.call('ZREM', key('ready', lane), id)

  local record = key('job', id)
  local job = redis.call('HMGET', record, 'deadline_at', 'attempt', 'max_attempts', 'ready_at',
    'queued_ms', 'aged')
  if not job[1] then
    redis.call('ZREM', key('due'), id)  -- the record is gone: deleted by hand
  elseif tonumber(job[1]) <= now then
    finish(id, 'expired', {'error', cjson.encode({type = 'deadline',
      message = 'The deadline passed before a worker was free.'})})
  else
    local lease = now + tonumber(ARGV[5])
    local waited = tonumber(job[5] or '0') + now - job[4]
    if redis.call('HINCRBY', record, 'fence', 1) == 1 and not job[6] then
      total('started', lane)
      if waited > tonumber(ARGV[6]) then total('late', lane) end
    end
    redis.call('HINCRBY', record, 'attempt', 1)
    redis.call('HDEL', record, 'wake')
    redis.call('HSET', record, 'state', 'running', 'worker', ARGV[4], 'started_at', int(now),
      'lease_until', int(lease), 'queued_ms', int(waited))
    redis.call('ZADD', key('due'), int(lease), id)
    redis.call('HINCRBY', key('running'), lane, 1)
    redis.call('HINCRBY', key('holding', lane), ARGV[4], 1)
    return redis.call('HGETALL', record)
  end
end
return nil
