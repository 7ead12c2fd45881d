"""The producer's half of RQ: deliveries into RQ's queues."""

import secrets
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import NoScriptError
from rq.command import send_command
from rq.defaults import RQ_KEY_PREFIX
from rq.job import Job as RQJob
from rq.job import JobStatus
from rq.queue import Queue as RQQueue
from rq.serializers import JSONSerializer
from rq.utils import parse_timeout

from ...conf import settings
from ...environment import DefaultQueues
from ...models.workers import installation_id
from ..base import BaseEngine, Delivery, Seen, ServerFacts, Spot
from . import examining, keeping, plain, scripts
from .connections import declared_queues, impatient_client, masked_url, reached

TRAMPOLINE = "django_jobs.engines.rq.trampoline.run"
EPOCH_KEY = f"{RQ_KEY_PREFIX}:django_jobs:epoch"
PUSHED_AT_ONCE = 100
"""How many deliveries one call of the script pushes, while which the server does nothing else."""
SOUGHT_ONE_BY_ONE = 20
"""How many deliveries the server itself looks for in a queue, which holds it up for as long as that is."""
LOOKED_THROUGH_AT_ONCE = 10_000
"""How many places of a queue are read at a time where more are sought."""
KEPT_AFTER_RUN_SECONDS = 600
"""How long a delivery's hash outlives its run, and a repeated push of it does nothing."""


class RQEngine(BaseEngine):
    name = "rq"
    queues_setting = "RQ_QUEUES"
    supports_stop = True
    supports_at_front = True
    supports_orders = True
    supports_plain_jobs = True
    supports_server_facts = True

    @property
    def declared_in(self) -> str:
        return 'DJANGO_JOBS["QUEUES"]' if isinstance(declared_queues(), DefaultQueues) else "RQ_QUEUES"

    def servers(self) -> Mapping[str, Sequence[str]]:
        grouped: dict[str, list[str]] = {}
        for queue in declared_queues():
            grouped.setdefault(masked_url(impatient_client(queue)), []).append(queue)
        return grouped

    def queue_names(self) -> list[str]:
        return list(declared_queues())

    def configuration_errors(self) -> list[str]:
        errors = []
        for queue in declared_queues():
            try:
                impatient_client(queue)
                self.default_timeout_seconds(queue)
            except ValueError:  # What urllib makes of a URL may tell parts of its password.
                errors.append(
                    f'RQ_QUEUES["{queue}"] is of no use: its URL or a number in it cannot be read. Special '
                    "characters of a password must be percent-encoded."
                )
            except Exception as error:  # noqa: BLE001 - Whatever RQ, django-rq and redis make of it.
                errors.append(f'RQ_QUEUES["{queue}"] is of no use: {type(error).__name__}: {error}')
        return errors

    def default_timeout_seconds(self, queue: str) -> int | None:
        seconds = parse_timeout(declared_queues()[queue].get("DEFAULT_TIMEOUT")) or RQQueue.DEFAULT_TIMEOUT
        return seconds if seconds > 0 else None

    def epoch(self, queue: str) -> str:
        with reached(impatient_client(queue)) as client:
            return _text(client.eval(scripts.EPOCH, 1, EPOCH_KEY, secrets.token_hex(4)))

    def push(self, deliveries: Sequence[Delivery]) -> str:
        with reached(impatient_client(deliveries[0].queue)) as client:
            try:
                return self._push(deliveries, client)
            except NoScriptError:  # A new server, or an old one started anew.
                for script in scripts.ALL:
                    client.script_load(script)
                return self._push(deliveries, client)

    def _push(self, deliveries: Sequence[Delivery], client: Redis) -> str:
        queues: dict[str, list[Delivery]] = {}
        for delivery in deliveries:
            queues.setdefault(delivery.queue, []).append(delivery)
        with client.pipeline(transaction=False) as pipeline:
            # First, so that a server emptied in between is noticed rather than the deliveries missed.
            pipeline.evalsha(scripts.sha(scripts.EPOCH), 1, EPOCH_KEY, secrets.token_hex(4))
            for queue, waiting in queues.items():
                common = _common(queue, client)
                for start in range(0, len(waiting), PUSHED_AT_ONCE):
                    _push_to(queue, waiting[start : start + PUSHED_AT_ONCE], common, pipeline)
            epoch, *_ = pipeline.execute()
        return _text(epoch)

    def foremost(self, queue: str, most: int) -> Collection[str]:
        with reached(impatient_client(queue)) as client:
            return set(map(_text, client.lrange(RQQueue(queue, connection=client).key, 0, most - 1)))

    def absent(self, queue: str, deliveries: Sequence[Delivery]) -> Collection[Delivery]:
        sought = {delivery.id: delivery for delivery in deliveries}
        with reached(impatient_client(queue)) as client:
            key = RQQueue(queue, connection=client).key
            if len(sought) > SOUGHT_ONE_BY_ONE:
                # From its end, as what workers take from its head moves all that is behind.
                for end in range(-1, -client.llen(key) - 1, -LOOKED_THROUGH_AT_ONCE):
                    for item in client.lrange(key, end - LOOKED_THROUGH_AT_ONCE + 1, end):
                        sought.pop(_text(item), None)
            if len(sought) <= SOUGHT_ONE_BY_ONE:
                with client.pipeline(transaction=False) as pipeline:
                    for delivery_id in sought:
                        pipeline.lpos(key, delivery_id)
                    places = pipeline.execute()
                there = [each for each, place in zip(sought, places, strict=True) if place is not None]
                for delivery_id in there:
                    del sought[delivery_id]
        return list(sought.values())

    def withdraw(self, delivery: Delivery) -> None:
        with (
            reached(impatient_client(delivery.queue)) as client,
            client.pipeline(transaction=False) as pipeline,
        ):
            pipeline.lrem(RQQueue(delivery.queue, connection=client).key, 1, delivery.id)
            pipeline.delete(RQJob.key_for(delivery.id))
            pipeline.execute()

    def taken(self, queue: str, most: int) -> Collection[str]:
        with reached(impatient_client(queue)) as client:
            return keeping.taken(client, queue, most)

    def kept(self, queue: str, start: int, most: int) -> tuple[Collection[str], bool]:
        with reached(impatient_client(queue)) as client:
            return keeping.kept(client, queue, start, most)

    def discard(self, queue: str, delivery_ids: Collection[str]) -> int:
        with reached(impatient_client(queue)) as client:
            return keeping.discard(client, queue, delivery_ids)

    def let_expire(self, delivery: Delivery) -> None:
        with reached(impatient_client(delivery.queue)) as client:
            # RQ takes the expiry away when a worker that was slow to begin begins after all.
            client.expire(RQJob.key_for(delivery.id), KEPT_AFTER_RUN_SECONDS)

    def alert(self, worker_name: str, delivery: Delivery) -> None:
        with reached(impatient_client(delivery.queue)) as client:
            send_command(client, worker_name, "stop-job", job_id=delivery.id)

    def witness(self, queue: str, worker_id: UUID) -> None:
        with reached(impatient_client(queue)) as client:
            client.set(_witness_key(worker_id), 1, px=round(settings.LEASE_SECONDS * 1000))

    def witnessed(self, queue: str, worker_ids: Collection[UUID]) -> Collection[UUID]:
        keys = [EPOCH_KEY, *map(_witness_key, worker_ids)]
        with reached(impatient_client(queue)) as client:
            age_seconds, *there = client.eval(scripts.WITNESSED, len(keys), *keys, secrets.token_hex(4))
        if 0 <= age_seconds <= settings.LEASE_SECONDS:  # Less than 0: its clock was set back since.
            return worker_ids
        return [worker_id for worker_id, is_there in zip(worker_ids, there, strict=True) if is_there]

    def examine(self, queues: Sequence[str]) -> ServerFacts:
        return examining.examine(queues, EPOCH_KEY)

    def plain_jobs(self, queues: Sequence[str]) -> Collection[Spot]:
        with reached(impatient_client(queues[0])) as client:
            return plain.spots(client, queues)

    def look_up(self, queues: Mapping[str, str]) -> Mapping[str, Seen]:
        if not queues:
            return {}
        with reached(impatient_client(next(iter(queues.values())))) as client:
            return plain.look_up(client, queues)


def _witness_key(worker_id: UUID) -> str:
    return f"{RQ_KEY_PREFIX}:django_jobs:witness:{worker_id.hex}"


def _text(reply: Any) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)


def _push_to(queue: str, deliveries: Sequence[Delivery], common: list[Any], pipeline: Pipeline) -> None:
    keys = [f"{RQQueue.redis_queue_namespace_prefix}{queue}", RQQueue.redis_queues_keys]
    own: list[Any] = []
    kinds: dict[tuple[Any, ...], int] = {}
    for delivery in deliveries:
        description = f"{delivery.task}(…) attempt {delivery.attempt}"
        kind = ("LPUSH" if delivery.at_front else "RPUSH", description, delivery.timeout_seconds or -1)
        delivery_id = delivery.id
        keys.append(RQJob.key_for(delivery_id))
        own += (delivery_id, kinds.setdefault(kind, len(kinds)))
    # Not compressed, which RQ reads as well: so the script can put the id in.
    call: tuple[Any, ...] = (TRAMPOLINE, None, ("ID", str(installation_id())), {})
    before, after = JSONSerializer.dumps(call).split(b"ID")
    told = [value for kind in kinds for value in kind]
    values = [before, after, len(common), *common, len(kinds), *told, *own]
    pipeline.evalsha(scripts.sha(scripts.PUSH), len(keys), *keys, *values)


def _common(queue: str, client: Redis) -> list[Any]:
    """Fields and values that the hashes of all deliveries on a queue share, as RQ writes them now."""
    job = RQJob.create(
        TRAMPOLINE,
        origin=queue,
        result_ttl=KEPT_AFTER_RUN_SECONDS,
        failure_ttl=KEPT_AFTER_RUN_SECONDS,
        status=JobStatus.QUEUED,
        connection=client,
        serializer=JSONSerializer,
    )
    job.enqueued_at = datetime.now(UTC)
    own = {"data", "description", "timeout"}
    told = {name: value for name, value in job.to_dict().items() if value is not None and name not in own}
    return [item for pair in told.items() for item in pair]
