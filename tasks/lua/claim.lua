-- Give the caller the next job of the first lane that has one, with a lease and a new fencing
-- token.
--
-- ARGV[3] worker, ARGV[4] lease in ms
-- ARGV[5] '1': the caller holds no message for the job, so one that stands for it is taken out of
--         the queue. Were it left, it would only cost a worker a look at an empty lane.
-- ARGV[6...] lanes, each followed by the ms after which a first run is late
-- Returns the record as a flat list, or nil when nothing is ready.

-- The lane and its tenant whose turn it is, the tenant's virtual time, and when a run is late.
local function next_turn()
  for i = 6, #ARGV, 2 do
    local head = redis.call('ZRANGE', key('ring', ARGV[i]), 0, 0, 'WITHSCORES')
    if head[1] then return ARGV[i], head[1], head[2], tonumber(ARGV[i + 1]) end
  end
end

-- A job that cannot run any more is ended here and the next is taken; the bound keeps one call
-- short whatever the backlog, and the reconciler ends the rest.
for _ = 1, 20 do
  local lane, tenant, vtime, late = next_turn()
  if not tenant then return nil end
  local ring = key('ring', lane)
  local mine = key('ready', lane, tenant)
  local id = redis.call('ZPOPMIN', mine)[1]
  redis.call('HSET', key('vtime'), lane, vtime)
  if redis.call('EXISTS', mine) == 1 then
    redis.call('ZADD', ring, vtime + 1, tenant)
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
    local lease = now + tonumber(ARGV[4])
    local waited = tonumber(job[5] or '0') + now - job[4]
    if redis.call('HINCRBY', record, 'fence', 1) == 1 and not job[6] then
      total('started', lane)
      if waited > late then total('late', lane) end
    end
    redis.call('HINCRBY', record, 'attempt', 1)
    redis.call('HDEL', record, 'wake')
    redis.call('HSET', record, 'state', 'running', 'worker', ARGV[3], 'started_at', int(now),
      'lease_until', int(lease), 'queued_ms', int(waited))
    redis.call('ZADD', key('due'), int(lease), id)
    redis.call('HINCRBY', key('running'), lane, 1)
    redis.call('HINCRBY', key('holding', lane), ARGV[3], 1)
    if ARGV[5] == '1' then redis.call('RPOP', key('broker:inference.' .. lane)) end
    return redis.call('HGETALL', record)
  end
end
return nil
