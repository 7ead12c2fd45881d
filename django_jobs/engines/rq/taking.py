"""A worker's hand in RQ's queues: take many jobs at once, note what became of deliveries, wait for what
arrives.

RQ's structures then tell what RQ's own tools expect of jobs that run and have run.
"""

import logging
import zlib
from base64 import b64encode
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from redis import Redis, RedisError
from redis.exceptions import NoScriptError, OutOfMemoryError, ResponseError
from rq.defaults import RQ_KEY_PREFIX
from rq.executions import WORKER_EXECUTIONS_KEY_TEMPLATE
from rq.job import Job as RQJob
from rq.queue import Queue as RQQueue
from rq.registry import StartedJobRegistry
from rq.suspension import WORKERS_SUSPENDED
from rq.utils import utcformat

from ...models.workers import installation_id
from ..base import parse_delivery_id
from . import scripts
from .engine import KEPT_AFTER_RUN_SECONDS
from .examining import installation_of

MOST_FINISHED_KEPT, MOST_FAILED_KEPT = 1_000, 10_000
"""How many deliveries of a queue that have run RQ's structures keep at most. More finished ones would push
what the server works on out of the processor's caches; few look for one there."""
COUNTS_AS_ALIVE_SECONDS = 90
"""How long RQ takes an execution for running after the worker has last said so."""
SUSPENDED = "SUSPENDED"

FINISHED, FAILED, STOPPED, DROPPED = "finished", "failed", "stopped", ""
"""What RQ is told of a delivery's end; dropped is one that has not run."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken from a queue: the id of a delivery, or of a plain job."""

    queue: str
    id: str
    execution: str = ""


@dataclass(frozen=True, slots=True)
class End:
    taken: Taken
    status: str
    reason: str = ""


class Taking:
    """The queues of one worker, in its order, on its own connection."""

    def __init__(self, client: Redis, queues: Sequence[RQQueue], worker_name: str, worker_key: str) -> None:
        self._client, self._queues = client, queues
        self._worker_name, self._worker_key = worker_name, worker_key
        self._executions_key = WORKER_EXECUTIONS_KEY_TEMPLATE.format(worker_name)
        # What was asked and is not answered:
        self._line: Any = None
        self._steps: list[tuple[str, list[Any]]] = []  # Each script with its keys and arguments.
        self._takes = False
        self._asked: Sequence[RQQueue] = ()
        self._execution = ""

    def ask(
        self,
        ends: Sequence[End],
        *,
        room: int,
        slots: int,
        execution: str,
        quotas: Sequence[int],
        is_busy: bool,
        worked_seconds: float,
        paused: Collection[str] = (),
        order: Sequence[RQQueue] | None = None,
    ) -> None:
        """Note these ends, and take up to `room` deliveries and `slots` plain jobs, in one round trip, which
        ends with `answer()`. The server works meanwhile.

        `quotas`: how many each queue gives before the others give what is left; `order`: another one of the
        queues for this time, and of their quotas. Raises `RedisError` and `OSError`.
        """
        order = order or self._queues
        quotas = [quota for queue, quota in zip(order, quotas, strict=True) if queue.name not in paused]
        self._asked = [queue for queue in order if queue.name not in paused]
        self._takes, self._execution = bool(self._asked) and (room > 0 or slots > 0), execution
        self._steps = []
        if ends:
            self._steps.append((scripts.FINISH, self._finishing(ends, is_busy, worked_seconds)))
        if self._takes:
            self._steps.append((scripts.TAKE, self._taking(self._asked, room, slots, execution, quotas)))
        if self._steps:
            self._line = self._client.connection_pool.get_connection()
            try:
                self._line.send_packed_command(
                    self._line.pack_commands(
                        ("EVALSHA", scripts.sha(script), *told) for script, told in self._steps
                    )
                )
            except BaseException:
                self._hang_up(broken=True)
                raise

    def answer(self) -> list[Taken] | None:
        """What was taken; None if RQ's workers are told to take nothing. Raises `RedisError` and
        `OSError`."""
        replies = self._replies()
        if not self._takes:
            return []
        if replies[-1] == SUSPENDED.encode() or replies[-1] == SUSPENDED:
            return None
        return [
            Taken(self._asked[number - 1].name, _text(item), self._execution) for number, item in replies[-1]
        ]

    def take_from_full_server(self, most: int, looked_through: int) -> list[Taken]:
        """Deliveries, taken as a server lets take that has no room even for notes. Plain jobs stay: without
        RQ's record they would be lost."""
        taken: list[Taken] = []
        for queue in self._queues:
            for item in map(_text, self._client.lrange(queue.key, 0, looked_through - 1)):
                if len(taken) == most:
                    return taken
                if parse_delivery_id(item) and self._client.lrem(queue.key, 1, item):
                    taken.append(Taken(queue.name, item))
        return taken

    def forget(self, ends: Sequence[End]) -> None:
        """Remove what the server has of deliveries that have ended, where it has no room for more than
        that."""
        with suppress(RedisError), self._client.pipeline(transaction=False) as pipeline:
            for end in ends:
                one = f"{end.taken.id}:{end.taken.execution}"
                pipeline.delete(RQJob.key_for(end.taken.id), f"{RQ_KEY_PREFIX}:execution:{one}")
                pipeline.delete(f"{RQ_KEY_PREFIX}:executions:{end.taken.id}")
                pipeline.zrem(StartedJobRegistry.key_template.format(end.taken.queue), one)
                pipeline.srem(self._executions_key, one)
            pipeline.execute()

    def put_back(self, taken: Sequence[Taken]) -> None:
        """Let others have deliveries that were taken and not claimed, in their places."""
        with self._client.pipeline() as pipeline:
            for each in reversed(taken):
                one = f"{each.id}:{each.execution}"
                pipeline.hset(RQJob.key_for(each.id), "status", "queued")
                pipeline.delete(f"{RQ_KEY_PREFIX}:execution:{one}", f"{RQ_KEY_PREFIX}:executions:{each.id}")
                pipeline.zrem(StartedJobRegistry.key_template.format(each.queue), one)
                pipeline.srem(self._executions_key, one)
                pipeline.lpush(f"{RQQueue.redis_queue_namespace_prefix}{each.queue}", each.id)
            pipeline.execute()

    def say_they_run(self, taken: Sequence[Taken]) -> None:
        """Have RQ take these for running for another while."""
        now = datetime.now(UTC)
        with self._client.pipeline(transaction=False) as pipeline:
            for each in taken:
                one = f"{each.id}:{each.execution}"
                key, seconds = f"{RQ_KEY_PREFIX}:execution:{one}", now.timestamp()
                pipeline.hset(key, "last_heartbeat", str(seconds))
                pipeline.expire(key, COUNTS_AS_ALIVE_SECONDS)
                until = seconds + COUNTS_AS_ALIVE_SECONDS
                pipeline.zadd(StartedJobRegistry.key_template.format(each.queue), {one: until}, xx=True)
                registry = f"{RQ_KEY_PREFIX}:executions:{each.id}"
                pipeline.zadd(registry, {each.execution: until + 60}, xx=True)
                pipeline.expire(registry, COUNTS_AS_ALIVE_SECONDS + 60)
                pipeline.hset(RQJob.key_for(each.id), "last_heartbeat", utcformat(now))
            pipeline.execute()

    def _replies(self) -> list[Any]:
        """What each script answers. One that the server does not know, a new one or one started anew, is
        told."""
        if self._line is None:
            return []
        replies: list[Any] = []
        try:
            for _ in self._steps:
                try:
                    replies.append(self._line.read_response())
                except ResponseError as error:
                    replies.append(error)
        except BaseException:
            self._hang_up(broken=True)
            raise
        self._hang_up()
        for number, (script, told) in enumerate(self._steps):
            if isinstance(replies[number], NoScriptError):
                replies[number] = self._client.eval(script, *told)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def _hang_up(self, *, broken: bool = False) -> None:
        line, self._line = self._line, None
        if broken:
            line.disconnect()
        self._client.connection_pool.release(line)

    def _taking(
        self, queues: Sequence[RQQueue], room: int, slots: int, execution: str, quotas: Sequence[int]
    ) -> list[Any]:
        keys = [WORKERS_SUSPENDED, self._worker_key, self._executions_key]
        for queue in queues:
            registry = StartedJobRegistry.key_template.format(queue.name)
            keys += [queue.key, queue.intermediate_queue_key, registry]
        now = datetime.now(UTC)
        told = [
            RQ_KEY_PREFIX,
            room,
            slots,
            utcformat(now),
            str(now.timestamp()),
            COUNTS_AS_ALIVE_SECONDS,
            execution,
            self._worker_name,
        ]
        return [len(keys), *keys, *told, *quotas]

    def _finishing(self, ends: Sequence[End], is_busy: bool, worked_seconds: float) -> list[Any]:
        now = datetime.now(UTC)
        told: list[Any] = [
            RQ_KEY_PREFIX,
            utcformat(now),
            str(now.timestamp()),
            KEPT_AFTER_RUN_SECONDS,
            MOST_FINISHED_KEPT,
            MOST_FAILED_KEPT,
            self._worker_name,
            "busy" if is_busy else "idle",
            f"{worked_seconds:.6f}",
        ]
        for end in ends:
            reason = b64encode(zlib.compress(end.reason.encode())) if end.reason else ""
            told += [end.taken.queue, end.taken.id, end.taken.execution, end.status, reason]
        return [2, self._worker_key, self._executions_key, *told]


class Arrivals:
    """Tells when something stands in a queue, and leaves it there.

    One connection for each queue, on which the server answers once there is something. Moving the first item
    of a list to where it is needs no second step, at which it could be lost.
    """

    ASK_AGAIN_SECONDS = 5
    """Not for ever, as a connection may end without a word."""

    def __init__(self, client: Redis, queues: Sequence[RQQueue]) -> None:
        self._pool = client.connection_pool
        self._keys = {queue.name: queue.key for queue in queues}
        self._connections: dict[str, Any] = {}
        self._asked: set[str] = set()

    def ask(self, paused: Collection[str]) -> None:
        """Be told of whatever stands in the queues that are not paused. Raises `RedisError` and `OSError`."""
        for name, key in self._keys.items():
            if key not in self._asked and name not in paused:
                connection = self._connections.get(key)
                if connection is None:
                    connection = self._connections[key] = self._pool.make_connection()
                    connection.connect()
                connection.send_command("BLMOVE", key, key, "LEFT", "LEFT", self.ASK_AGAIN_SECONDS)
                self._asked.add(key)

    def sockets(self) -> Iterator[Any]:
        """Those on which an answer may come."""
        return (self._connections[key]._sock for key in self._asked)

    def heard(self, readable: Collection[Any]) -> bool:
        """Take the answers there; True if something stands in a queue. Raises `RedisError` and `OSError`."""
        found = False
        for key in list(self._asked):
            connection = self._connections[key]
            if connection._sock in readable:
                self._asked.discard(key)
                found |= connection.read_response() is not None
        return found

    def forget(self) -> None:
        """Begin anew, after an error."""
        for connection in self._connections.values():
            with suppress(Exception):
                connection.disconnect()
        self._connections.clear()
        self._asked.clear()


def other_installation(client: Redis, delivery_id: str) -> str:
    """Of which installation a delivery is, empty if it is of this one, or tells none."""
    data = client.hget(RQJob.key_for(delivery_id), "data")
    told = installation_of(data if isinstance(data, bytes) else None)
    return "" if told == str(installation_id()) else told


def is_full(error: Exception) -> bool:
    return isinstance(error, OutOfMemoryError) or "OOM" in str(error)


def _text(item: Any) -> str:
    return item.decode(errors="replace") if isinstance(item, bytes) else str(item)
