"""What is the matter now: figures of queues and workers, from the database, at a bounded cost."""

from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from django.db.models import Q, QuerySet

from .engines import BaseEngine, all_engines
from .exceptions import EngineUnavailable
from .models import Job, Queue, Worker

MOST_COUNTED = 10_000
"""Counts go no further; one that says so may mean any number from there."""


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """One queue now. Counts are capped at `MOST_COUNTED`.

    `error` tells what is wrong with it: its server is away, or it is not declared.
    """

    name: str
    engine: str
    server: str
    paused: bool
    queued: int
    scheduled: int
    deferred: int
    started: int
    failed: int
    undelivered: int | None  # None while the server cannot be asked.
    workers: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class WorkerFigures:
    """One worker now. One that is not `alive` went without saying so."""

    name: str
    engine: str
    queues: list[str]
    state: str
    alive: bool
    hostname: str
    pid: int
    started_at: datetime
    seen_at: datetime


def queues() -> list[QueueFigures]:
    """The figures of every declared queue, and of others where jobs wait that nobody will take."""
    paused = set(Queue.objects.filter(paused=True).values_list("name", flat=True))
    listening = [name for worker in Worker.objects.alive() for name in worker.queues]
    figures = []
    for engine in all_engines():
        for server, names in engine.servers().items():
            try:
                epoch, error = engine.epoch(names[0]), ""
            except EngineUnavailable as unavailable:
                epoch, error = None, str(unavailable)
            for name in names:
                figures.append(
                    _figures(engine, server, name, epoch, error, name in paused, listening.count(name))
                )
        for name in _undeclared_queues(engine):
            error = f"Jobs wait on the queue {name}, which {engine.queues_setting} does not declare."
            figures.append(_figures(engine, "", name, None, error, name in paused, listening.count(name)))
    return figures


def workers() -> list[WorkerFigures]:
    """Every worker that has not said goodbye, by name."""
    alive = set(Worker.objects.alive().values_list("pk", flat=True))
    return [
        WorkerFigures(
            name=worker.name,
            engine=worker.engine,
            queues=worker.queues,
            state=worker.state,
            alive=worker.pk in alive,
            hostname=worker.hostname,
            pid=worker.pid,
            started_at=worker.started_at,
            seen_at=worker.seen_at,
        )
        for worker in Worker.objects.all()
    ]


def _figures(
    engine: BaseEngine, server: str, name: str, epoch: str | None, error: str, paused: bool, workers: int
) -> QueueFigures:
    jobs = Job.objects.filter(engine=engine.name, queue=name)
    return QueueFigures(
        name=name,
        engine=engine.name,
        server=server,
        paused=paused,
        queued=_count(jobs.queued()),
        scheduled=_count(jobs.scheduled()),
        deferred=_count(jobs.deferred()),
        started=_count(jobs.started()),
        failed=_count(jobs.failed()),
        undelivered=None if epoch is None else _count(jobs.undelivered(epoch)),
        workers=workers,
        error=error,
    )


def _undeclared_queues(engine: BaseEngine) -> list[str]:
    # The gaps between the declared names: ranges of an index, where NOT IN would read all that is queued.
    names = sorted(engine.queue_names())
    gaps = Q(queue__lt=names[0]) | Q(queue__gt=names[-1]) if names else Q()
    for lower, upper in pairwise(names):
        gaps |= Q(queue__gt=lower, queue__lt=upper)
    waiting = Job.objects.queued().filter(gaps, engine=engine.name).order_by()
    return sorted(set(waiting.values_list("queue", flat=True)[:1000]))


def _count(jobs: QuerySet[Job]) -> int:
    return jobs.order_by()[:MOST_COUNTED].count()
