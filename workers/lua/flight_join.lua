-- Lead a flight, or follow the one that leads it.
--
--   KEYS[1]  hash, the flight:  owner  who leads (absent: nobody)
--                               until  ms at which its lease ends
--                               fence  counts the leads of this flight; only the newest may act
--   KEYS[2]  zset, the followers: job id -> ms at which it began to follow
--   KEYS[3]  hash, an answer that no cache holds:  at  ms at which it came,  answer
-- ARGV: 1 owner, 2 lease in ms, 3 ms that both keys live, 4 ms at which the owner began to want it
-- Returns {1, fence} to the lead, {0, ms until the lead's lease ends} to a follower, {2, answer}
--         to one that was there when the answer came
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local landed = redis.call('HMGET', KEYS[3], 'at', 'answer')
if landed[1] and tonumber(landed[1]) >= tonumber(ARGV[4]) then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return {2, landed[2]}
end
local flight = redis.call('HMGET', KEYS[1], 'owner', 'until')
local left = tonumber(flight[2] or 0) - now
if flight[1] and flight[1] ~= ARGV[1] and left > 0 then
  redis.call('ZADD', KEYS[2], 'NX', now, ARGV[1])
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
  return {0, left}
end
local fence = redis.call('HINCRBY', KEYS[1], 'fence', 1)
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'until', now + ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('ZREM', KEYS[2], ARGV[1])
return {1, fence}
