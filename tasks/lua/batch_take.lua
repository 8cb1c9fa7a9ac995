-- Take slices of a batch for publishing: as many as the tenant's open jobs leave room for.
-- A slice that was taken and does not come to be expanded can be taken again later.
--
-- ARGV[3] id   ARGV[4] most open jobs of the tenant   ARGV[5] lines of a slice
-- ARGV[6] ms until a taken slice can be taken again   ARGV[7] most slices
-- Returns the numbers of the slices.
local id = ARGV[3]
local batch = redis.call('HMGET', key('batch', id), 'tenant', 'state')
if batch[2] ~= 'in_progress' then return {} end
local pending = key('batch', id, 'pending')
local size = tonumber(ARGV[5])
local open = tonumber(redis.call('HGET', key('open'), batch[1]) or '0')
local under_way = redis.call('ZCOUNT', pending, '(' .. int(now), '+inf')
local room = math.ceil((tonumber(ARGV[4]) - open) / size) - under_way
room = math.min(room, tonumber(ARGV[7]))
if room <= 0 then return {} end
local slices = redis.call('ZRANGEBYSCORE', pending, '-inf', int(now), 'LIMIT', 0, room)
for _, slice in ipairs(slices) do
  redis.call('ZADD', pending, int(now + ARGV[6]), slice)
end
return slices
