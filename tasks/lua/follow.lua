-- Read on in a job's stream, and while the job has not ended have a channel told of what comes:
-- one step, so that nothing falls between.
--
-- ARGV[3] id, ARGV[4] channel or '', ARGV[5] id of the last entry seen or '', ARGV[6] most entries
-- Returns {state or '', tenant or '', 1 if there is a stream, entries}
local id = ARGV[3]
local stream = key('stream', id)
local job = job_fields(id, 'state', 'tenant')
if not job[1] then return {'', '', 0, {}} end
if ARGV[4] ~= '' and (job[1] == 'queued' or job[1] == 'running') then
  redis.call('SADD', key('waiters', id), ARGV[4])
  redis.call('EXPIRE', key('waiters', id), 3600)
end
local from = ARGV[5] == '' and '-' or '(' .. ARGV[5]
return {job[1], job[2], redis.call('EXISTS', stream),
  redis.call('XRANGE', stream, from, '+', 'COUNT', ARGV[6])}
