"""Brings due rows to the engines as deliveries: at commit for speed, in a loop for certainty.

A push that fails or is lost does no harm: the row says that it is not delivered, and the loop pushes it.
A push repeated does none either: the server knows the delivery, and only one claim succeeds.
"""

import logging
import time
from collections.abc import Sequence

from django.db.models import Subquery
from django.db.models.functions import Now

from . import sql
from .engines import Delivery, all_engines, get_engine
from .engines.base import BaseEngine
from .exceptions import EngineUnavailable
from .models import Job, Queue
from .states import QUEUED

BATCH = 500
REST_AFTER_FAILURE_SECONDS = 5

logger = logging.getLogger(__name__)

_resting_until: dict[str, float] = {}  # {engine name: monotonic time}


def push_at_commit(job: Job) -> None:
    """Push a job just committed: one try of at most a second, none while the engine's server seems down.

    Never raises: the request that enqueued has done its part, and the loop pushes what this could not.
    """
    if time.monotonic() < _resting_until.get(job.engine, 0):
        return
    try:
        _push(get_engine(job.engine), [Delivery.of(job)])
    except EngineUnavailable as error:
        _resting_until[job.engine] = time.monotonic() + REST_AFTER_FAILURE_SECONDS
        logger.warning("Job %s waits in the database until its engine is back: %s", job.pk, error)


def run_once() -> int:
    """Queue what is due and push what is not delivered; the number of deliveries pushed.

    Does a bounded amount of work; call it again at once while it returns as much as `BATCH`.
    """
    queue_due_jobs()
    pushed = 0
    for engine in all_engines():
        for queues in engine.servers().values():
            try:
                pushed += _push_undelivered(engine, queues)
            except EngineUnavailable as error:
                logger.warning("Nothing can be delivered to %s: %s", ", ".join(queues), error)
    return pushed


def queue_due_jobs() -> int:
    """Move scheduled jobs whose time has come to their queues, the longest due first."""
    due = Job.objects.due()[:BATCH].values("pk")
    return Job.objects.scheduled().filter(pk__in=Subquery(due)).update(status=QUEUED, queued_at=Now())


def _push_undelivered(engine: BaseEngine, queues: Sequence[str]) -> int:
    undelivered = (
        Job.objects.undelivered(engine.epoch(queues[0])).on_queue(*queues).filter(engine=engine.name)
    )
    paused = Queue.objects.filter(name__in=queues, paused=True).values("name")
    jobs = undelivered.exclude(queue__in=paused).order_by("id")[:BATCH]
    deliveries = [Delivery.of(job) for job in jobs.only(*_DELIVERED_FIELDS)]
    _push(engine, deliveries)
    return len(deliveries)


def _push(engine: BaseEngine, deliveries: Sequence[Delivery]) -> None:
    if deliveries:
        epoch = engine.push(deliveries)
        sql.mark_delivered([delivery.key for delivery in deliveries], epoch)


_DELIVERED_FIELDS = ("attempt", "delivery", "engine", "queue", "task", "timeout_seconds")
