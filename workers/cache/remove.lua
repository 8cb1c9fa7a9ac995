-- Remove entries and every record of them in one step, so that the count of bytes stays true.
--
-- KEYS[1] worth   KEYS[2] expiry   KEYS[3] sizes   KEYS[4] totals   (see store.lua)
-- ARGV[1] entry prefix  ARGV[2] document prefix  ARGV[3...] fingerprints
-- Returns how many of them there were.

local removed = 0
for i = 3, #ARGV do
  local name = ARGV[i]
  local size = redis.call('HGET', KEYS[3], name)
  redis.call('DEL', ARGV[1] .. name, ARGV[2] .. name)
  if size then
    redis.call('ZREM', KEYS[1], name)
    redis.call('ZREM', KEYS[2], name)
    redis.call('HDEL', KEYS[3], name)
    redis.call('HINCRBY', KEYS[4], 'bytes', -tonumber(size))
    removed = removed + 1
  end
end
return removed
