-- End the waiting of deferred jobs: what they wait for is there.
--
-- ARGV[3...] job ids
-- Returns how many became ready. A job that is still running is told not to wait when it defers.
local woken = 0
for i = 3, #ARGV do
  local id = ARGV[i]
  local record = key('job', id)
  local job = job_fields(id, 'state', 'tenant', 'lane', 'rank', 'deadline_at', 'not_before')
  if job[1] == 'running' then
    redis.call('HSET', record, 'wake', '1')
  elseif job[1] == 'queued' and job[6] then
    redis.call('HDEL', record, 'not_before')
    redis.call('HSET', record, 'ready_at', int(now))
    redis.call('ZADD', key('due'), job[5], id)
    make_ready(id, job[2], job[3], job[4])
    hint(job[3], id)
    woken = woken + 1
  end
end
return woken
