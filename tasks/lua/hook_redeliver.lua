-- Send a delivery again, now, with the same id and a new round of tries.
--
-- ARGV[3] id  ARGV[4] tenant  ARGV[5] endpoint  ARGV[6] Celery message
-- Returns 'unknown', 'disabled' or 'ok'.
local id, endpoint = ARGV[3], ARGV[5]
local record = key('hook:delivery', id)
local d = redis.call('HMGET', record, 'tenant', 'endpoint')
if d[1] ~= ARGV[4] or d[2] ~= endpoint then return 'unknown' end
local state = redis.call('HGET', key('hook:endpoint', endpoint), 'state')
if not state then return 'unknown' end
if state ~= 'enabled' then return 'disabled' end
redis.call('HSET', record, 'state', 'pending', 'tries', 0, 'since', int(now))
schedule_hook(endpoint, id, now)
redis.call('LPUSH', key('broker:webhooks'),
  (string.gsub(ARGV[6], '@ID@', id .. '-' .. int(now_us))))
return 'ok'
