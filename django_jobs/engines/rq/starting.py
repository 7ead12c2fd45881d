"""Makes a worker of `JobsWorker` from queue names and django-rq's configuration."""

import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

from django.db import Error, connections, router
from django_rq.jobs import get_job_class
from django_rq.queues import get_queues
from django_rq.workers import get_exception_handlers
from redis import Redis, RedisError
from rq.serializers import JSONSerializer

from ...exceptions import UnknownQueue
from ...models import Worker
from ...patience import limit_connecting
from ...processes import identity
from ..base import ServerFacts, parse_delivery_id
from . import trampoline
from .connections import impatient_client, masked_url
from .engine import TRAMPOLINE, RQEngine
from .observing import InertMixin, refuses_plain
from .robust import LONGEST_BLOCK_SECONDS
from .worker import JobsWorker

logger = logging.getLogger(__name__)


def make_worker(
    queue_names: Sequence[str],
    *,
    run_maintainer: Callable[[int], None] | None,
    worker_class: type[JobsWorker] = JobsWorker,
    **options: Any,
) -> JobsWorker:
    """A worker for these queues, all declared ones if none is named.

    Takes the options of RQ's `Worker`, and classes as paths or None for the configured ones. Waits for
    the server of the queues; raises `UnknownQueue`, and `ValueError` for queues of several servers or of one
    that is of no use.
    """
    names = _on_one_server(queue_names)
    _wait_for_server(names[0])
    _check_server(RQEngine().examine(names))
    limit_connecting(router.db_for_write(Worker))
    _wait_for_database()
    chosen = get_job_class(options.pop("job_class", None))
    mixins = (InertMixin, DeliveryMixin) if refuses_plain() else (DeliveryMixin,)
    job_class = type(chosen.__name__, (*mixins, chosen), {"__module__": __name__})
    if name := options.pop("name", None):
        _free_name(name, impatient_client(names[0]))
    queues = get_queues(*names, job_class=job_class, queue_class=options.pop("queue_class", None))
    worker = worker_class(
        queues,
        name=name or f"{socket.gethostname()}.{os.getpid()}.{uuid4().hex[:6]}",
        connection=queues[0].connection,
        exception_handlers=get_exception_handlers() or None,
        job_class=job_class,
        queue_class=type(queues[0]),
        job_monitoring_interval=LONGEST_BLOCK_SECONDS,
        **options,
    )
    worker.run_maintainer = run_maintainer
    return worker


class DeliveryMixin:
    """A job class of RQ that reads our deliveries as the JSON they are, whatever the worker's serializer."""

    def __init__(self, id: str | None = None, connection: Any = None, serializer: Any = None) -> None:  # noqa: A002
        if id is not None and parse_delivery_id(id):
            serializer = JSONSerializer
        super().__init__(id, connection, serializer)  # type: ignore[call-arg]

    def perform(self) -> Any:
        if parse_delivery_id(self.id) and self.func_name != TRAMPOLINE:  # type: ignore[attr-defined]
            raise trampoline.ForeignDelivery(f"{self.id} is the id of a delivery, but would not run one.")  # type: ignore[attr-defined]
        return super().perform()  # type: ignore[misc]


def _on_one_server(queue_names: Sequence[str]) -> list[str]:
    engine = RQEngine()
    for name in queue_names:
        engine.check_queue(name)
    names = list(dict.fromkeys(queue_names)) or engine.queue_names()
    if not names:
        raise UnknownQueue("No queue is declared; add one to RQ_QUEUES.")
    servers = {server: queues for server, queues in engine.servers().items() if set(queues) & set(names)}
    if len(servers) > 1:
        told = "; ".join(f"{', '.join(queues)} on {server}" for server, queues in servers.items())
        raise ValueError(f"One worker works on queues of one server; start one for each: {told}.")
    return names


def _check_server(facts: ServerFacts) -> None:
    if facts.lacks:
        raise ValueError(f"{facts.address} is {facts.version} and lacks {facts.lacks}.")
    remedy = "set its maxmemory-policy to noeviction, and give a cache a server of its own"
    if facts.deletes_any_keys:
        raise ValueError(
            f"{facts.address} deletes any keys when its memory is full ({facts.memory_policy}), even "
            f"queues. Workers do not start on it; {remedy}."
        )
    if facts.deletes_expiring_keys:
        logger.warning(
            "%s deletes keys with an expiry when its memory is full (%s), as those of workers are; %s.",
            facts.address,
            facts.memory_policy,
            remedy,
        )


def _free_name(name: str, client: Redis) -> None:
    """Raise `ValueError` if a worker of this name lives; forget RQ's entry of one of ours that does not."""
    namesakes = Worker.objects.filter(name=name)
    for worker in namesakes.alive():
        if worker.hostname != socket.gethostname() or identity(worker.pid) == worker.process:
            raise ValueError(
                f'A worker named "{name}" runs on {worker.hostname} (pid {worker.pid}); choose another name.'
            )
    if namesakes:
        client.delete(f"{JobsWorker.redis_worker_namespace_prefix}{name}")


def _wait_for_database() -> None:
    while True:
        try:
            Worker.objects.exists()
            return
        except Error as error:
            logger.error("The database is not reached or not migrated (%s); trying again in 2 s.", error)
            connections.close_all()
            time.sleep(2)


def _wait_for_server(queue: str) -> None:
    pause = 1.0
    while True:
        client = impatient_client(queue)
        try:
            client.ping()
            return
        except (RedisError, OSError) as error:
            logger.error(
                "Redis at %s is not reached (%s); trying again in %g s.", masked_url(client), error, pause
            )
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_BLOCK_SECONDS)
