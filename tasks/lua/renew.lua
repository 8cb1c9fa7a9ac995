-- Renew the leases of a worker process in one call.
--
-- ARGV[3] lease in ms, ARGV[4...] id, fence, id, fence ...
-- Returns for each pair 1 (held) or 0 (lost: ended, or another attempt has it).
local lease = int(now + tonumber(ARGV[3]))
local held = {}
for i = 4, #ARGV, 2 do
  local id, fence = ARGV[i], ARGV[i + 1]
  local job = job_fields(id, 'state', 'fence')
  if job[1] == 'running' and job[2] == fence then
    redis.call('HSET', key('job', id), 'lease_until', lease)
    redis.call('ZADD', key('due'), lease, id)
    held[#held + 1] = 1
  else
    held[#held + 1] = 0
  end
end
return held
