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
-- running                 hash    lane -> number of running jobs
-- open                    hash    tenant -> number of jobs that have not ended
-- waiters:{id}            set     pub/sub channels to tell when the job moves
-- jobs:{tenant}           zset    job id -> ms of acceptance, for listing
-- dead                    zset    job id -> ms: jobs given up after their last attempt
-- ended                   stream  one entry for each job that ended: the outbox of what follows
--                                 from it (usage, webhooks). Each follower has a consumer group
-- stream:{id}             stream  what the client sees of a streamed answer
-- totals                  hash    what ever happened, for metrics: submitted:{lane}, retried:{lane},
--                                 deferred:{lane}, recovered:{lane}, ended:{lane}:{state}
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

local function total(...)
  redis.call('HINCRBY', key('totals'), table.concat({...}, ':'), 1)
end

-- The one place where a job ends. `fields` is a flat list to write with it.
local function finish(id, state, fields)
  local record = key('job', id)
  local job = redis.call('HMGET', record, 'tenant', 'lane', 'state', 'created_at', 'retention_ms')
  local tenant, lane, was = job[1], job[2], job[3]
  if was == 'running' then
    decrement('running', lane)
  else
    leave_ready(id, tenant, lane)
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
  redis.call('XADD', key('ended'), 'MAXLEN', '~', 1000000, '*', 'job', id, 'tenant', tenant,
    'state', state)
  tell_waiters(id)
  redis.call('DEL', key('waiters', id))
end
