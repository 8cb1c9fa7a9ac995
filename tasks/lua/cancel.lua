-- Cancel a job of a tenant, whatever it is doing. The result of a run under way is refused later
-- by its fence; the worker sees that its lease is gone and closes the provider connection.
--
-- ARGV[3] id, ARGV[4] tenant
-- Returns {outcome, state}: outcome 'cancelled', 'ended' (too late) or 'unknown'.
local id = ARGV[3]
local job = job_fields(id, 'tenant', 'state', 'worker')
if job[1] ~= ARGV[4] then return {'unknown', ''} end
if job[2] ~= 'queued' and job[2] ~= 'running' then return {'ended', job[2]} end
finish(id, 'cancelled', {'error', cjson.encode({type = 'cancelled',
  message = 'The job was cancelled by request.'})})
if job[2] == 'running' and job[3] then
  redis.call('PUBLISH', key('worker', job[3]), id)  -- it need not wait for its next renewal
end
return {'cancelled', 'cancelled'}
