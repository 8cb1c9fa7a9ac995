-- Choose the first candidate that may be called now, and reserve its place.
--
-- Three keys for each candidate i (from 1), each expiring after its last use:
--   KEYS[3i-2]  hash, the target:  until        ms; the circuit is open until then (absent: closed)
--                                  probe        token of the call that probes the half-open circuit
--                                  probe_until  ms; the probe's lease
--                                  pause        ms; the provider asked us to wait until then
--                                  ewma, n      latency in ms, smoothed; how many calls it rests on
--                                  fails, opens, ok, bad, since, closed_at: see record.lua
--   KEYS[3i-1]  zset, calls in flight: token -> ms at which its lease ends
--   KEYS[3i]    hash, the rate bucket: r requests left, k tokens left, ts ms of that
-- ARGV[1] JSON: token, lease_ms, probe_ms (a probe's lease), tokens (estimated, of this call), order (given | latency |
--               least_busy), dry (true: reserve nothing), now (ms; absent: this server's clock),
--               candidates [{rpm, tpm}] (0: no limit)
-- Returns {chosen (0: none), 1 if it is a probe, then for each one passed over: candidate,
--          reason (1 circuit open, 2 rate limited, 3 paused by the provider), wait in ms}
local ask = cjson.decode(ARGV[1])
local now = ask.now
if not now then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end

-- What is left in a bucket of `limit` a minute: a burst of a quarter, the rest flowing evenly, so
-- that no 60 seconds hold more than `limit`.
local function bucket(limit, left, since)
  local burst = math.max(1, limit / 4)
  local rate = (limit - burst + 1) / 60000
  left = left and math.min(burst, tonumber(left) + (now - since) * rate) or burst
  return left, burst, rate
end

local seen, order = {}, {}
for i = 1, #ask.candidates do
  local h = redis.call('HMGET', KEYS[3 * i - 2],
    'until', 'probe_until', 'pause', 'ewma')
  local score = 0
  if ask.order == 'least_busy' then
    redis.call('ZREMRANGEBYSCORE', KEYS[3 * i - 1], '-inf', now)
    score = redis.call('ZCARD', KEYS[3 * i - 1])
  elseif ask.order == 'latency' then
    score = tonumber(h[4] or 0)  -- one never measured comes first, and is measured by that
  end
  seen[i] = {opened = tonumber(h[1] or 0), probing = tonumber(h[2] or 0),
             pause = tonumber(h[3] or 0), score = score}
  order[i] = i
end
table.sort(order, function(a, b)
  if seen[a].score ~= seen[b].score then return seen[a].score < seen[b].score end
  return a < b
end)

local passed = {}
local function pass(i, reason, wait)
  passed[#passed + 1] = i
  passed[#passed + 1] = reason
  passed[#passed + 1] = math.ceil(wait)
end

for _, i in ipairs(order) do
  local target, limits, c = seen[i], ask.candidates[i], KEYS[3 * i - 2]
  if target.opened > now then
    pass(i, 1, target.opened - now)
  elseif target.opened > 0 and target.probing > now then
    pass(i, 1, math.min(target.probing - now, 1000))  -- the probe may end sooner than its lease
  elseif target.pause > now then
    pass(i, 3, target.pause - now)
  else
    local wait, r, k = 0, nil, nil
    if limits.rpm > 0 or limits.tpm > 0 then
      local b = redis.call('HMGET', KEYS[3 * i], 'r', 'k', 'ts')
      local since = tonumber(b[3] or now)
      if limits.rpm > 0 then
        local left, _, rate = bucket(limits.rpm, b[1], since)
        r = left
        if left < 1 then wait = (1 - left) / rate end
      end
      if limits.tpm > 0 then
        local left, burst, rate = bucket(limits.tpm, b[2], since)
        k = left
        -- A call larger than the burst may go when the bucket is full, and leaves a debt.
        local need = math.min(ask.tokens, burst)
        if left < need then wait = math.max(wait, (need - left) / rate) end
      end
    end
    if wait > 0 then
      pass(i, 2, wait)
    else
      local probe = target.opened > 0 and 1 or 0
      if not ask.dry then
        if r or k then
          redis.call('HSET', KEYS[3 * i], 'ts', now)
          if r then redis.call('HSET', KEYS[3 * i], 'r', string.format('%.17g', r - 1)) end
          if k then redis.call('HSET', KEYS[3 * i], 'k', string.format('%.17g', k - ask.tokens)) end
          redis.call('PEXPIRE', KEYS[3 * i], 3600000)
        end
        if probe == 1 then
          redis.call('HSET', c, 'probe', ask.token, 'probe_until', now + ask.probe_ms)
          redis.call('PEXPIRE', c, 3600000)
        end
        redis.call('ZADD', KEYS[3 * i - 1], now + ask.lease_ms, ask.token)
        redis.call('PEXPIRE', KEYS[3 * i - 1], 3600000)
      end
      table.insert(passed, 1, probe)
      table.insert(passed, 1, i)
      return passed
    end
  end
end
table.insert(passed, 1, 0)
table.insert(passed, 1, 0)
return passed
