-- Record how an admitted call ended: free its place, move the circuit, learn the latency.
--
--   KEYS[1]  hash, the target: until, probe, probe_until, pause, ewma, n as in admit.lua, and
--              fails      failures in a row
--              ok, bad    calls in the current window;  since  ms at which the window began
--              opens      openings in a row; each doubles the time open
--              closed_at  ms at which a probe last closed the circuit
--   KEYS[2]  zset, calls in flight
--   KEYS[3]  hash, the rate bucket
-- ARGV[1] JSON: token, probe (it was admitted as one), outcome, latency_ms, pause_ms (0: none), refund (tokens reserved but not
--               used, or negative), jitter (0.9 to 1.1), now (absent: this server's clock), and
--               policy {failures, failure_rate, min_calls, window_ms, open_ms, max_open_ms}
--   outcome: ok        answered
--            healthy   refused this request for its content, or for a rate limit
--            failed    no usable answer
--            fatal     our key or the model's name is wrong: every call will fail
--            released  given up by us; says nothing about the provider
-- Returns 1 if this opened the circuit, 2 if it closed it, else 0.
local it = cjson.decode(ARGV[1])
local policy, c = it.policy, KEYS[1]
local now = it.now
if not now then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end

redis.call('ZREM', KEYS[2], it.token)
if it.refund ~= 0 and redis.call('HEXISTS', KEYS[3], 'k') == 1 then
  redis.call('HINCRBYFLOAT', KEYS[3], 'k', it.refund)
end

local h = redis.call('HMGET', c, 'until', 'probe', 'fails', 'ok', 'bad', 'since', 'opens',
  'closed_at', 'ewma', 'n')
local opened = tonumber(h[1] or 0)
local probing = opened > 0 and h[2] == it.token
local fails, ok, bad = tonumber(h[3] or 0), tonumber(h[4] or 0), tonumber(h[5] or 0)
local since, opens = tonumber(h[6] or now), tonumber(h[7] or 0)
local closed_at = tonumber(h[8] or 0)
local change = 0

if now - since > policy.window_ms then
  ok, bad, since = 0, 0, now
end

if it.pause_ms > 0 then
  redis.call('HSET', c, 'pause', now + it.pause_ms)
end
if it.outcome == 'ok' then
  local n = tonumber(h[10] or 0)
  local ewma = n > 0 and tonumber(h[9]) * 0.8 + it.latency_ms * 0.2 or it.latency_ms
  redis.call('HSET', c, 'ewma', string.format('%.17g', ewma), 'n', n + 1)
end

if it.outcome == 'released' then
  if probing then redis.call('HDEL', c, 'probe', 'probe_until') end
elseif it.outcome == 'ok' or it.outcome == 'healthy' then
  if opened > 0 and it.probe then
    -- Also a probe that outlived its lease: that it was slow does not make its answer untrue.
    redis.call('HDEL', c, 'until', 'probe', 'probe_until', 'fails', 'ok', 'bad', 'since')
    redis.call('HSET', c, 'closed_at', now)
    change = 2
  elseif opened == 0 then
    -- A success that began before the circuit opened says nothing of now, hence only when closed.
    redis.call('HSET', c, 'fails', 0, 'ok', ok + 1, 'bad', bad, 'since', since)
    if opens > 0 and now - closed_at > 2 * policy.open_ms then
      redis.call('HDEL', c, 'opens')
    end
  end
elseif probing or opened == 0 then
  fails, bad = fails + 1, bad + 1
  local calls = ok + bad
  if probing or it.outcome == 'fatal' or fails >= policy.failures
      or (calls >= policy.min_calls and bad / calls >= policy.failure_rate) then
    local open_ms = math.min(policy.open_ms * 2 ^ math.min(opens, 20), policy.max_open_ms)
    redis.call('HDEL', c, 'probe', 'probe_until')
    redis.call('HSET', c, 'until', math.floor(now + open_ms * it.jitter), 'opens', opens + 1,
      'fails', fails, 'ok', 0, 'bad', 0, 'since', now)
    change = 1
  else
    redis.call('HSET', c, 'fails', fails, 'ok', ok, 'bad', bad, 'since', since)
  end
end
redis.call('PEXPIRE', c, 3600000)
return change
