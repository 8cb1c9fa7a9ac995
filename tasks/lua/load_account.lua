-- Take over a tenant's account from SQL.
--
-- ARGV[3] tenant, ARGV[4] '1': also the counters, if they are missing
-- ARGV[5] number of allowances, then pairs: place (`t`, `u:*`, `u:{user}`), JSON list
-- then four for each sum: period, place, nano-dollars, tokens
-- Returns 1 when written, 0 when a change of an account that nobody has loaded is left to the load.
local tenant, with_counters = ARGV[3], ARGV[4] == '1'
local account = key('account', tenant)
if not with_counters and redis.call('HEXISTS', account, 't') == 0 then return 0 end

local day = redis.call('HGET', account, 'day')
redis.call('DEL', account)
if day then redis.call('HSET', account, 'day', day) end
local at = 6
for _ = 1, tonumber(ARGV[5]) do
  redis.call('HSET', account, ARGV[at], ARGV[at + 1])
  at = at + 2
end
if not with_counters then return 1 end

local missing = {}
for _, period in ipairs(periods()) do
  local name = key('spent', tenant, period)
  missing[period] = redis.call('HSETNX', name, 'begun', '1') == 1
  keep(name, period)
end
-- Added, not set: a job may have ended between the reading of SQL and now.
for i = at, #ARGV, 4 do
  local period, place = ARGV[i], ARGV[i + 1]
  if missing[period] then
    local name = key('spent', tenant, period)
    redis.call('HINCRBY', name, field(place).nano, ARGV[i + 2])
    redis.call('HINCRBY', name, field(place).tokens, ARGV[i + 3])
  end
end
redis.call('HSET', account, 'day', today())
return 1
