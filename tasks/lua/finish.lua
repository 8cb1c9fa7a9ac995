-- End a running job. Only the holder of the newest lease can.
--
-- ARGV[3] id, ARGV[4] fence, ARGV[5] state, ARGV[6...] flat fields
-- Returns 1 (ended, by this call or by the same call before), 0 (the lease was lost).
local id, fence = ARGV[3], ARGV[4]
local job = job_fields(id, 'state', 'fence')
if job[2] ~= fence then return 0 end
if job[1] == ARGV[5] then return 1 end
if job[1] ~= 'running' then return 0 end
local fields = {}
for i = 6, #ARGV do fields[#fields + 1] = ARGV[i] end
finish(id, ARGV[5], fields)
return 1
