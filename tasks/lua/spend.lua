-- Admission by budgets and limits, and settlement when a job ends. Put after the prelude before
-- every ledger script: a step that admits or ends a job counts it in the same step.
--
-- account:{tenant}          hash  a copy of what SQL allows: `t` the tenant, `u:{user}` a user,
--                                 `u:*` every other user; each a JSON list of day and month in
--                                 nano-dollars, day and month in tokens, tokens a minute, open
--                                 jobs, waiting jobs (-1: no bound). `day`: the last day whose
--                                 counters were begun. No expiry: losing it means a flush
-- spent:{tenant}:{period}   hash  what ended jobs cost in a day (YYYYMMDD) or month (YYYYMM), UTC:
--                                 `t:n` nano-dollars, `t:k` tokens, `u:{user}:n`, `u:{user}:k`;
--                                 `begun`; `w:..`, `x:..`: events already sent. Expires after it
-- reserved:{tenant}         hash  the same four, held by jobs that have not ended, and
--                                 `u:{user}:j` how many they are. Empty, and so gone, without jobs
-- pace:{tenant}             hash  `t`, `u:{user}`: ms until which tokens a minute are used up
-- drained:{slot}            hash  lane -> jobs that left it in that slot of 10 s (since 1970)
-- events                    stream  budget.threshold and budget.exhausted, once for each period
local PERIODS = {{name = 'day', nano = 1, tokens = 3}, {name = 'month', nano = 2, tokens = 4}}
local PACE, OPEN, WAITING = 5, 6, 7
local WARN_AT = 0.8
local DRAIN_SLOT = 10000  -- ms
local BUSY_MS = 20000  -- until the pace of a lane that is never empty is known

-- Civil date from days since 1970 (Howard Hinnant, "chrono-compatible low-level date algorithms").
local function today()
  local z = math.floor(now / 86400000) + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524)
    - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local day = doy - math.floor((153 * mp + 2) / 5) + 1
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d%02d%02d', year, month, day)
end

-- The names of the day's and the month's counters: {day, month}.
local function periods()
  local day = today()
  return {day, string.sub(day, 1, 6)}
end

-- Jobs that left the lanes (or only `lane`) since a moment, and the seconds from the first whole
-- slot after it until now.
local function drained_since(moment, lane)
  local first = math.floor(moment / DRAIN_SLOT) + 1
  local sum = 0
  for slot = first, math.floor(now / DRAIN_SLOT) do
    local name = key('drained', int(slot))
    local counts = lane and {redis.call('HGET', name, lane) or 0} or redis.call('HVALS', name)
    for _, count in ipairs(counts) do sum = sum + tonumber(count) end
  end
  return sum, (now - first * DRAIN_SLOT) / 1000
end

-- Jobs a second that left the lanes, over about the last minute.
local function drain_rate()
  local sum, seconds = drained_since(now - 60000)
  return sum / seconds
end

-- Seconds until a job starts that has `ahead` jobs of its tenant before it, where `tenants` take
-- turns; nil where nobody can know. A lane's pace says what it can do only while jobs wait in it
-- all the time: before that it says how much came.
local function eta(lane, ahead, tenants)
  local depth = redis.call('ZCARD', key('ready', lane))
  local busy = depth > 0 and redis.call('HGET', key('busy'), lane)
  if not busy or now - busy < BUSY_MS then return nil end
  local sum, seconds = drained_since(math.max(tonumber(busy), now - 60000), lane)
  if sum == 0 then return nil end
  return math.min(ahead * math.max(tenants, 1), depth) * seconds / sum
end

-- Seconds until about a twentieth of `limit` will have drained, so that those who were refused
-- do not all come back for one place.
local function seconds_to_drain(limit, share)
  local rate = drain_rate() * (share or 1)
  if rate <= 0 then return 10 end
  return math.max(1, math.min(300, math.ceil(math.max(1, limit / 20) / rate)))
end

local function keep(name, period)
  redis.call('EXPIRE', name, #period == 8 and 259200 or 3456000)
end

local function tell(name, flag, event, tenant, user, detail)
  if redis.call('HSETNX', name, flag, '1') == 0 then return end
  redis.call('XADD', key('events'), 'MAXLEN', '~', 10000, '*', 'type', event, 'tenant', tenant,
    'user', user, 'at', int(now), 'data', cjson.encode(detail))
end

local function field(place)
  return {nano = place .. ':n', tokens = place .. ':k'}
end

-- Reserve what a job may cost, or say why not. `nano` and `tokens` are upper estimates.
-- Returns nil (reserved), {'cold'} (the account must be loaded from SQL first) or
-- {'refused', JSON}.
local function admit(tenant, user, lane, nano, tokens)
  local account = redis.call('HMGET', key('account', tenant), 'day', 't', 'u:' .. user, 'u:*')
  if not account[2] then return {'cold'} end
  local mine = 'u:' .. user
  local scopes = {{name = 'tenant', place = 't', allows = cjson.decode(account[2])}}
  if account[3] or account[4] then
    scopes[2] = {name = 'user', place = mine, allows = cjson.decode(account[3] or account[4])}
  end
  local held = redis.call('HMGET', key('reserved', tenant),
    't:n', 't:k', mine .. ':n', mine .. ':k', mine .. ':j')
  local asked = {nano = nano, tokens = tokens}

  for at, period in ipairs(periods()) do
    local name = key('spent', tenant, period)
    local spent = redis.call('HMGET', name,
      't:n', 't:k', mine .. ':n', mine .. ':k', 'begun')
    if not spent[5] then
      -- Counters of a period that was begun do not vanish by themselves.
      if account[1] and string.sub(account[1], 1, #period) == period then return {'cold'} end
      redis.call('HSET', name, 'begun', '1')
      keep(name, period)
      if at == 1 then redis.call('HSET', key('account', tenant), 'day', period) end
    end
    for number, scope in ipairs(scopes) do
      for offset, unit in ipairs({'nano', 'tokens'}) do
        local limit = scope.allows[PERIODS[at][unit]]
        local index = (number - 1) * 2 + offset
        local used = tonumber(spent[index] or '0')
        local open = tonumber(held[index] or '0')
        if limit >= 0 and asked[unit] > 0 and used + open + asked[unit] > limit then
          local detail = {kind = 'budget', scope = scope.name, unit = unit,
            period = PERIODS[at].name, limit = limit, spent = used, reserved = open,
            asked = asked[unit]}
          local whose = scope.name == 'user' and user or ''
          local flag = scope.place .. ':' .. unit
          tell(name, 'x:' .. flag, 'budget.exhausted', tenant, whose, detail)
          return {'refused', cjson.encode(detail)}
        end
      end
    end
  end

  local pace = key('pace', tenant)
  local until_ms = {}
  for _, scope in ipairs(scopes) do
    local limit = scope.allows[PACE]
    if limit >= 0 and tokens > 0 then
      -- GCRA (ITU-T I.371): one number says how far ahead of the allowed rate the arrivals are.
      if tokens > limit then
        return {'refused', cjson.encode({kind = 'too_large', scope = scope.name, limit = limit,
          asked = tokens})}
      end
      local start = math.max(now, tonumber(redis.call('HGET', pace, scope.place) or '0'))
      local next_ms = start + tokens * 60000 / limit
      if next_ms - now > 60000 then
        return {'refused', cjson.encode({kind = 'tokens', scope = scope.name, limit = limit,
          asked = tokens, retry_after = math.ceil((next_ms - now - 60000) / 1000)})}
      end
      until_ms[scope.place] = next_ms
    end
    local open_limit = scope.allows[OPEN]
    if open_limit >= 0 then
      local open = held[5]
      if scope.name == 'tenant' then open = redis.call('HGET', key('open'), tenant) end
      if tonumber(open or '0') >= open_limit then
        return {'refused', cjson.encode({kind = 'open', scope = scope.name, limit = open_limit,
          asked = 1, retry_after = seconds_to_drain(open_limit)})}
      end
    end
    local waiting_limit = scope.name == 'tenant' and scope.allows[WAITING] or -1
    if waiting_limit >= 0 then
      local waiting = 0
      for _, each in ipairs({'high', 'normal', 'low'}) do
        waiting = waiting + redis.call('ZCARD', key('ready', each, tenant))
      end
      if waiting >= waiting_limit then
        return {'refused', cjson.encode({kind = 'waiting', scope = scope.name,
          limit = waiting_limit, asked = 1,
          retry_after = seconds_to_drain(waiting_limit,
            1 / math.max(1, redis.call('ZCARD', key('ring', lane))))})}
      end
    end
  end

  for place, next_ms in pairs(until_ms) do
    redis.call('HSET', pace, place, int(math.ceil(next_ms)))
    redis.call('EXPIRE', pace, 120)
  end
  local reserved = key('reserved', tenant)
  redis.call('HINCRBY', reserved, mine .. ':j', 1)
  for _, place in ipairs({'t', mine}) do
    if nano > 0 then redis.call('HINCRBY', reserved, field(place).nano, int(nano)) end
    if tokens > 0 then redis.call('HINCRBY', reserved, field(place).tokens, int(tokens)) end
  end
  return nil
end

local function release(name, what, amount)
  if amount <= 0 then return end
  if redis.call('HINCRBY', name, what, int(-amount)) <= 0 then redis.call('HDEL', name, what) end
end

-- What follows for budgets from the end of a job: its reservation is let go and what it really
-- cost is counted, in the day and month in which it ended. `left`: it had waited in a lane.
function settle(id, tenant, lane, left)
  if left then
    local name = key('drained', int(math.floor(now / DRAIN_SLOT)))
    redis.call('HINCRBY', name, lane, 1)
    redis.call('EXPIRE', name, 90)
  end
  local job = job_fields(id, 'user', 'reserve_nano', 'reserve_tokens', 'bill')
  local user = job[1] or ''
  local mine = 'u:' .. user
  if job[2] then
    local reserved = key('reserved', tenant)
    release(reserved, mine .. ':j', 1)
    for _, place in ipairs({'t', mine}) do
      release(reserved, field(place).nano, tonumber(job[2]))
      release(reserved, field(place).tokens, tonumber(job[3] or '0'))
    end
  end
  local bill = job[4] and cjson.decode(job[4])
  if not bill or (bill.n <= 0 and bill.k <= 0) then return end

  local account = redis.call('HMGET', key('account', tenant), 't', mine, 'u:*')
  local scopes = {{name = 'tenant', place = 't', allows = account[1]},
    {name = 'user', place = mine, allows = account[2] or account[3]}}
  for at, period in ipairs(periods()) do
    local name = key('spent', tenant, period)
    for _, scope in ipairs(scopes) do
      local allows = scope.allows and cjson.decode(scope.allows)
      for unit, amount in pairs({nano = bill.n, tokens = bill.k}) do
        local total = redis.call('HINCRBY', name, field(scope.place)[unit], int(amount))
        local limit = allows and allows[PERIODS[at][unit]] or -1
        if limit > 0 and total >= limit * WARN_AT then
          tell(name, 'w:' .. scope.place .. ':' .. unit, 'budget.threshold', tenant,
            scope.name == 'user' and user or '',
            {scope = scope.name, unit = unit, period = PERIODS[at].name, limit = limit,
              spent = total, percent = math.floor(100 * total / limit)})
        end
      end
    end
    keep(name, period)
  end
end
