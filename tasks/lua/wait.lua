-- Read a job, and if it has not ended have a channel told of its next moves: one step, so that
-- no move falls between.
--
-- ARGV[3] id, ARGV[4] channel or ''
-- Returns the record as a flat list, then its place and the lane's depth while it is queued.
local id = ARGV[3]
local record = redis.call('HGETALL', key('job', id))
if #record == 0 then return {record, -1, 0, 0} end
local job = {}
for i = 1, #record, 2 do job[record[i]] = record[i + 1] end
local place, tenants, depth = -1, 0, 0
if job.state == 'queued' or job.state == 'running' then
  if ARGV[4] ~= '' then
    redis.call('SADD', key('waiters', id), ARGV[4])
    redis.call('EXPIRE', key('waiters', id), 3600)
  end
  if job.state == 'queued' then
    place = redis.call('ZRANK', key('ready', job.lane, job.tenant), id) or -1
    tenants = redis.call('ZCARD', key('ring', job.lane))
    depth = redis.call('ZCARD', key('ready', job.lane))
  end
end
return {record, place, tenants, depth}
