"""An engine that does what jobs need in order to run, and nothing else: it has none of the capabilities."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from uuid import UUID

import redis
from django.conf import settings

from django_jobs.engines.base import BaseEngine, Delivery
from django_jobs.engines.rq.connections import masked_url, reached


class BareEngine(BaseEngine):
    name = "bare"
    queues_setting = "BARE_QUEUES"

    def servers(self) -> Mapping[str, Sequence[str]]:
        return {f"bare+{masked_url(_client('letters'))}": list(settings.BARE_QUEUES)}

    def default_timeout_seconds(self, queue: str) -> int | None:
        return None

    def epoch(self, queue: str) -> str:
        with _asked(queue) as client:
            return str(client.info("server")["run_id"])

    def push(self, deliveries: Sequence[Delivery]) -> str:
        for delivery in deliveries:
            with _asked(delivery.queue) as client:
                if client.sadd("bare:known", delivery.id):
                    client.rpush(f"bare:{delivery.queue}", delivery.id)
        return self.epoch(deliveries[0].queue)

    def foremost(self, queue: str, most: int) -> Collection[str]:
        with _asked(queue) as client:
            return {item.decode() for item in client.lrange(f"bare:{queue}", 0, most - 1)}

    def absent(self, queue: str, deliveries: Sequence[Delivery]) -> Collection[Delivery]:
        there = self.foremost(queue, 0)  # All of it.
        return [delivery for delivery in deliveries if delivery.id not in there]

    def witness(self, queue: str, worker_id: UUID) -> None:
        with _asked(queue) as client:
            client.set(f"bare:witness:{worker_id}", 1, ex=15)

    def witnessed(self, queue: str, worker_ids: Collection[UUID]) -> Collection[UUID]:
        with _asked(queue) as client:
            return [each for each in worker_ids if client.exists(f"bare:witness:{each}")]


def _client(queue: str) -> redis.Redis:
    return redis.Redis.from_url(settings.BARE_QUEUES[queue], socket_timeout=1, socket_connect_timeout=1)


def _asked(queue: str) -> AbstractContextManager[redis.Redis]:
    return reached(_client(queue))
