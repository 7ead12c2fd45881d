"""What there is to judge, at a bounded cost: looked at, counted, and asked of the servers."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import router
from django.db.models import BooleanField, Exists, ExpressionWrapper, Q, QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from .. import figures, servers, sql
from ..models import Job, Queue, Worker
from ..models.counting import CountOf, EarliestOf, selected
from ..models.workers import MOST_WORKERS
from ..servers import Server

PATIENCE = timedelta(seconds=10)
"""Relay and workers take less, unless something is wrong."""
LONG_WAIT = timedelta(minutes=5)
SILENT_FOR = timedelta(hours=1)
"""For how long a worker that went silent is a reason; what it ran has been rescued long before."""
LEAST_ATTEMPTS = 20
"""Of fewer attempts no rate is told."""
LEAST_FAILURE_RATE = 0.05
MOST_QUEUES = 500
MOST_TOLD = 1_000
"""Counts of one queue go no further: there may be many queues."""
MOST_SEARCHED = 100
"""Among so many undelivered jobs the first one is looked for: they stand in the order of their ids."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was seen; nothing in words, as several languages may ask."""

    at: datetime
    now: datetime
    """By the database's clock."""
    running: int
    waiting: int
    since: Mapping[str, datetime]
    """{queue: since when its first job waits}"""
    oldest: Mapping[str, datetime]
    """The same of those that are declared."""
    undeclared: Sequence[str]
    """Queues where jobs wait that are declared nowhere."""
    untaken: Sequence[str]
    """Queues where jobs wait that are paused, undeclared, or that nobody listens on."""
    waiting_on: Mapping[str, int]
    """{one of these queues, or one beside which a worker is idle, or of `undelivered`: how many wait}"""
    undelivered: Mapping[str, int]
    undelivered_since: datetime | None
    moves: bool
    """True if a worker that lives runs a job, or a job has just ended."""
    lacks_maintainer: bool
    lacks_figures: bool
    """True if attempts have ended that no maintainer counts."""
    servers: Sequence[Server]
    paused: Collection[str]
    alive: Sequence[Worker]
    silent: Sequence[Worker]
    hour: figures.Figures
    rate_before: float | None
    """Of the same hour yesterday; None where it is not asked for, or too few ended to tell."""


def look() -> Found:
    asked = servers.ask()
    declared = {name for server in asked for name in server.queues}
    paused = set(Queue.objects.filter(paused=True).values_list("name", flat=True))
    # The living first: of those that went silent there may be any number.
    is_alive = ExpressionWrapper(Q(leased_until__gte=Now()), BooleanField())
    workers = list(Worker.objects.annotate(is_alive=is_alive).order_by("-leased_until")[:MOST_WORKERS])
    alive = [worker for worker in workers if worker.is_alive]
    waiting = sql.waiting_since(router.db_for_write(Job), MOST_QUEUES)
    untaken = [
        name for name in waiting if name in paused or name not in declared or not listening(name, alive)
    ]
    held = [name for name in waiting if name in untaken or idle(listening(name, alive))]
    undelivered_on = {
        (name, side): jobs
        for server in asked
        for name in server.queues
        if name in waiting and name not in paused and server.epoch is not None
        for side, jobs in enumerate(_undelivered(name, server.epoch))
    }
    counted = selected(
        {
            "now": Now(),
            "running": CountOf(Job.objects.started().order_by("id")),
            "waiting": CountOf(Job.objects.queued().order_by("id")),
            "scheduled": Exists(Job.objects.scheduled()),
            "works": Exists(Job.objects.started().filter(worker__in=[worker.pk for worker in alive])),
            "ended": Exists(Job.objects.filter(finished_at__gte=Now() - PATIENCE)),
            "maintained": Exists(figures.maintainers()),
            "uncounted": Exists(figures.uncounted()),
            **{("on", name): CountOf(_waiting_on(name), MOST_TOLD) for name in held},
            **{("undelivered", *key): CountOf(jobs, MOST_TOLD) for key, jobs in undelivered_on.items()},
            **{("since", *key): EarliestOf(jobs, MOST_SEARCHED) for key, jobs in undelivered_on.items()},
        }
    )
    now = counted["now"] or timezone.now()  # Without any job, nothing is said of times.
    has_maintainer = counted["maintained"] if counted["now"] else figures.maintainers().exists()
    undelivered: Counter[str] = Counter()
    undelivered_since: list[datetime] = []
    for name, side in undelivered_on:
        since = counted["since", name, side]
        if since and since < now - PATIENCE:
            undelivered[name] += counted["undelivered", name, side]
            undelivered_since.append(since)
    late = {name: CountOf(_waiting_on(name), MOST_TOLD) for name in undelivered if name not in held}
    waiting_on = {name: counted["on", name] or 0 for name in held} | selected(late)
    hour = figures.total(timedelta(hours=1))
    has_work = bool(counted["running"] or counted["waiting"] or counted["scheduled"] or alive)
    return Found(
        at=timezone.now(),
        now=now,
        running=counted["running"] or 0,
        waiting=counted["waiting"] or 0,
        since={name: at for name, at in waiting.items() if at},
        oldest={name: at for name, at in waiting.items() if at and name in declared},
        undeclared=[name for name in waiting if name not in declared],
        untaken=untaken,
        waiting_on=waiting_on,
        undelivered=undelivered,
        undelivered_since=min(undelivered_since, default=None),
        moves=bool(counted["works"] or counted["ended"]),
        lacks_maintainer=has_work and not has_maintainer,
        lacks_figures=bool(counted["uncounted"]),
        servers=asked,
        paused=paused,
        alive=alive,
        silent=[worker for worker in workers if not worker.is_alive and worker.seen_at > now - SILENT_FOR],
        hour=hour,
        rate_before=_rate_before(now) if tells(hour) else None,
    )


def _waiting_on(queue: str) -> QuerySet[Job]:
    """In the order of an index, as otherwise PostgreSQL may look for them in all of the table."""
    return Job.objects.literally_queued().filter(queue=queue).order_by("queued_at")


def _undelivered(queue: str, epoch: str) -> tuple[QuerySet[Job], QuerySet[Job]]:
    """Two ranges of an index, in its order: the epochs before and after the present one.

    Nothing is asked of their times: PostgreSQL would read all that is queued by the index of these.
    """
    jobs = Job.objects.literally_queued().ours().filter(queue=queue).order_by("delivered_epoch", "id")
    return jobs.filter(delivered_epoch__lt=epoch), jobs.filter(delivered_epoch__gt=epoch)


def listening(queue: str, workers: Iterable[Worker]) -> list[Worker]:
    """Those that take from this queue; one that was quieted takes nothing more."""
    return [
        worker
        for worker in workers
        if queue in worker.queues and worker.state != Worker.State.QUIET and not worker.order
    ]


def tells(hour: figures.Figures) -> bool:
    return hour.ended >= LEAST_ATTEMPTS and hour.failure_rate >= LEAST_FAILURE_RATE


def _rate_before(now: datetime) -> float | None:
    minutes = figures.series("minute", now - timedelta(hours=25), now - timedelta(hours=24))
    ended = sum(minute.ended for minute in minutes)
    return sum(minute.failed for minute in minutes) / ended if ended >= LEAST_ATTEMPTS else None


def idle(workers: Iterable[Worker]) -> list[Worker]:
    return [worker for worker in workers if worker.state == Worker.State.IDLE]
