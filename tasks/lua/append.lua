-- Append to the streams of running jobs. Only the holder of the newest lease can; safe to repeat.
--
-- A stream's entries have: event (delta, restart, end), data (text, or the final state),
-- run (the fence of the run that wrote it) and seq (its number within that run, from 1).
--
-- ARGV[3...] id, fence, seq, event, data, id, fence, seq, event, data ...
-- Returns for each piece 1 (it is in the stream) or 0 (the lease was lost).
local function last_entry(stream)
  local entry = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  local found = {}
  for i = 1, entry and #entry[2] or 0, 2 do found[entry[2][i]] = entry[2][i + 1] end
  return found
end

local function tell_followers(id)
  for _, channel in ipairs(redis.call('SMEMBERS', key('waiters', id))) do
    redis.call('PUBLISH', channel, 'stream:' .. id)
  end
end

local kept = {}
for i = 3, #ARGV, 5 do
  local id, fence, seq, event, data = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local job = job_fields(id, 'state', 'fence', 'deadline_at', 'retention_ms')
  if job[1] ~= 'running' or job[2] ~= fence then
    kept[#kept + 1] = 0
  else
    local stream = key('stream', id)
    local last = last_entry(stream)
    if last.run ~= fence and last.event == 'delta' then
      -- An earlier run died or failed in the middle of its answer.
      redis.call('XADD', stream, '*', 'event', 'restart', 'data', '', 'run', fence, 'seq', '0')
    end
    if last.run ~= fence or tonumber(last.seq) < tonumber(seq) then
      redis.call('XADD', stream, '*', 'event', event, 'data', data, 'run', fence, 'seq', seq)
      if seq == '1' then
        -- The end of the job sets the expiry that counts; this one is for a record deleted by hand.
        redis.call('PEXPIRE', stream, int(math.max(job[3] - now, 0) + job[4]))
      end
      tell_followers(id)
    end
    kept[#kept + 1] = 1
  end
end
return kept
