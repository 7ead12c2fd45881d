"""Lua that runs inside Redis, where several steps must be one."""

from functools import cache
from hashlib import sha1

_PRESENT_EPOCH = """
local function seconds()
    local time = redis.pcall('TIME')  -- A user of the server may lack the right to ask.
    return time.err and 0 or tonumber(time[1])
end
-- The server's run id is part of it: a restored snapshot brings the key back, but not the run id.
local function present_epoch(key, word)
    local info = redis.pcall('INFO', 'server')
    local run_id = type(info) == 'string' and string.match(info, 'run_id:(%w+)') or 'unknown'
    local epoch = redis.call('GET', key)
    if not epoch or string.sub(epoch, 1, #run_id) ~= run_id then
        epoch = run_id .. ':' .. word .. ':' .. seconds()
        redis.call('SET', key, epoch)
    end
    return epoch
end
"""

EPOCH = f"""
-- KEYS[1]  where the epoch is kept        ARGV[1]  a random word for a new one
{_PRESENT_EPOCH}
return present_epoch(KEYS[1], ARGV[1])
"""

WITNESSED = f"""
-- KEYS[1]  where the epoch is kept        KEYS[2…]  what each witness stands under
-- ARGV[1]  a random word for a new epoch
-- How many seconds this epoch lasts already, -1 if the server does not tell; then for each witness 1 if it is
-- there, else 0
{_PRESENT_EPOCH}
local began = tonumber(string.match(present_epoch(KEYS[1], ARGV[1]), ':(%d+)$')) or 0
local told = {{seconds() > 0 and seconds() - began or -1}}
for index = 2, #KEYS do
    told[index] = redis.call('EXISTS', KEYS[index])
end
return told
"""

PUSH = """
-- KEYS[1]  the queue's list   KEYS[2]  the set of all queues   KEYS[3…]  the hash of each delivery
-- ARGV[1]  what stands before the id of a delivery in its data   ARGV[2]  what stands after it
-- ARGV[3]  how many fields and values all hashes have in common   ARGV[4…]  these
-- then how many kinds of deliveries there are; of each: RPUSH, or LPUSH for the front; description; timeout
-- then of each delivery: its id; the number of its kind, from 0
local last_common = 3 + ARGV[3]
local kinds = last_common + 2
local own = kinds + 3 * ARGV[last_common + 1]
local pushed = 0
for index = 3, #KEYS do
    if redis.call('EXISTS', KEYS[index]) == 0 then
        local id, kind = ARGV[own], kinds + 3 * ARGV[own + 1]
        redis.call('HSET', KEYS[index], 'data', ARGV[1] .. id .. ARGV[2], 'description', ARGV[kind + 1],
                   'timeout', ARGV[kind + 2], unpack(ARGV, 4, last_common))
        redis.call(ARGV[kind], KEYS[1], id)
        pushed = pushed + 1
    end
    own = own + 2
end
if pushed > 0 then
    redis.call('SADD', KEYS[2], KEYS[1])
end
return pushed
"""

ALL = (EPOCH, PUSH)


@cache
def sha(script: str) -> str:
    """The name under which a server knows a script that it has loaded."""
    return sha1(script.encode(), usedforsecurity=False).hexdigest()
