"""What a server tells of itself, read in two round trips; nothing of it is changed."""

import errno
import json
import re
import socket
import ssl
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from redis import Redis, RedisError
from redis.exceptions import AuthenticationError, BusyLoadingError, InvalidResponse
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq import Queue, Worker
from rq.defaults import RQ_KEY_PREFIX
from rq.job import Job
from rq.registry import FailedJobRegistry
from rq.suspension import WORKERS_SUSPENDED
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from ..base import QueueFacts, ServerFacts, parse_delivery_id
from . import parking
from .connections import impatient_client, masked_url
from .plain import unpacked

OLDEST_REDIS = (6, 2)
MOST_WORKERS = 100
MOST_DELIVERIES = 20
"""of each queue: the oldest that wait, and the newest that a worker has refused"""
MOST_DELIVERIES_IN_ALL = 1_000


def examine(queues: Sequence[str], epoch_key: str) -> ServerFacts:
    """The facts of the server that holds these queues, or why there are none."""
    client = impatient_client(queues[0])
    try:
        return _ask(client, queues, epoch_key)
    except (RedisError, OSError) as error:
        unknown = {queue: QueueFacts() for queue in queues}
        return ServerFacts(masked_url(client), unknown, trouble=_trouble(error), message=str(error))


def _ask(client: Redis, queues: Sequence[str], epoch_key: str) -> ServerFacts:
    with client.pipeline(transaction=False) as pipeline:
        pipeline.info()
        pipeline.get(epoch_key)
        pipeline.exists(WORKERS_SUSPENDED)
        pipeline.lrange(parking.PARKED_KEY, 0, parking.MOST_PARKED - 1)
        for queue in queues:
            pipeline.srandmember(WORKERS_BY_QUEUE_KEY % queue, MOST_WORKERS)
            pipeline.lrange(f"{Queue.redis_queue_namespace_prefix}{queue}", 0, MOST_DELIVERIES - 1)
            failed = FailedJobRegistry.key_template.format(queue)
            pipeline.zrevrange(failed, 0, MOST_DELIVERIES - 1)
        info, epoch, suspended, parked, *told = map(_reply, pipeline.execute(raise_on_error=False))
    registered = dict(zip(queues, map(_texts, told[::3]), strict=True))
    sample = dict(zip(queues, map(_deliveries, told[1::3], told[2::3]), strict=True))
    keys = sorted(set().union(*registered.values()))
    sought = list(islice((item for items in sample.values() for item in items), MOST_DELIVERIES_IN_ALL))
    with client.pipeline(transaction=False) as pipeline:
        pipeline.time()
        for key in keys:
            pipeline.exists(key)  # What stands in the set of workers may have ended long ago.
        for delivery_id in sought:
            pipeline.hget(Job.key_for(delivery_id), "data")
        began, asked_at = time.monotonic(), time.time()
        clock, *replies = map(_reply, pipeline.execute(raise_on_error=False))
        latency = time.monotonic() - began
    alive = {key for key, exists in zip(keys, replies, strict=False) if exists}
    installation = dict(zip(sought, map(installation_of, replies[len(keys) :]), strict=True))
    parked_on = parking.read(parked or ())
    of_each = {
        queue: {each: installation.get(each, "") for each in sample[queue]} | parked_on.get(queue, {})
        for queue in queues
    }
    facts = {
        queue: QueueFacts(
            workers=sorted(
                key.removeprefix(Worker.redis_worker_namespace_prefix) for key in registered[queue] & alive
            ),
            installations=Counter(filter(None, of_each[queue].values())),
        )
        for queue in queues
    }
    info = info or {}
    kind = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version") or info.get("redis_version")
    return ServerFacts(
        address=masked_url(client),
        queues=facts,
        version=f"{kind} {version}" if version else "",
        lacks=what_lacks(str(info.get("redis_version", ""))),
        latency_seconds=latency,
        ahead_seconds=clock[0] + clock[1] / 1e6 - asked_at - latency / 2 if clock else None,
        epoch=_epoch(epoch, info.get("run_id", "")),
        namespace=RQ_KEY_PREFIX,
        suspended=bool(suspended),
        role=str(info.get("role", "")),
        memory_policy=str(info.get("maxmemory_policy", "")),
        used_bytes=info.get("used_memory"),
        most_bytes=info.get("maxmemory"),
        append_only=bool(info["aof_enabled"]) if "aof_enabled" in info else None,
        disk_errors=[
            name
            for name in ("rdb_last_bgsave_status", "aof_last_write_status")
            if info.get(name, "ok") != "ok"
        ],
    )


def what_lacks(redis_version: str) -> str:
    """What a server compatible with this version of Redis does not have and we need, empty if nothing."""
    numbers = tuple(int(number) for number in re.findall(r"\d+", redis_version)[:2])
    return "BLMOVE, which Redis has since 6.2" if numbers and numbers < OLDEST_REDIS else ""


def _reply(reply: Any) -> Any:
    """None for what this user may not ask, or what is of another type."""
    return None if isinstance(reply, Exception) else reply


def _texts(replies: Iterable[bytes] | None) -> set[str]:
    return {reply.decode(errors="replace") for reply in replies or ()}


def _deliveries(*told: Iterable[bytes] | None) -> list[str]:
    ids = (item.decode(errors="replace") for items in told for item in items or ())
    return [item for item in ids if parse_delivery_id(item)]


def _epoch(reply: bytes | None, run_id: str) -> str:
    """The epoch kept there, empty if the server was started anew since: then it is not the present one."""
    epoch = reply.decode(errors="replace") if reply else ""
    return epoch if epoch.startswith(run_id) else ""


def installation_of(data: bytes | None) -> str:
    """Of which installation a delivery is, empty if it does not tell."""
    try:
        _, _, (_, installation), _ = json.loads(unpacked(data or b"", 10_000))
    except (ValueError, TypeError):
        return ""
    return str(installation)


def _trouble(error: BaseException) -> str:
    return next(filter(None, map(_kind, _causes(error))), "other")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what led to it, the first cause first: redis-py tells most of them only in words."""
    if error:
        yield from _causes(error.__cause__ or error.__context__)
        yield error


def _kind(error: BaseException) -> str:
    kinds: list[tuple[type[BaseException] | tuple[type[BaseException], ...], str]] = [
        (ssl.SSLCertVerificationError, "certificate"),
        (TimeoutError, "timeout"),
        (RedisTimeoutError, "timeout"),
        (ssl.SSLError, "closed"),
        (socket.gaierror, "name"),
        (ConnectionRefusedError, "refused"),
        (FileNotFoundError, "no socket"),
        (PermissionError, "permission"),
        ((ConnectionResetError, BrokenPipeError), "closed"),
        (AuthenticationError, "password"),
        (BusyLoadingError, "loading"),
        (InvalidResponse, "no Redis"),
    ]
    for types, kind in kinds:
        if isinstance(error, types):
            return kind
    if getattr(error, "errno", None) in {errno.EHOSTUNREACH, errno.ENETUNREACH}:
        return "timeout"
    words = {
        "max number of clients": "clients",
        "DB index": "database",
        "Connection closed by server": "closed",
        "WRONGPASS": "password",
        "NOAUTH": "password",
    }
    return next((kind for word, kind in words.items() if word in str(error)), "")
