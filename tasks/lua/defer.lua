-- Put a running job back: it becomes ready again after a delay.
--
-- ARGV[3] id, ARGV[4] fence, ARGV[5] delay in ms, ARGV[6] '1' if this run counts as an attempt,
-- ARGV[7...] flat fields
-- Returns 1 (deferred), 0 (the lease was lost).
local id, fence = ARGV[3], ARGV[4]
local record = key('job', id)
local job = job_fields(id, 'state', 'fence', 'lane', 'deadline_at', 'tenant', 'rank', 'wake',
  'worker', 'started_at')
if job[1] ~= 'running' or job[2] ~= fence then return 0 end
local wake = now + tonumber(ARGV[5])
if job[7] then wake = now end  -- what it was to wait for came while it was being put back
redis.call('HSET', record, 'state', 'queued', 'not_before', int(wake), 'ready_at', int(now),
  unpack(ARGV, 7))
redis.call('HDEL', record, 'lease_until', 'worker', 'wake')
if ARGV[6] ~= '1' then redis.call('HINCRBY', record, 'attempt', -1) end
put_down(job[3], job[8])
count_busy(job[3], job[9])
total(ARGV[6] == '1' and 'retried' or 'deferred', job[3])
redis.call('ZADD', key('due'), int(math.min(wake, tonumber(job[4]))), id)
return 1
