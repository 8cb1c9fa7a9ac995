-- Note a message for an endpoint, to be delivered at once. Safe to repeat: its id stands for
-- event and endpoint.
--
-- ARGV[3] id  ARGV[4] endpoint  ARGV[5] tenant  ARGV[6] event type  ARGV[7] payload
-- ARGV[8] ms that the message is kept  ARGV[9] Celery message that wakes a worker
-- ARGV[10] most messages in the endpoint's list  ARGV[11] '1': try once, never again
-- ARGV[12] traceparent of what the message tells of, or ''
-- Returns 1, or 0: it was there already.
local id, endpoint = ARGV[3], ARGV[4]
local record = key('hook:delivery', id)
if redis.call('EXISTS', record) == 1 then return 0 end
redis.call('HSET', record, 'id', id, 'endpoint', endpoint, 'tenant', ARGV[5], 'type', ARGV[6],
  'payload', ARGV[7], 'state', 'pending', 'fence', 0, 'tries', 0, 'created_at', int(now),
  'since', int(now), 'due_at', int(now), 'once', ARGV[11])
if ARGV[12] ~= '' then redis.call('HSET', record, 'traceparent', ARGV[12]) end
redis.call('PEXPIRE', record, ARGV[8])
local list = key('hook:deliveries', endpoint)
redis.call('ZADD', list, int(now), id)
redis.call('ZREMRANGEBYRANK', list, 0, -ARGV[10] - 1)
redis.call('PEXPIRE', list, ARGV[8])
schedule_hook(endpoint, id, now)
redis.call('LPUSH', key('broker:webhooks'), (string.gsub(ARGV[9], '@ID@', id)))
return 1
