"""What is the matter now: figures of queues, workers and jobs, from the database, at a bounded cost.

Looking changes nothing. The functions `get_…` answer in dictionaries with the names that RQ's users know;
the others answer in our own words, for commands and pages.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import router
from django.db.models import F, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Now
from django.utils.translation import gettext

from . import registry, servers, sql
from .engines import BaseEngine, all_engines
from .exceptions import UnknownQueue
from .models import Attempt, Job, Queue, QueueEvent, Worker
from .models.counting import CountOf, bounded_counts, selected
from .models.tallies import totals
from .redaction import redact_text
from .states import CANCELED, DEFERRED, FAILED, FINISHED, QUEUED, SCHEDULED, STARTED, Status
from .values import did_you_mean, is_storable, short

MOST_LISTED = 100
MOST_QUEUES = 1_000
"""Of so many queues on which jobs wait those are found that are not declared."""
PAGE = 100

_COUNTED = (QUEUED, SCHEDULED, DEFERRED, STARTED)  # The others have tallies.


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """One queue now. What has not ended is counted up to `MOST_COUNTED`.

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
    finished: int
    failed: int
    canceled: int
    undelivered: int | None  # None while the server cannot be asked.
    waiting_since: datetime | None
    """When the job was queued that has waited longest."""
    workers: int
    """How many take from it; not those that were asked to take nothing more."""
    slots: int
    """How many jobs these workers run at a time."""
    error: str = ""

    def seconds_to_drain(self, mean_run_seconds: float | None) -> float | None:
        """How long until nothing is queued if nothing comes: queued jobs times mean run time, by slots.

        None if that is not known: it is paused, nobody listens, or nothing has run of late. The workers may
        have other queues to serve, so it is the least.
        """
        if not self.queued:
            return 0
        if self.paused or not self.slots or mean_run_seconds is None:
            return None
        return self.queued * mean_run_seconds / self.slots


@dataclass(frozen=True, slots=True)
class WorkerFigures:
    """One worker now. One that is not `alive` went without saying so."""

    name: str
    engine: str
    queues: list[str]
    state: str
    alive: bool
    job_id: UUID | None
    hostname: str
    pid: int
    started_at: datetime
    seen_at: datetime
    finished_count: int
    failed_count: int
    busy_seconds: float


@dataclass(frozen=True, slots=True)
class JobFigures:
    """A job as one line of a list."""

    id: UUID
    task: str
    queue: str
    status: str
    finished_at: datetime | None
    attempts: int
    error: str


def get_task_queue(name: str) -> Queue:
    """The queue of this name, whether it has a row or not.

    Raises `UnknownQueue` for one that is not declared and has neither a row nor jobs.
    """
    check_queue(name)
    row: Queue | None = Queue.objects.filter(name=name).first()
    return row or Queue(name=name)


def get_all_queues() -> list[Queue]:
    """Every declared queue, whether it has a row or not."""
    names = _declared_names()
    rows = Queue.objects.in_bulk(names)
    return [rows.get(name) or Queue(name=name) for name in names]


def get_queue_stats(name: str) -> dict[str, Any]:
    """How many jobs of a queue stand in each state: `queue_name`, a key for each state, `total`.

    Those that have not ended are counted up to `MOST_COUNTED` in each state. Raises `UnknownQueue`.
    """
    check_queue(name)
    return _stats([name])[0]


def get_all_queues_stats() -> list[dict[str, Any]]:
    """`get_queue_stats` of every declared queue."""
    return _stats(_declared_names())


def get_workers_info() -> list[dict[str, Any]]:
    """Every worker that has not said goodbye, by name. One that is not `alive` went without saying so."""
    return [
        {
            "name": worker.name,
            "state": worker.state,
            "queues": worker.queues,
            "current_job_id": str(worker.job_id) if worker.job_id else None,
            "birth_date": worker.started_at,
            "last_heartbeat": worker.seen_at,
            "hostname": worker.hostname,
            "pid": worker.pid,
            "successful_job_count": worker.finished_count,
            "failed_job_count": worker.failed_count,
            "total_working_time": worker.busy_seconds,
            "alive": worker.alive,
        }
        for worker in workers()
    ]


def get_queue_jobs(name: str, status: str | None = None, limit: int = 10) -> list[dict[str, Any]]:
    """The newest jobs of a queue, in one state or in all, newest first; at most 100.

    Of each: `job_id`, `status`, `func`, `description`, `args`, `kwargs`, when it was `created_at`,
    `enqueued_at`, `started_at` and `ended_at`, `exc_info` if it failed, `worker`, `attempt`, `progress`,
    `progress_message` and `stage`. Nothing is masked, and no permission is asked for.

    Raises `UnknownQueue`, and `ValueError` for a status that does not exist and a limit that is not allowed.
    """
    if status is not None and status not in Status.values:
        raise ValueError(f'Unknown status "{status}"; {did_you_mean(str(status), Status.values)}')
    if type(limit) is not int or not 1 <= limit <= MOST_LISTED:
        raise ValueError(f"limit is {limit!r}; allowed is a whole number from 1 to {MOST_LISTED}.")
    check_queue(name)
    ids: list[UUID] = []
    for one in [status] if status else Status.values:  # Each is the end of an index, all together are not.
        ids += Job.objects.filter(queue=name, status=one).order_by("-id").values_list("pk", flat=True)[:limit]
    newest = sorted(ids, reverse=True)[:limit]
    jobs = (
        Job.objects.filter(pk__in=newest)
        .select_related("worker")
        .defer("result", "meta", "stages", "live_log")
    )
    ran = Attempt.objects.filter(job__in=newest, number=F("job__attempt"))
    ran_by = dict(ran.order_by().values_list("job_id", "worker_name"))
    return [_told(job, ran_by.get(job.pk)) for job in jobs.order_by("-id")]


def queue_names() -> list[str]:
    """Every declared queue, and others where jobs wait that nobody will take."""
    undeclared = (name for engine in all_engines() for name in _undeclared_queues(engine))
    return list(dict.fromkeys([*_declared_names(), *undeclared]))


def queues(names: Collection[str] | None = None) -> list[QueueFigures]:
    """The figures of the `queue_names`, or of those among these names; only their servers are asked."""
    found: list[tuple[str, BaseEngine, str, str | None, str]] = []
    for server in servers.ask(names):
        found += [(name, server.engine, server.address, server.epoch, server.error) for name in server.queues]
    for engine in all_engines():
        for name in _undeclared_queues(engine):
            error = gettext("Jobs wait on the queue {queue}, which {setting} does not declare.")
            told = error.format(queue=name, setting=engine.declared_in)
            found.append((name, engine, "", None, told))
    if names is not None:
        found = [each for each in found if each[0] in names]
    live = _live(name for name, *_ in found)
    asked: dict[tuple[str, ...], Any] = {key: CountOf(jobs) for key, jobs in live.items()}
    for name, engine, _, epoch, _ in found:
        jobs = Job.objects.filter(queue=name)
        asked["first", name] = Subquery(jobs.by_wait().values("queued_at")[:1])
        if epoch is not None:
            undelivered = jobs.filter(engine=engine.name).undelivered(epoch)
            asked["undelivered", name, engine.name] = CountOf(undelivered.order_by())
    answers = selected(asked)
    counts = Counter({key: answers[key] or 0 for key in live}) + Counter(totals(*{name for name, _ in live}))
    paused = set(Queue.objects.filter(paused=True).values_list("name", flat=True))
    listening = sql.listening(router.db_for_write(Worker))
    return [
        QueueFigures(
            name=name,
            engine=engine.name,
            server=server,
            paused=name in paused,
            undelivered=None if epoch is None else answers["undelivered", name, engine.name] or 0,
            waiting_since=answers["first", name],
            workers=listening.get(name, (0, 0))[0],
            slots=listening.get(name, (0, 0))[1],
            error=error,
            **{status: counts[name, status] for status in Status.values},
        )
        for name, engine, server, epoch, error in found
    ]


def workers() -> list[WorkerFigures]:
    """Every worker that has not said goodbye, by name."""
    rows = list(Worker.objects.all())
    alive = set(Worker.objects.alive().values_list("pk", flat=True))
    running = Job.objects.started().filter(worker__in=[row.pk for row in rows])
    job_ids = dict(running.order_by("id").values_list("worker_id", "pk"))
    return [
        WorkerFigures(
            name=row.name,
            engine=row.engine,
            queues=row.queues,
            state=row.state,
            alive=row.pk in alive,
            job_id=job_ids.get(row.pk),
            hostname=row.hostname,
            pid=row.pid,
            started_at=row.started_at,
            seen_at=row.seen_at,
            finished_count=row.finished_count,
            failed_count=row.failed_count,
            busy_seconds=row.busy_seconds,
        )
        for row in rows
    ]


def pauses(queues: Collection[str]) -> dict[str, QueueEvent]:
    """Who paused those of these queues that are paused, and when; without those that were not paused by
    `control`."""
    events = QueueEvent.objects.filter(queue=OuterRef("name"), kind=QueueEvent.Kind.PAUSED).order_by("-id")
    newest = Queue.objects.filter(paused=True, name__in=queues).values_list(Subquery(events.values("pk")[:1]))
    found = QueueEvent.objects.filter(pk__in=newest).select_related("by")
    return {event.queue: event for event in found}


def queue_events(name: str, most: int = 20) -> list[QueueEvent]:
    """Who paused, resumed and emptied a queue, newest first; not which of its jobs were deleted."""
    kinds = [kind for kind in QueueEvent.Kind.values if kind != QueueEvent.Kind.JOB_DELETED]
    events = QueueEvent.objects.filter(queue=name, kind__in=kinds)  # Not "<>": these are ranges of an index.
    return list(events.select_related("by").order_by("-id")[:most])


def check_queue(name: str) -> None:
    """Raise `UnknownQueue` unless this queue is declared, or has a row or jobs."""
    problems = []
    for engine in all_engines():
        try:
            engine.check_queue(name)
            return
        except UnknownQueue as problem:
            problems.append(problem)
    named = (Job.objects.on_queue(name), Queue.objects.filter(name=name)) if is_storable(str(name)) else ()
    if not any(rows.exists() for rows in named):
        raise problems[0]


def matching_jobs(
    *statuses: str,
    queue: str | None = None,
    task: str | None = None,
    error: str | None = None,
    since: datetime | timedelta | None = None,
) -> QuerySet[Job]:
    """The jobs in one of these states, newest first: of a queue, of a task, with `error` somewhere in the
    type or message of their error, ended `since` a moment or for so long.

    Raises `UnknownQueue`, and `ValueError` for a task that is neither declared nor has jobs.
    """
    jobs: QuerySet[Job] = Job.objects.filter(status__in=statuses)
    if queue is not None:
        check_queue(queue)
        jobs = jobs.filter(queue=queue)
    if task is not None:
        if not Job.objects.filter(task=task).exists() and task not in (known := registry.names()):
            raise ValueError(f'Unknown task "{task}"; {did_you_mean(task, known)}')
        jobs = jobs.filter(task=task)
    if error is not None:
        jobs = jobs.filter(Q(error_type__icontains=error) | Q(error_message__icontains=error))
    if since is not None:
        jobs = jobs.filter(finished_at__gte=Now() - since if isinstance(since, timedelta) else since)
    return jobs


def in_pages(jobs: QuerySet[Job], most: int | None = None) -> Iterator[QuerySet[Job]]:
    """These jobs, oldest first and at most so many, in querysets of at most `PAGE`; none that came later.

    Each page is found when the one before was dealt with, and leaves out what ceased to match meanwhile.
    """
    jobs = jobs.order_by("pk")
    newest = jobs.values_list("pk", flat=True).last()
    if newest is None:
        return
    ids = jobs.filter(pk__lte=newest).values_list("pk", flat=True)
    page = list(ids[: PAGE if most is None else min(PAGE, most)])
    while page:
        yield jobs.filter(pk__in=page)
        if most is not None:
            most -= len(page)
        page = list(ids.filter(pk__gt=page[-1])[: PAGE if most is None else min(PAGE, most)])


def lines(jobs: QuerySet[Job]) -> list[JobFigures]:
    """These jobs, a line each, with the secrets in their errors masked. The queryset is to be sliced."""
    fields = ("task", "queue", "status", "finished_at", "attempt", "error_type", "error_message")
    return [
        JobFigures(
            *(job.pk, job.task, job.queue, job.status, job.finished_at, job.attempt),
            error=redact_text(_error(job)),
        )
        for job in jobs.only(*fields)
    ]


def _told(job: Job, ran_by: str | None) -> dict[str, Any]:
    return {
        "job_id": str(job.pk),
        "status": job.status,
        "func": job.task,
        "description": job.description or short(job.call, 255),
        "args": job.args,
        "kwargs": job.kwargs,
        "created_at": job.created_at,
        "enqueued_at": job.queued_at,
        "started_at": job.started_at,
        "ended_at": job.finished_at,
        "exc_info": (job.traceback or _error(job)) if job.status == FAILED else None,
        "worker": ran_by or (job.worker.name if job.worker else None),
        "attempt": job.attempt,
        "progress": job.progress,
        "progress_message": job.progress_message,
        "stage": job.stage,
    }


def _error(job: Job) -> str:
    return f"{job.error_type}: {job.error_message}" if job.error_message else job.error_type


def _declared_names() -> list[str]:
    return list(dict.fromkeys(name for engine in all_engines() for name in engine.queue_names()))


def _undeclared_queues(engine: BaseEngine) -> list[str]:
    """Those of which the job that has waited longest is of this engine."""
    declared, waiting = engine.queue_names(), sql.waiting_engines(router.db_for_write(Job), MOST_QUEUES)
    return sorted(name for name, of in waiting.items() if of == engine.name and name not in declared)


def _stats(names: Iterable[str]) -> list[dict[str, Any]]:
    names = list(names)
    counts = _counts(names)
    order = (QUEUED, STARTED, FINISHED, FAILED, DEFERRED, SCHEDULED, CANCELED)
    stats = [(name, {status.value: counts[name, status] for status in order}) for name in names]
    return [{"queue_name": name, **states, "total": sum(states.values())} for name, states in stats]


def _counts(names: Iterable[str]) -> Counter[tuple[str, str]]:
    """The number of jobs in each (queue, status)."""
    names = list(names)
    return Counter(bounded_counts(_live(names))) + Counter(totals(*names))


def _live(names: Iterable[str]) -> dict[tuple[str, str], QuerySet[Job]]:
    """The jobs in each (queue, status) that have not ended."""
    return {
        (name, status.value): Job.objects.filter(queue=name, status=status).order_by()
        for name in names
        for status in _COUNTED
    }
