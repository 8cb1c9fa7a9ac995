-- End a lead, if it still leads, and say which followers to wake.
--
--   KEYS[1]  hash, the flight: owner, until, fence as in flight_join.lua
--   KEYS[2]  zset, the followers
--   KEYS[3]  hash, an answer that no cache holds: at, answer
-- ARGV: 1 owner, 2 fence, 3 '1' if a result is there for all followers, 4 that result if no cache
--       holds it, 5 ms that it lives
-- Returns {} to one that leads no more; else all followers if a result is there, else the first,
--         which will lead next (the others go on following)
local flight = redis.call('HMGET', KEYS[1], 'owner', 'fence')
if flight[1] ~= ARGV[1] or flight[2] ~= ARGV[2] then
  return {}
end
redis.call('HDEL', KEYS[1], 'owner', 'until')
if ARGV[4] ~= '' then
  local t = redis.call('TIME')
  redis.call('HSET', KEYS[3], 'at', t[1] * 1000 + math.floor(t[2] / 1000), 'answer', ARGV[4])
  redis.call('PEXPIRE', KEYS[3], ARGV[5])
end
local last = ARGV[3] == '1' and -1 or 0
local woken = redis.call('ZRANGE', KEYS[2], 0, last)
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, last)
return woken
