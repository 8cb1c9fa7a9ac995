-- Accept a job: record, idempotency key, due entry, place in the queue and Celery message, or
-- nothing at all. Safe to repeat with the same id.
--
-- idem:{tenant}:{key}  hash  job, body: the job that an Idempotency-Key stands for
--
-- ARGV[3] id             ARGV[4] tenant          ARGV[5] lane         ARGV[6] deadline, ms from now
-- ARGV[7] idempotency key or ''                  ARGV[8] hash of the body
-- ARGV[9] seconds that the idempotency key lives
-- ARGV[10] most waiting jobs in all              ARGV[11] most open jobs of the tenant
-- ARGV[12] channel to tell of the job's moves or ''
-- ARGV[13] hour (YYYYMMDDHH)  ARGV[14] minute  ARGV[15] estimated tokens: arrivals for the scaler
-- ARGV[16] final state or '': an answer that is already known
-- ARGV[17] '1': show it in the tenant's list
-- ARGV[18] ms that an entry of the tenant's list is kept
-- ARGV[19] '1': a job of the same idempotency key is the answer; '': the key is given anew
-- ARGV[20] key of the client's rate window or '', ARGV[21] most requests in it, ARGV[22] its seconds
-- ARGV[23...] flat fields of the record
-- Returns {requests in the window, ms that it still lives, answer}; the answer is {'limited'} or
-- {'created', created_at, deadline_at, place in the tenant's queue, tenants waiting,
-- ms until it starts or -1}, {'late', seconds until it could start},
-- {'exists', id}, {'conflict', id, state}, {'full', which, count, seconds to drain}, {'cold'} or
-- {'refused', JSON} (see `admit` in spend.lua)
local FIELDS = 23 -- where the fields of the record begin in ARGV
local id, tenant, lane = ARGV[3], ARGV[4], ARGV[5]
local idempotency, body = ARGV[7], ARGV[8]
local record = key('job', id)

local counted, left = 0, 0
if ARGV[20] ~= '' then
  counted = redis.call('INCR', ARGV[20])
  if counted == 1 then redis.call('EXPIRE', ARGV[20], ARGV[22]) end
  left = redis.call('PTTL', ARGV[20])
  if counted > tonumber(ARGV[21]) then return {counted, left, {'limited'}} end
end

local function accept()
  if redis.call('EXISTS', record) == 1 then return {'exists', id} end

  local idem = key('idem', tenant, idempotency)
  if idempotency ~= '' and ARGV[19] == '1' then
    local held = redis.call('HMGET', idem, 'job', 'body')
    if held[1] then
      local state = job_fields(held[1], 'state')[1]
      if held[2] ~= body then return {'conflict', held[1], state or 'gone'} end
      if state then
        if ARGV[12] ~= '' then
          redis.call('SADD', key('waiters', held[1]), ARGV[12])
          redis.call('EXPIRE', key('waiters', held[1]), 3600)
        end
        return {'exists', held[1]}
      end
    end
  end

  local final = ARGV[16]
  local wait  -- seconds until the job starts, if anybody can know
  if final == '' then
    local waiting = 0
    for _, name in ipairs({'high', 'normal', 'low'}) do
      waiting = waiting + redis.call('ZCARD', key('ready', name))
    end
    if waiting >= tonumber(ARGV[10]) then
      return {'full', 'all', waiting, seconds_to_drain(tonumber(ARGV[10]))}
    end
    local open = tonumber(redis.call('HGET', key('open'), tenant) or '0')
    if open >= tonumber(ARGV[11]) then
      return {'full', 'tenant', open, seconds_to_drain(tonumber(ARGV[11]))}
    end
    local tenants = redis.call('ZCARD', key('ring', lane))
    wait = eta(lane, redis.call('ZCARD', key('ready', lane, tenant)), tenants)
    if wait and wait * 1000 > tonumber(ARGV[6]) then return {'late', int(math.ceil(wait))} end
    local given = {}
    for i = FIELDS, #ARGV, 2 do given[ARGV[i]] = ARGV[i + 1] end
    if given.reserve_nano then
      local refusal = admit(tenant, given.user, lane, tonumber(given.reserve_nano),
        tonumber(given.reserve_tokens))
      if refusal then return refusal end
    end
  end

  if idempotency ~= '' then
    redis.call('HSET', idem, 'job', id, 'body', body)
    redis.call('EXPIRE', idem, ARGV[9])
  end

  local deadline = now + tonumber(ARGV[6])
  redis.call('HSET', record, 'id', id, 'tenant', tenant, 'lane', lane, 'state', 'queued',
    'rank', int(now_us), 'created_at', int(now), 'ready_at', int(now), 'deadline_at', int(deadline),
    'fence', '0', 'attempt', '0', 'estimated_tokens', ARGV[15], unpack(ARGV, FIELDS))
  if ARGV[17] == '1' then
    local list = key('jobs', tenant)
    redis.call('ZADD', list, int(now), id)
    redis.call('ZREMRANGEBYSCORE', list, '-inf', int(now - ARGV[18]))
    redis.call('PEXPIRE', list, ARGV[18])
  end
  redis.call('HINCRBY', key('open'), tenant, 1)
  total('submitted', lane)

  if final ~= '' then
    -- The answer was looked for before there was a job: that time is all of its life.
    finish(id, final, {'total_ms', job_fields(id, 'cache_ms')[1] or '0'})
    return {'created', int(now), int(deadline), -1, 0, -1}
  end

  -- What is answered here is no work for a worker, so it is no arrival.
  local hour = key('arrivals', lane, ARGV[13])
  redis.call('HINCRBY', hour, ARGV[14] .. ':r', 1)
  redis.call('HINCRBY', hour, ARGV[14] .. ':t', ARGV[15])
  redis.call('EXPIRE', hour, 1296000)
  redis.call('ZADD', key('due'), int(deadline), id)
  if ARGV[12] ~= '' then
    redis.call('SADD', key('waiters', id), ARGV[12])
    redis.call('EXPIRE', key('waiters', id), 3600)
  end
  make_ready(id, tenant, lane, int(now_us))
  hint(lane, id)
  return {'created', int(now), int(deadline), redis.call('ZCARD', key('ready', lane, tenant)) - 1,
    redis.call('ZCARD', key('ring', lane)), int(wait and wait * 1000 or -1)}
end

return {counted, left, accept()}
