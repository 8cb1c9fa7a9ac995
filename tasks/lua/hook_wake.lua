-- Make sure that a worker hears of every delivery that is due: as many Celery messages as there
-- is work for, no more.
--
-- ARGV[3] Celery message  ARGV[4] most messages
-- Returns how many were sent.
local due = 0
for _, endpoint in ipairs(redis.call('ZRANGEBYSCORE', key('hook:ring'), '-inf', int(now),
    'LIMIT', 0, ARGV[4])) do
  due = due + math.max(1, redis.call('ZCOUNT', key('hook:due', endpoint), '-inf', int(now)))
end
local missing = math.min(due, tonumber(ARGV[4])) - redis.call('LLEN', key('broker:webhooks'))
for i = 1, missing do
  local id = 'wake-' .. int(now_us) .. '-' .. i
  redis.call('LPUSH', key('broker:webhooks'), (string.gsub(ARGV[3], '@ID@', id)))
end
return math.max(missing, 0)
