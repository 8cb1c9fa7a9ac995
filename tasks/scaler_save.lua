-- Store what the scaler remembers and decided, unless a newer holder has stored before.
-- KEYS[1]   memory: hash queue -> JSON, and `token`, the newest that stored
-- KEYS[2]   decisions: hash queue -> JSON
-- KEYS[3..] log: one list of JSON per decision, newest first
-- ARGV[1]   token    ARGV[2]  seconds to live    ARGV[3]  length of a log    ARGV[4]  memories
-- ARGV[5..] queue, JSON of each memory, then queue, JSON of each decision
-- Returns 1, or 0 if refused.
local newest = tonumber(redis.call('HGET', KEYS[1], 'token') or '0')
if tonumber(ARGV[1]) < newest then
  return 0
end
redis.call('HSET', KEYS[1], 'token', ARGV[1])
local at = 5
for _ = 1, tonumber(ARGV[4]) do
  redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1])
  at = at + 2
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
for i = 3, #KEYS do
  redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1])
  redis.call('LPUSH', KEYS[i], ARGV[at + 1])
  redis.call('LTRIM', KEYS[i], 0, tonumber(ARGV[3]) - 1)
  redis.call('EXPIRE', KEYS[i], ARGV[2])
  at = at + 2
end
if #KEYS > 2 then
  redis.call('EXPIRE', KEYS[2], ARGV[2])
end
return 1
