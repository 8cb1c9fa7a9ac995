-- Put before every ledger script. One Redis holds the broker and the ledger, so a script may
-- touch any of these keys (this Redis is standalone or behind Sentinel, never a cluster).
--
-- job:{id}                hash    the record; no expiry until the job has ended
-- due                     zset    job id -> ms at which the reconciler must look at the job:
--                                 its deadline while it waits, its lease while it runs,
--                                 its wake-up while it is deferred
-- ready:{lane}            zset    job id -> rank (us of acceptance): all that can be claimed
-- ready:{lane}:{tenant}   zset    the same, of one tenant
-- ring:{lane}             zset    tenant -> virtual time; the lowest is served next
-- vtime                   hash    lane -> virtual time of the tenant served last
-- busy                    hash    lane -> ms since when it has not been empty, if it is not
-- running                 hash    lane -> number of running jobs
-- holding:{lane}          hash    worker -> number of the lane's jobs that it runs
-- open                    hash    tenant -> number of jobs that have not ended
-- waiters:{id}            set     pub/sub channels to tell when the job moves
-- jobs:{tenant}           zset    job id -> ms of acceptance, for listing
-- dead                    zset    job id -> ms: jobs given up after their last attempt
-- ended                   stream  one entry for each job that ended: the outbox of what follows
--                                 from it (usage, webhooks). Each follower has a consumer group
-- events                  stream  other things that webhooks tell of: ends of batches, budgets
-- batch:{id} and so on            batches: see tasks/batches.py
-- stream:{id}             stream  what the client sees of a streamed answer
-- totals                  hash    what ever happened, for metrics: submitted:{lane}, retried:{lane},
--                                 deferred:{lane}, recovered:{lane}, ended:{lane}:{state};
--                                 for the scaler: started:{lane}, late:{lane} (had waited longer
--                                 than the lane promises), and of jobs that ran and ended
--                                 served:{lane}, served_tokens:{lane} (estimated), busy_ms:{lane}
-- broker:inference.{lane} list    Celery messages; each is a hint that a job of the lane is ready
--
-- ARGV[1] key prefix, ARGV[2] the Celery message with @ID@ and @LANE@ to fill in.
local prefix = ARGV[1]
local message = ARGV[2]

local function key(...)
  return prefix .. table.concat({...}, ':')
end

local function int(number)
  return string.format('%.0f', number)
end

-- Redis' own clock, so that workers and API servers need not agree on the time.
local clock = redis.call('TIME')
local now_us = clock[1] * 1000000 + clock[2]
local now = math.floor(now_us / 1000)

local function job_fields(id, ...)
  return redis.call('HMGET', key('job', id), ...)
end

local function hint(lane, id)
  local text = string.gsub(string.gsub(message, '@LANE@', lane), '@ID@', id)
  redis.call('LPUSH', key('broker:inference.' .. lane), text)
end

-- Let workers claim the job. Start-time fair queueing between tenants (Goyal 1996): a tenant
-- that comes back starts at the virtual time of now, so it neither saves up turns nor waits
-- behind what others have queued.
local function make_ready(id, tenant, lane, rank)
  redis.call('ZADD', key('ready', lane), rank, id)
  if redis.call('ZCARD', key('ready', lane)) == 1 then
    redis.call('HSET', key('busy'), lane, int(now))
  end
  local mine = key('ready', lane, tenant)
  redis.call('ZADD', mine, rank, id)
  if redis.call('ZCARD', mine) == 1 then
    local vtime = redis.call('HGET', key('vtime'), lane) or '0'
    redis.call('ZADD', key('ring', lane), vtime, tenant)
  end
end

local function leave_ready(id, tenant, lane)
  local mine = key('ready', lane, tenant)
  local was = redis.call('ZREM', key('ready', lane), id)
  redis.call('ZREM', mine, id)
  if redis.call('EXISTS', mine) == 0 then
    redis.call('ZREM', key('ring', lane), tenant)
  end
  return was == 1
end

local function decrement(name, field)
  local left = redis.call('HINCRBY', key(name), field, -1)
  if left <= 0 then redis.call('HDEL', key(name), field) end
end

local function tell_waiters(id)
  for _, channel in ipairs(redis.call('SMEMBERS', key('waiters', id))) do
    redis.call('PUBLISH', channel, id)
  end
end

-- Let the batch close when the last of its lines has ended: the one step that leads out of
-- 'in_progress' and 'cancelling'. The message is the completion callback; if it gets lost, the
-- next tick finds the batch by its state.
local function settle_batch(id)
  local record = key('batch', id)
  local b = redis.call('HMGET', record, 'state', 'total', 'succeeded', 'failed', 'cancelled',
    'expired', 'callback')
  if b[1] ~= 'in_progress' and b[1] ~= 'cancelling' then return end
  if b[3] + b[4] + b[5] + b[6] < tonumber(b[2]) then return end
  redis.call('HSET', record, 'state', 'finalizing', 'finalizing_at', int(now))
  local callback = string.gsub(b[7], '@ID@', id)
  redis.call('LPUSH', key('broker:system'), callback)
end

-- A job that answers `lines` lines of a batch has ended.
local function count_in_batch(batch, id, state, lines)
  if redis.call('EXISTS', key('batch', batch)) == 0 then return end  -- kept no longer
  redis.call('SREM', key('batch', batch, 'open'), id)
  redis.call('HINCRBY', key('batch', batch), state, lines)
  settle_batch(batch)
end

local settle -- in spend.lua: budgets

-- What a follower of the outbox needs of the job, so that the record may be gone by then.
local function outbox_fields(id, lane)
  local names = {'user', 'created_at', 'finished_at', 'queued_ms', 'cache_ms', 'provider_ms',
    'total_ms', 'bill'}
  local values = job_fields(id, unpack(names))
  local flat = {'lane', lane}
  for i, name in ipairs(names) do
    flat[#flat + 1] = name
    flat[#flat + 1] = values[i] or ''
  end
  return flat
end

local function total(...)
  redis.call('HINCRBY', key('totals'), table.concat({...}, ':'), 1)
end

-- A worker lets go of a job of the lane that it ran.
local function put_down(lane, worker)
  decrement('running', lane)
  decrement('holding:' .. lane, worker)
end

-- A run is over: the time for which it took a slot.
local function count_busy(lane, started_at)
  redis.call('HINCRBY', key('totals'), 'busy_ms:' .. lane, int(math.max(0, now - started_at)))
end

-- The one place where a job ends. `fields` is a flat list to write with it.
local function finish(id, state, fields)
  local record = key('job', id)
  local job = redis.call('HMGET', record, 'tenant', 'lane', 'state', 'created_at', 'retention_ms',
    'batch', 'lines', 'webhook_url', 'worker', 'started_at', 'fence', 'estimated_tokens',
    'aged')
  local tenant, lane, was = job[1], job[2], job[3]
  local left = true
  if was == 'running' then
    put_down(lane, job[9])
    count_busy(lane, job[10])
    total('served', lane)
    redis.call('HINCRBY', key('totals'), 'served_tokens:' .. lane, job[12] or '0')
  else
    left = leave_ready(id, tenant, lane)
    if state == 'expired' and job[11] == '0' and not job[13] then  -- no worker came in time
      total('started', lane)
      total('late', lane)
    end
  end
  redis.call('HSET', record, 'state', state, 'finished_at', int(now),
    'total_ms', int(now - job[4]), unpack(fields))
  redis.call('HDEL', record, 'lease_until', 'not_before')
  redis.call('PEXPIRE', record, job[5])
  redis.call('ZREM', key('due'), id)
  decrement('open', tenant)
  total('ended', lane, state)
  local stream = key('stream', id)
  if redis.call('EXISTS', stream) == 1 then
    redis.call('XADD', stream, '*', 'event', 'end', 'data', state)
    redis.call('PEXPIRE', stream, job[5])
  end
  settle(id, tenant, lane, left)
  redis.call('XADD', key('ended'), 'MAXLEN', '~', 1000000, '*', 'job', id, 'tenant', tenant,
    'state', state, 'batch', job[6] or '', 'webhook_url', job[8] or '',
    unpack(outbox_fields(id, lane)))
  if job[6] then count_in_batch(job[6], id, state, tonumber(job[7])) end
  tell_waiters(id)
  redis.call('DEL', key('waiters', id))
end
