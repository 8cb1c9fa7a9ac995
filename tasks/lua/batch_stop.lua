-- Stop a batch: what has ended stays, all else ends as `state`. In steps of bounded length:
-- repeat until it returns 'done'.
--
-- ARGV[3] id   ARGV[4] tenant or '' for any   ARGV[5] state: 'cancelled' or 'expired'
-- ARGV[6] message   ARGV[7] most jobs to end in this step
-- Returns 'unknown', 'ended' (it was over before), 'more' or 'done'.
local id, state = ARGV[3], ARGV[5]
local record = key('batch', id)
local b = redis.call('HMGET', record, 'tenant', 'state', 'total', 'expanded', 'stop')
if not b[1] or (ARGV[4] ~= '' and b[1] ~= ARGV[4]) then return 'unknown' end
if b[2] ~= 'in_progress' and b[2] ~= 'cancelling' then return 'ended' end
if b[5] then
  state = b[5]
else
  redis.call('HSET', record, 'stop', state)
  if state == 'cancelled' then
    redis.call('HSET', record, 'state', 'cancelling', 'cancelling_at', int(now))
  end
  redis.call('DEL', key('batch', id, 'pending'))
  redis.call('HINCRBY', record, state, b[3] - b[4])
  redis.call('HSET', record, 'expanded', b[3])
end

local open = key('batch', id, 'open')
local why = cjson.encode({type = state == 'expired' and 'deadline' or 'cancelled',
  message = ARGV[6]})
for _, job in ipairs(redis.call('SPOP', open, ARGV[7])) do
  local was = job_fields(job, 'state')[1]
  if was == 'queued' or was == 'running' then
    finish(job, state, {'error', why})
  elseif not was then
    count_in_batch(id, job, state, 1)  -- the record is gone: deleted by hand
  end
end
settle_batch(id)
return redis.call('EXISTS', open) == 1 and 'more' or 'done'
