"""Lua that runs inside Redis, where several steps must be one."""

EPOCH = """
-- KEYS[1]  where the epoch is kept        ARGV[1]  a random word for a new one
-- The server's run id is part of it: a restored snapshot brings the key back, but not the run id.
local info = redis.pcall('INFO', 'server')
local run_id = type(info) == 'string' and string.match(info, 'run_id:(%w+)') or 'unknown'
local epoch = redis.call('GET', KEYS[1])
if not epoch or string.sub(epoch, 1, #run_id) ~= run_id then
    epoch = run_id .. ':' .. ARGV[1]
    redis.call('SET', KEYS[1], epoch)
end
return epoch
"""

PUSH = """
-- KEYS[1]  the job's hash   KEYS[2]  the queue's list   KEYS[3]  the set of all queues
-- ARGV[1]  RPUSH, or LPUSH for the front   ARGV[2]  the job's id   ARGV[3…]  fields and values of the hash
if redis.call('EXISTS', KEYS[1]) == 1 then
    return 0
end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
redis.call('SADD', KEYS[3], KEYS[2])
redis.call(ARGV[1], KEYS[2], ARGV[2])
return 1
"""
