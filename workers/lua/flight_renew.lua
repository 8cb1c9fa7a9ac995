-- Prolong a lead's lease, if it still leads.
--
--   KEYS[1]  hash, the flight: owner, until, fence as in flight_join.lua
-- ARGV: 1 owner, 2 fence, 3 lease in ms, 4 ms that the key lives
-- Returns 1 if it still leads, else 0
local flight = redis.call('HMGET', KEYS[1], 'owner', 'fence')
if flight[1] ~= ARGV[1] or flight[2] ~= ARGV[2] then
  return 0
end
local t = redis.call('TIME')
redis.call('HSET', KEYS[1], 'until', t[1] * 1000 + math.floor(t[2] / 1000) + ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
