-- Store one entry, bound what all entries take, and keep every record of them in step.
-- Greedy-Dual-Size-Frequency (Cherkasova 1998): an entry's worth is the clock when it was last
-- used, plus what it saves per byte; the least is evicted, and the clock moves up to it.
--
-- KEYS[1] entry      KEYS[2] document   KEYS[3] worth: zset fingerprint -> worth
-- KEYS[4] expiry: zset fingerprint -> epoch seconds        KEYS[5] sizes: hash fingerprint -> bytes
-- KEYS[6] totals: hash bytes, clock, evicted, expired
-- ARGV[1] fingerprint  ARGV[2] entry prefix  ARGV[3] document prefix  ARGV[4] entry data
-- ARGV[5] bytes it takes  ARGV[6] worth per use  ARGV[7] ttl in ms  ARGV[8] now, epoch seconds
-- ARGV[9] most bytes of all entries  ARGV[10...] fields and values of the document
-- Returns how many entries were evicted; -1 when the entry alone is too large.

local name, most = ARGV[1], tonumber(ARGV[9])
local size, now = tonumber(ARGV[5]), tonumber(ARGV[8])

local function forget(other)
  local bytes = tonumber(redis.call('HGET', KEYS[5], other) or '0')
  redis.call('DEL', ARGV[2] .. other, ARGV[3] .. other)
  redis.call('ZREM', KEYS[3], other)
  redis.call('ZREM', KEYS[4], other)
  redis.call('HDEL', KEYS[5], other)
  redis.call('HINCRBY', KEYS[6], 'bytes', -bytes)
end

for _, other in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now, 'LIMIT', 0, 64)) do
  forget(other)
  redis.call('HINCRBY', KEYS[6], 'expired', 1)
end
forget(name)
if size > most then
  return -1
end

local evicted = 0
while tonumber(redis.call('HGET', KEYS[6], 'bytes') or '0') + size > most do
  local least = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
  if #least == 0 then
    break
  end
  redis.call('HSET', KEYS[6], 'clock', least[2])
  forget(least[1])
  redis.call('HINCRBY', KEYS[6], 'evicted', 1)
  evicted = evicted + 1
end

local clock = tonumber(redis.call('HGET', KEYS[6], 'clock') or '0')
local ttl = tonumber(ARGV[7])
redis.call('SET', KEYS[1], ARGV[4], 'PX', ttl)
if #ARGV > 9 then
  redis.call('HSET', KEYS[2], unpack(ARGV, 10))
  redis.call('PEXPIRE', KEYS[2], ttl)
end
redis.call('ZADD', KEYS[3], clock + tonumber(ARGV[6]), name)
redis.call('ZADD', KEYS[4], now + ttl / 1000, name)
redis.call('HSET', KEYS[5], name, size)
redis.call('HINCRBY', KEYS[6], 'bytes', size)
return evicted
