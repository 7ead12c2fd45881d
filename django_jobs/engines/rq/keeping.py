"""What RQ's structures keep of deliveries, found and removed: the queue, the list of what was just taken, the
registry of what runs. RQ itself tidies them only in workers, every ten minutes, and late."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from redis import Redis
from rq.executions import Execution, ExecutionRegistry
from rq.job import Job
from rq.queue import Queue
from rq.registry import StartedJobRegistry
from rq.results import Result

from ...models.workers import installation_id
from ..base import parse_delivery_id
from .examining import installation_of

MOST_LOOKED_THROUGH = 5_000_000
"""How many places of a queue the server goes through at most, in all, for what is to be removed at once."""


def taken(client: Redis, name: str, most: int) -> Collection[str]:
    """From the list of what was just taken, and the registry of what runs, those first whose worker has said
    so least lately."""
    queue = Queue(name, connection=client)
    with client.pipeline(transaction=False) as pipeline:
        pipeline.lrange(queue.intermediate_queue_key, 0, most - 1)
        pipeline.zrange(StartedJobRegistry(name, connection=client).key, 0, most - 1)
        return _deliveries(pipeline.execute())


def kept(client: Redis, name: str, start: int, most: int) -> tuple[Collection[str], bool]:
    items = client.lrange(Queue(name, connection=client).key, start, start + most - 1)
    return {*_deliveries([items]), *taken(client, name, most)}, len(items) == most


def discard(client: Redis, name: str, delivery_ids: Collection[str]) -> int:
    queue, started = Queue(name, connection=client), StartedJobRegistry(name, connection=client)
    most = max(1, MOST_LOOKED_THROUGH // max(1, client.llen(queue.key)))
    ours = _ours(client, list(delivery_ids))[:most]
    with client.pipeline(transaction=False) as pipeline:
        for delivery_id in ours:
            pipeline.zrange(ExecutionRegistry(delivery_id, client).key, 0, -1)
        executions = pipeline.execute()
        for delivery_id, execution_ids in zip(ours, executions, strict=True):
            pipeline.lrem(queue.key, 1, delivery_id)
            pipeline.lrem(queue.intermediate_queue_key, 1, delivery_id)
            for execution_id in map(bytes.decode, execution_ids):
                execution = Execution(execution_id, delivery_id, client)
                pipeline.zrem(started.key, execution.composite_key)
                pipeline.delete(execution.key)
            registry = ExecutionRegistry(delivery_id, client).key
            pipeline.delete(Job.key_for(delivery_id), registry, Result.get_key(delivery_id))
        pipeline.execute()
    return len(ours)


def _ours(client: Redis, delivery_ids: Sequence[str]) -> list[str]:
    with client.pipeline(transaction=False) as pipeline:
        for delivery_id in delivery_ids:
            pipeline.hget(Job.key_for(delivery_id), "data")
        told = pipeline.execute()
    mine = str(installation_id())
    return [each for each, data in zip(delivery_ids, told, strict=True) if installation_of(data) == mine]


def _deliveries(replies: Iterable[Iterable[Any]]) -> set[str]:
    items = (item.decode(errors="replace") for reply in replies for item in reply)
    return {job_id for item in items if parse_delivery_id(job_id := item.partition(":")[0])}
