-- What came of sending a delivery. Only the newest attempt counts.
--
-- ARGV[3] id  ARGV[4] fence  ARGV[5] 'delivered', 'retry', 'failed' (given up) or 'gone' (410)
-- ARGV[6] ms since 1970 of the next try  ARGV[7] JSON of the attempt
-- ARGV[8] ms of failing after which the endpoint is disabled  ARGV[9] most attempts in the log
-- ARGV[10] ms that must pass before the next try
-- Returns 1; 0: another attempt has taken over.
local id, outcome = ARGV[3], ARGV[5]
local record = key('hook:delivery', id)
local d = redis.call('HMGET', record, 'fence', 'endpoint', 'tenant', 'type')
if d[1] ~= ARGV[4] then return 0 end
local endpoint, tenant = d[2], d[3]
redis.call('ZREM', key('hook:flying', endpoint), id)
redis.call('ZREM', key('hook:flying_of', tenant), id)

local log = key('hook:attempts', id)
redis.call('RPUSH', log, ARGV[7])
redis.call('LTRIM', log, -ARGV[9], -1)
redis.call('PEXPIRE', log, math.max(redis.call('PTTL', record), 1))

local target = key('hook:endpoint', endpoint)
if outcome == 'retry' then
  redis.call('HSET', record, 'state', 'retrying')
  redis.call('ZREM', key('hook:due', endpoint), id)
  schedule_hook(endpoint, id, math.max(tonumber(ARGV[6]), now + tonumber(ARGV[10])))
else
  redis.call('HSET', record, 'state', outcome == 'gone' and 'failed' or outcome)
  redis.call('HDEL', record, 'due_at')
  redis.call('ZREM', key('hook:due', endpoint), id)
end
if redis.call('EXISTS', key('hook:due', endpoint)) == 1 then wake_endpoint(endpoint, now) end

local e = redis.call('HMGET', target, 'state', 'failing_since', 'hidden', 'url')
if not e[1] then return 1 end
if outcome == 'delivered' then
  redis.call('HDEL', target, 'failing_since')
  return 1
end
local since = tonumber(e[2] or now)
if not e[2] then redis.call('HSET', target, 'failing_since', int(now)) end
local why = outcome == 'gone' and 'The endpoint answered 410 Gone.'
  or now - since >= tonumber(ARGV[8]) and 'The endpoint has failed for too long.'
if why and e[1] == 'enabled' then
  redis.call('HSET', target, 'state', 'disabled', 'disabled_reason', why, 'updated_at', int(now))
  wake_endpoint(endpoint, now)
  if e[3] ~= '1' then
    redis.call('XADD', key('events'), 'MAXLEN', '~', 100000, '*', 'type', 'webhook.disabled',
      'tenant', tenant, 'subject', endpoint, 'webhook_url', '', 'data',
      cjson.encode({url = e[4], reason = why}))
  end
end
return 1
