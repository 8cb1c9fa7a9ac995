-- Take or renew the lock of the scaler's tick.
-- KEYS[1]  lock: its holder          KEYS[2]  token: grows with every new holder
-- ARGV[1]  holder                    ARGV[2]  milliseconds that the lock lives
-- Returns the token, or false while another holds the lock.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return false
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if holder then
  return tonumber(redis.call('GET', KEYS[2]))
end
return redis.call('INCR', KEYS[2])
