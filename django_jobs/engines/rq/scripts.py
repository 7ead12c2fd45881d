"""Lua that runs inside Redis, where several steps must be one."""

from functools import cache
from hashlib import sha1

MOST_AT_ONCE = 500
"""How many values one command inside a script takes: Lua lays them on a stack."""

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

_IS_DELIVERY = """
local function is_delivery(id)
    local hex = string.match(id, '^(%x+)%-%d+%-%d+$')
    return hex and #hex == 32
end
"""

TAKE = f"""
-- KEYS[1]  RQ's mark that all workers are suspended   KEYS[2]  the worker's hash   KEYS[3]  what it runs
-- then of each queue: its list; the list of what was taken of it; the registry of what runs
-- ARGV: the prefix of all keys; how many deliveries to take at most; how many plain jobs; what time it is,
-- for people and in seconds; how many seconds RQ may take these for running; a name for these executions; the
-- worker's name; then for each queue how many to take before the others get what is left
-- Takes what stands first, and returns of each the queue's number, from 1, and the id. Deliveries are noted
-- as started, as RQ does it; plain jobs go to the list of what was taken. A queue whose first job finds no
-- place is left. Nothing that somebody wrote where these notes go may end this once something is taken.
{_IS_DELIVERY}
if redis.call('EXISTS', KEYS[1]) == 1 then
    return redis.status_reply('SUSPENDED')
end
local prefix, room, slots = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time, seconds, ttl, execution, worker = ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7], ARGV[8]
local taken, started, full = {{}}, {{}}, nil
local function note_start(id)
    local job, one = prefix .. ':job:' .. id, id .. ':' .. execution
    redis.pcall('HSET', job, 'status', 'started', 'started_at', time, 'last_heartbeat', time,
               'worker_name', worker)
    redis.pcall('PERSIST', job)
    local key = prefix .. ':execution:' .. one
    redis.pcall('HSET', key, 'id', execution, 'job_id', id, 'created_at', seconds, 'last_heartbeat', seconds,
               'worker_name', worker)
    redis.pcall('EXPIRE', key, ttl)
    redis.pcall('ZADD', prefix .. ':executions:' .. id, seconds + ttl + 60, execution)
    redis.pcall('EXPIRE', prefix .. ':executions:' .. id, ttl + 60)
    return one
end
-- The deliveries that stand first in this list, at most so many and {MOST_AT_ONCE}; nil if there is none.
local function take_deliveries(list, registry, most)
    local first = redis.pcall('LRANGE', list, 0, math.min(most, {MOST_AT_ONCE}) - 1)
    local count = 0
    while not first.err and first[count + 1] and is_delivery(first[count + 1]) do
        count = count + 1
    end
    if count == 0 then
        return nil
    end
    local ids, running = redis.call('LPOP', list, count), {{}}
    for index, id in ipairs(ids) do
        started[#started + 1] = note_start(id)
        running[2 * index - 1], running[2 * index] = seconds + ttl, started[#started]
    end
    redis.pcall('ZADD', registry, unpack(running))
    room = room - count
    return ids
end
local function take(number, most)
    local list, between, registry = KEYS[3 * number + 1], KEYS[3 * number + 2], KEYS[3 * number + 3]
    while most > 0 do
        local ids = room > 0 and take_deliveries(list, registry, math.min(most, room))
        if not ids then
            local id = redis.pcall('LINDEX', list, 0)
            if type(id) ~= 'string' or is_delivery(id) or slots == 0 then
                return  -- Nothing there, no list, no place for it.
            end
            local moved = redis.pcall('LMOVE', list, between, 'LEFT', 'RIGHT')
            if type(moved) ~= 'string' then
                if #taken == 0 and moved and string.find(moved.err or '', 'OOM', 1, true) then
                    full = moved
                end
                return
            end
            slots, ids = slots - 1, {{id}}
        end
        for _, id in ipairs(ids) do
            taken[#taken + 1] = {{number, id}}
        end
        most = most - #ids
    end
end
local queues = (#KEYS - 3) / 3
for number = 1, 2 * queues do
    if number <= queues then
        take(number, tonumber(ARGV[8 + number]))
    else
        take(number - queues, room + slots)
    end
    if full then  -- Its caller takes in another way, also what stands behind.
        return full
    end
end
if #started > 0 then
    for first = 1, #started, {MOST_AT_ONCE} do
        redis.pcall('SADD', KEYS[3], unpack(started, first, math.min(#started, first + {MOST_AT_ONCE} - 1)))
    end
    redis.pcall('EXPIRE', KEYS[3], ttl + 60)
    redis.pcall('HSET', KEYS[2], 'state', 'busy')
end
return taken
"""

FINISH = f"""
-- KEYS[1]  the worker's hash   KEYS[2]  the set of what it runs
-- ARGV: the prefix of all keys; what time it is, for people and in seconds; for how many seconds to keep what
-- has run; how many of each queue to keep at most that finished, and that failed; the worker's name; its
-- state from now on; for how many seconds it worked; then of each: its queue; its id; its execution;
-- 'finished', 'failed', 'stopped', or '' for what has not run and leaves nothing; why it failed, packed as RQ
-- has it
-- Notes the ends of deliveries as RQ does.
{_IS_DELIVERY}
local prefix, time, seconds, worker = ARGV[1], ARGV[2], ARGV[3], ARGV[7]
local kept, most_finished, most_failed = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local types = {{finished = 1, failed = 2, stopped = 3}}
local counts = {{finished = 0, failed = 0, stopped = 0}}
-- What is told of many at once: keys to delete, executions, {{registry: what leaves it}}, what enters it, and
-- how many it keeps.
local gone, ended, out, kept_there, most = {{}}, {{}}, {{}}, {{}}, {{}}
local function gather(where, key, ...)
    where[key] = where[key] or {{}}
    for _, value in ipairs({{...}}) do
        table.insert(where[key], value)
    end
end
local function tell(values, command, ...)  -- The values follow what is given here.
    local told = {{command, ...}}
    local before = #told
    for index, value in ipairs(values) do
        told[#told + 1] = value
        if index == #values or index % {MOST_AT_ONCE} == 0 then
            redis.pcall(unpack(told))
            told = {{unpack(told, 1, before)}}
        end
    end
end
local function trim(registry, added)
    local size = redis.pcall('ZCARD', registry)
    local excess = type(size) == 'number' and math.min(size - most[registry], added + {MOST_AT_ONCE}) or 0
    if excess <= 0 then
        return
    end
    local oldest = {{}}
    for _, id in ipairs(redis.call('ZRANGE', registry, 0, excess + 299)) do  -- Plain jobs stay.
        if #oldest < excess and is_delivery(id) then
            oldest[#oldest + 1] = id
            redis.pcall('DEL', prefix .. ':job:' .. id, prefix .. ':results:' .. id)
        end
    end
    tell(oldest, 'ZREM', registry)
end
for index = 10, #ARGV, 5 do
    local queue, id, execution = ARGV[index], ARGV[index + 1], ARGV[index + 2]
    local status, reason = ARGV[index + 3], ARGV[index + 4]
    local job, one, results = prefix .. ':job:' .. id, id .. ':' .. execution, prefix .. ':results:' .. id
    local began = redis.pcall('HGET', prefix .. ':execution:' .. one, 'created_at')
    began = type(began) == 'string' and began or seconds
    gone[#gone + 1], gone[#gone + 2] = prefix .. ':execution:' .. one, prefix .. ':executions:' .. id
    ended[#ended + 1] = one
    gather(out, prefix .. ':wip:' .. queue, one)
    if status == '' then
        gone[#gone + 1] = job
    elseif redis.call('EXISTS', job) == 1 then
        redis.pcall('HSET', job, 'status', status, 'ended_at', time)
        redis.pcall('EXPIRE', job, kept)
        redis.pcall('XADD', results, '*', 'type', types[status], 'worker_name', worker,
                   'execution_id', execution, 'execution_started_at', began, 'execution_ended_at', seconds,
                   unpack(reason ~= '' and {{'exc_string', reason}} or {{}}))
        redis.pcall('EXPIRE', results, kept)
        local went_well = status == 'finished'
        local registry = prefix .. (went_well and ':finished:' or ':failed:') .. queue
        gather(kept_there, registry, seconds + kept, id)
        most[registry] = went_well and most_finished or most_failed
    end
    if status ~= '' then
        counts[status] = counts[status] + 1
    end
end
tell(gone, 'DEL')
tell(ended, 'SREM', KEYS[2])
for registry, ones in pairs(out) do
    tell(ones, 'ZREM', registry)
end
for registry, told in pairs(kept_there) do
    tell(told, 'ZADD', registry)
    trim(registry, #told / 2)
end
if redis.call('EXISTS', KEYS[1]) == 1 then
    if counts.finished > 0 then
        redis.pcall('HINCRBY', KEYS[1], 'successful_job_count', counts.finished)
    end
    if counts.failed + counts.stopped > 0 then
        redis.pcall('HINCRBY', KEYS[1], 'failed_job_count', counts.failed + counts.stopped)
    end
    redis.pcall('HINCRBYFLOAT', KEYS[1], 'total_working_time', ARGV[9])
    redis.pcall('HSET', KEYS[1], 'state', ARGV[8])
end
return #ARGV
"""

ALL = (EPOCH, PUSH, TAKE, FINISH)


@cache
def sha(script: str) -> str:
    """The name under which a server knows a script that it has loaded."""
    return sha1(script.encode(), usedforsecurity=False).hexdigest()
