-- Read a job, and if it has not ended have a channel told of its next moves: one step, so that
-- no move falls between.
--
-- ARGV[3] id, ARGV[4] channel or ''
-- Returns the record as a flat list, then while it is queued its place in its tenant's queue, the
-- tenants that take turns, and ms until it starts; -1 where that is not known.
local id = ARGV[3]
local record = redis.call('HGETALL', key('job', id))
if #record == 0 then return {record, -1, 0, -1} end
local job = {}
for i = 1, #record, 2 do job[record[i]] = record[i + 1] end
local place, tenants, wait = -1, 0, nil
if job.state == 'queued' or job.state == 'running' then
  if ARGV[4] ~= '' then
    redis.call('SADD', key('waiters', id), ARGV[4])
    redis.call('EXPIRE', key('waiters', id), 3600)
  end
  if job.state == 'queued' then
    place = redis.call('ZRANK', key('ready', job.lane, job.tenant), id) or -1
    tenants = redis.call('ZCARD', key('ring', job.lane))
    if place >= 0 then wait = eta(job.lane, place, tenants) end
  end
end
return {record, place, tenants, int(wait and wait * 1000 or -1)}
