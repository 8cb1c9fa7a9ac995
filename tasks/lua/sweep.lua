-- The reconciler's step: look at the jobs that are due, and make up for lost Celery messages.
-- Safe to run twice at once; its cost is bounded by ARGV[3] whatever the backlog.
--
-- ARGV[3] most jobs to look at, ARGV[4] ms of waiting after which a low job moves up
-- Returns {looked at, expired, recovered, dead, woken, hinted, aged}
local looked, expired, recovered, dead, woken, hinted, aged = 0, 0, 0, 0, 0, 0, 0

local due = redis.call('ZRANGEBYSCORE', key('due'), '-inf', int(now), 'LIMIT', 0, ARGV[3])
for _, id in ipairs(due) do
  looked = looked + 1
  local record = key('job', id)
  local job = job_fields(id, 'state', 'tenant', 'lane', 'rank', 'deadline_at', 'attempt',
    'max_attempts', 'not_before', 'worker')
  local state, tenant, lane = job[1], job[2], job[3]
  if state ~= 'queued' and state ~= 'running' then
    redis.call('ZREM', key('due'), id)
  elseif tonumber(job[5]) <= now then
    local why = state == 'running' and 'The deadline passed while the job ran.'
      or 'The deadline passed before the job could run.'
    finish(id, 'expired', {'error', cjson.encode({type = 'deadline', message = why})})
    expired = expired + 1
  elseif state == 'running' then
    if tonumber(job[6]) >= tonumber(job[7]) then
      finish(id, 'failed', {'error', cjson.encode({type = 'attempts_exhausted',
        message = 'The worker died or froze in each of ' .. job[6] .. ' attempts.'})})
      redis.call('ZADD', key('dead'), int(now), id)
      dead = dead + 1
    else
      put_down(lane, job[9])
      -- The fence moves on at once: what the silent worker sends from now on is refused.
      redis.call('HINCRBY', record, 'fence', 1)
      redis.call('HSET', record, 'state', 'queued', 'ready_at', int(now))
      redis.call('HDEL', record, 'lease_until', 'worker')
      redis.call('ZADD', key('due'), job[5], id)
      make_ready(id, tenant, lane, job[4])
      total('recovered', lane)
      recovered = recovered + 1
    end
  else
    redis.call('HDEL', record, 'not_before')
    redis.call('ZADD', key('due'), job[5], id)
    make_ready(id, tenant, lane, job[4])
    woken = woken + 1
  end
end

-- Low jobs that waited too long move up one lane, a few each time: enough that none is
-- forgotten, too few to turn the order of the lanes round.
local oldest = int(now_us - tonumber(ARGV[4]) * 1000)
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('ready', 'low'), '-inf', oldest, 'LIMIT', 0, 5)) do
  local job = job_fields(id, 'tenant', 'rank', 'fence')
  leave_ready(id, job[1], 'low')
  redis.call('HSET', key('job', id), 'lane', 'normal', 'aged', '1')
  if job[3] == '0' then  -- low was too slow, whatever normal makes of it
    total('started', 'low')
    total('late', 'low')
  end
  make_ready(id, job[1], 'normal', job[2])
  aged = aged + 1
end

-- Every ready job needs a message in its lane's queue. Messages get lost (a worker killed between
-- BRPOP and its bookkeeping); one too many finds nothing to claim and does no harm.
for _, lane in ipairs({'high', 'normal', 'low'}) do
  local missing = redis.call('ZCARD', key('ready', lane))
    - redis.call('LLEN', key('broker:inference.' .. lane))
  for i = 1, math.min(missing, tonumber(ARGV[3])) do
    hint(lane, 'sweep-' .. int(now_us) .. '-' .. lane .. '-' .. i)
    hinted = hinted + 1
  end
end

redis.call('ZREMRANGEBYSCORE', key('dead'), '-inf', int(now - 2592000000))
return {looked, expired, recovered, dead, woken, hinted, aged}
