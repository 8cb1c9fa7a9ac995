-- The end of a batch, written once: its results are in the file store.
--
-- ARGV[3] id   ARGV[4] JSON that goes with the event   ARGV[5...] flat fields of the record
-- Returns 1 (closed by this call) or 0 (it was closed before).
local id = ARGV[3]
local record = key('batch', id)
local b = redis.call('HMGET', record, 'state', 'stop', 'tenant', 'webhook_url')
if b[1] ~= 'finalizing' then return 0 end
local state = b[2] or 'completed'
redis.call('HSET', record, 'state', state, 'ended_at', int(now), unpack(ARGV, 5))
redis.call('ZREM', key('batches:open'), id)
decrement('batches:count', b[3])
redis.call('DEL', key('batch', id, 'seen'), key('batch', id, 'open'), key('batch', id, 'pending'))
redis.call('XADD', key('events'), 'MAXLEN', '~', 100000, '*', 'type', 'batch.' .. state,
  'tenant', b[3], 'subject', id, 'webhook_url', b[4] or '', 'data', ARGV[4])
return 1
