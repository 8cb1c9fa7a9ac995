-- Accept a batch whose lines have been checked and stored. Safe to repeat with the same id.
--
-- ARGV[3] id   ARGV[4] tenant   ARGV[5] completion window in ms   ARGV[6] number of slices
-- ARGV[7] idempotency key or ''   ARGV[8] hash of the body
-- ARGV[9] seconds that the idempotency key lives
-- ARGV[10] '1': a batch of the same idempotency key is the answer; '': the key is given anew
-- ARGV[11] ms that the record is kept after the window   ARGV[12] most open batches of the tenant
-- ARGV[13...] flat fields of the record
-- Returns {'created', id}, {'exists', id}, {'conflict', id} or {'full', count}
local id, tenant = ARGV[3], ARGV[4]
local record = key('batch', id)
if redis.call('EXISTS', record) == 1 then return {'exists', id} end

local idem = key('idem', tenant, 'batch:' .. ARGV[7])
if ARGV[7] ~= '' then
  local held = redis.call('HMGET', idem, 'job', 'body')
  if held[1] and ARGV[10] == '1' then
    if held[2] ~= ARGV[8] then return {'conflict', held[1]} end
    if redis.call('EXISTS', key('batch', held[1])) == 1 then return {'exists', held[1]} end
  end
end
local open = tonumber(redis.call('HGET', key('batches:count'), tenant) or '0')
if open >= tonumber(ARGV[12]) then return {'full', open} end
if ARGV[7] ~= '' then
  redis.call('HSET', idem, 'job', id, 'body', ARGV[8])
  redis.call('EXPIRE', idem, ARGV[9])
end

local deadline = now + tonumber(ARGV[5])
redis.call('HSET', record, 'id', id, 'tenant', tenant, 'state', 'in_progress',
  'created_at', int(now), 'deadline_at', int(deadline), 'expanded', 0, 'succeeded', 0,
  'failed', 0, 'cancelled', 0, 'expired', 0, unpack(ARGV, 13))
redis.call('PEXPIREAT', record, int(deadline + ARGV[11]))
for slice = 0, tonumber(ARGV[6]) - 1 do
  -- All due at once; the order of the scores is that of the slices.
  redis.call('ZADD', key('batch', id, 'pending'), int(now - ARGV[6] + slice), slice)
end
redis.call('ZADD', key('batches:open'), int(deadline), id)
redis.call('HINCRBY', key('batches:count'), tenant, 1)
redis.call('ZADD', key('batches', tenant), int(now), id)
redis.call('ZREMRANGEBYSCORE', key('batches', tenant), '-inf', int(now - 5184000000))
redis.call('PEXPIRE', key('batches', tenant), 5184000000)
return {'created', id}
