-- Take the next delivery that is due. Endpoints take turns; none is sent more at once than its
-- share, nor is a tenant.
--
-- ARGV[3] lease in ms  ARGV[4] most at once for an endpoint  ARGV[5] most at once for a tenant
-- Returns {delivery as a flat list, endpoint as a flat list}, or nil when nothing can be sent now.
local BUSY_MS = 250
local ring = key('hook:ring')
-- To the microsecond: who was served goes behind all who wait, also within one millisecond.
local exact = string.format('%.3f', now_us / 1000)
for _, endpoint in ipairs(redis.call('ZRANGEBYSCORE', ring, '-inf', exact, 'LIMIT', 0, 50)) do
  local due = key('hook:due', endpoint)
  local e = redis.call('HMGET', key('hook:endpoint', endpoint), 'state', 'tenant')
  if e[1] ~= 'enabled' then
    -- Deleted or disabled: what it was to get is given up.
    for _, id in ipairs(redis.call('ZRANGE', due, 0, 99)) do
      redis.call('ZREM', due, id)
      if redis.call('EXISTS', key('hook:delivery', id)) == 1 then
        redis.call('HSET', key('hook:delivery', id), 'state', 'discarded')
        redis.call('HDEL', key('hook:delivery', id), 'due_at')
      end
    end
    if redis.call('EXISTS', due) == 0 then redis.call('ZREM', ring, endpoint) end
  else
    local mine = key('hook:flying', endpoint)
    local all = key('hook:flying_of', e[2])
    if flying(mine) >= tonumber(ARGV[4]) or flying(all) >= tonumber(ARGV[5]) then
      redis.call('ZADD', ring, int(now + BUSY_MS), endpoint)
    else
      local id = redis.call('ZRANGEBYSCORE', due, '-inf', int(now), 'LIMIT', 0, 1)[1]
      local record = id and key('hook:delivery', id)
      if id and redis.call('EXISTS', record) == 0 then
        redis.call('ZREM', due, id)  -- kept no longer
        id = nil
      end
      if id then
        local lease = int(now + ARGV[3])
        redis.call('ZADD', due, lease, id)
        for _, name in ipairs({mine, all}) do
          redis.call('ZADD', name, lease, id)
          redis.call('PEXPIRE', name, 3600000)
        end
        redis.call('HINCRBY', record, 'fence', 1)
        redis.call('HINCRBY', record, 'tries', 1)
      end
      local head = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')[2]
      if head then
        -- Behind the others that wait.
        redis.call('ZADD', ring, tonumber(head) > now and head or exact, endpoint)
      else
        redis.call('ZREM', ring, endpoint)
      end
      if id then
        return {redis.call('HGETALL', record), redis.call('HGETALL', key('hook:endpoint', endpoint))}
      end
    end
  end
end
return nil
