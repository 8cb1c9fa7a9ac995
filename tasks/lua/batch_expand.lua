-- Make jobs of the lines of one slice, all in one step. A line that has been here is passed
-- over, so that a slice that runs twice, or half and then again, changes nothing.
--
-- ARGV[3] id   ARGV[4] slice   ARGV[5] hour (YYYYMMDDHH)   ARGV[6] minute
-- ARGV[7] ms that a job is kept after the batch's deadline   ARGV[8] most attempts
-- ARGV[9...] for each line: index, job id, fingerprint, estimated tokens, request,
--            answer that is already known or '', its bill, nano-dollars and tokens to reserve or ''
-- Returns {jobs made, lines that joined the job of an equal line, why the rest must wait or ''},
-- or {-1, 0, ''}: the batch has been stopped. What makes lines wait is 'cold' or the JSON of a
-- refusal (see `admit` in spend.lua); the slice then stays to be taken again.
local STRIDE = 9
local id = ARGV[3]
local b = redis.call('HMGET', key('batch', id), 'state', 'tenant', 'user', 'lane', 'request_id',
  'deadline_at')
if b[1] ~= 'in_progress' then return {-1, 0, ''} end
local tenant, lane, deadline = b[2], b[4], b[6]
local retention = int(deadline - now + ARGV[7])
local seen, open = key('batch', id, 'seen'), key('batch', id, 'open')
local made, joined, ended, wait = 0, 0, {}, ''
local arrived, tokens = 0, 0  -- what workers have to do

for i = 9, #ARGV, STRIDE do
  local index, job, result = ARGV[i], ARGV[i + 1], ARGV[i + 5]
  local bill, nano, held = ARGV[i + 6], ARGV[i + 7], ARGV[i + 8]
  local rank = int(now_us + i)  -- in the order of the lines
  if redis.call('GETBIT', seen, index) == 0 then
    local record = key('job', job)
    local state = redis.call('HGET', record, 'state')
    local too_large
    if not state and nano ~= '' and result == '' then
      local refusal = admit(tenant, b[3], lane, tonumber(nano), tonumber(held))
      if refusal then
        too_large = refusal[2] and cjson.decode(refusal[2]).kind == 'too_large'
        if not too_large then
          wait = refusal[2] or refusal[1]
          break
        end
        nano = ''
      end
    end
    redis.call('SETBIT', seen, index, 1)
    redis.call('HINCRBY', key('batch', id), 'expanded', 1)
    if state == 'queued' or state == 'running' then
      redis.call('HINCRBY', record, 'lines', 1)
      joined = joined + 1
    elseif state then
      redis.call('HINCRBY', key('batch', id), state, 1)
      joined = joined + 1
    else
      redis.call('HSET', record, 'v', 1, 'id', job, 'tenant', tenant, 'user', b[3], 'lane', lane,
        'state', 'queued', 'rank', rank, 'created_at', int(now), 'ready_at', int(now),
        'deadline_at', deadline, 'fence', '0', 'attempt', '0', 'max_attempts', ARGV[8],
        'retention_ms', retention, 'request_id', b[5], 'fingerprint', ARGV[i + 2],
        'request', ARGV[i + 4], 'batch', id, 'lines', 1, 'estimated_tokens', ARGV[i + 3])
      redis.call('HINCRBY', key('open'), tenant, 1)
      redis.call('SADD', open, job)
      made = made + 1
      if nano ~= '' and result == '' then
        redis.call('HSET', record, 'reserve_nano', nano, 'reserve_tokens', held)
      end
      if result ~= '' then
        ended[#ended + 1] = {job, 'succeeded', {'result', result, 'bill', bill}}
      elseif too_large then
        ended[#ended + 1] = {job, 'failed', {'error', cjson.encode({type = 'over_token_limit',
          message = 'The line may use more tokens than the tenant may use in a minute.'})}}
      else
        redis.call('ZADD', key('due'), deadline, job)
        make_ready(job, tenant, lane, rank)
        hint(lane, job)
        arrived, tokens = arrived + 1, tokens + ARGV[i + 3]
      end
    end
  end
end

if arrived > 0 then
  local hour = key('arrivals', lane, ARGV[5])
  redis.call('HINCRBY', hour, ARGV[6] .. ':r', arrived)
  redis.call('HINCRBY', hour, ARGV[6] .. ':t', int(tokens))
  redis.call('EXPIRE', hour, 1296000)
end
if wait == '' then redis.call('ZREM', key('batch', id, 'pending'), ARGV[4]) end
for _, one in ipairs(ended) do finish(one[1], one[2], one[3]) end
settle_batch(id)
return {made, joined, wait}
