-- Behind the common prelude, before every script of webhook deliveries.
--
-- hook:endpoint:{id}    hash    an endpoint (tasks/webhooks.py)
-- hook:delivery:{id}    hash    a message for one endpoint, and where it stands
-- hook:attempts:{id}    list    JSON of each attempt to deliver it
-- hook:deliveries:{endpoint}  zset  delivery -> ms of creation
-- hook:due:{endpoint}   zset    delivery -> ms at which to send it (again)
-- hook:ring             zset    endpoint -> ms at which it has something to send
-- hook:flying:{endpoint}      zset  delivery being sent -> ms at which its sender is taken for dead
-- hook:flying_of:{tenant}     zset  the same by tenant

-- Bring an endpoint's turn forward to `at`.
local function wake_endpoint(endpoint, at)
  redis.call('ZADD', key('hook:ring'), 'LT', int(at), endpoint)
end

local function schedule_hook(endpoint, id, at)
  redis.call('ZADD', key('hook:due', endpoint), int(at), id)
  redis.call('HSET', key('hook:delivery', id), 'due_at', int(at))
  wake_endpoint(endpoint, at)
end

local function flying(name)
  redis.call('ZREMRANGEBYSCORE', name, '-inf', int(now))
  return redis.call('ZCARD', name)
end
