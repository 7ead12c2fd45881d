"""Checks of jobs and workers: what waits that should not, and why."""

import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from django.db.models import Exists, OuterRef

from .. import registry
from ..engines import all_engines
from ..engines.base import ServerFacts
from ..models import Job, Lease, Queue, QueueEvent, Worker
from ..models.counting import bounded_count
from ..states import FAILED, UNFINISHED
from .findings import Finding, ago, error, number, ok, quoted, since, some, told, warning

PATIENCE = timedelta(seconds=10)
"""Relay and workers take less, unless something is wrong."""
LOST_AFTER = timedelta(minutes=1)
LONG_WAIT = timedelta(minutes=5)
MOST_LOOKED_AT = 500
MOST_QUEUES = 100
MOST_LISTED = 10

_START_WORKER = "python manage.py rqworker"
_START_MAINTAINER = f"{_START_WORKER} (without --no-maintainer)"


@dataclass(frozen=True)
class Situation:
    """What the checks start from: the database's time, what the servers told, who works."""

    now: datetime
    servers: Sequence[ServerFacts]
    workers: Sequence[Worker]
    has_maintainer: bool

    @classmethod
    def at(cls, now: datetime, servers: Sequence[ServerFacts]) -> Self:
        # The name that the maintainer's module, which is above this one, gives its lease.
        maintained = Lease.objects.filter(name="maintainer", expires_at__gte=now)
        return cls(now, servers, list(Worker.objects.alive()[:MOST_LOOKED_AT]), maintained.exists())

    def listening_to(self, queue: str) -> list[Worker]:
        return [worker for worker in self.workers if queue in worker.queues]

    def is_served(self, queue: str) -> bool:
        """True if the queue's server is reached and lets workers take jobs."""
        return any(queue in facts.queues and not (facts.trouble or facts.suspended) for facts in self.servers)


def queues(situation: Situation) -> Iterator[Finding]:
    """Each queue where jobs wait: declared, not paused, and with a worker that takes from it."""
    declared = {name for engine in all_engines() for name in engine.queue_names()}
    paused = set(Queue.objects.filter(paused=True).values_list("name", flat=True))
    names = list(_queues_where_jobs_wait())
    for name in names:
        jobs = Job.objects.queued().on_queue(name)
        first = min(filter(None, jobs.order_by("id").values_list("queued_at", flat=True)[:100]), default=None)
        if first is None:
            continue  # They have been taken meanwhile.
        count = bounded_count(jobs)
        waits = f'{number(count, "job")} {"waits" if count == 1 else "wait"} on queue "{name}"'
        waits += f", the first {since(first, situation.now)}"
        if name not in declared:
            yield _undeclared(name, waits, sorted(declared))
        elif name in paused:
            yield _paused(name, waits, situation)
        else:
            yield _waiting(name, waits, situation.now - first, situation)
    if not names:
        yield ok("queue", "No job waits for a worker.")


def _undeclared(name: str, waits: str, declared: Sequence[str]) -> Finding:
    settings = " or ".join(engine.declared_in for engine in all_engines())
    return error(
        "queue",
        f"{waits}. No engine declares this queue, so that nothing is delivered.",
        f'Declare "{name}" in {settings} (declared are: {some(declared) or "none"}) and start a worker '
        f"on it, or: python manage.py jobs_cancel --queue {shlex.quote(name)}",
    )


def _paused(name: str, waits: str, situation: Situation) -> Finding:
    events = QueueEvent.objects.filter(queue=name, kind=QueueEvent.Kind.PAUSED)
    event = events.select_related("by").order_by("id").last()
    by = f" by {event.by}" if event and event.by else ""
    when = f" {since(event.at, situation.now)}" if event else ""
    return warning(
        "queue",
        f"{waits}. The queue is paused{by}{when}.",
        f"python manage.py jobs_resume {shlex.quote(name)}",
    )


def _waiting(name: str, waits: str, waited: timedelta, situation: Situation) -> Finding:
    listening = situation.listening_to(name)
    start = f"{_START_WORKER} {shlex.quote(name)}"
    if not listening:
        return error("queue", f"{waits}, and no worker listens to it.", start)
    names = some(worker.name for worker in listening)
    idle = [worker for worker in listening if worker.state == Worker.State.IDLE]
    if idle and waited > PATIENCE and situation.is_served(name) and not _moves(name, situation):
        return warning(
            "queue",
            f"{waits}, although {some(worker.name for worker in idle)} listens to it and is idle.",
            "Look for what is said of delivery, maintainer and worker; then at the worker's log, and "
            f"start it anew: {start}",
        )
    if not idle and waited > LONG_WAIT:
        return warning(
            "queue", f"{waits}. {names} listening to it: all busy.", f"Start another worker: {start}"
        )
    return ok("queue", f"{waits}; {names} will take it.")


def _moves(name: str, situation: Situation) -> bool:
    """True if jobs of this queue end: a worker is idle for moments between two of them."""
    ended = Job.objects.ended().on_queue(name).filter(finished_at__gte=situation.now - PATIENCE)
    return ended.order_by().exists()


def _queues_where_jobs_wait() -> Iterator[str]:
    # From name to name along an index; DISTINCT would read all that is queued.
    name: str | None = ""
    for _ in range(MOST_QUEUES):
        later = Job.objects.queued().filter(queue__gt=name).order_by("queue")
        name = later.values_list("queue", flat=True).first()
        if name is None:
            return
        yield name


def workers(situation: Situation) -> Iterator[Finding]:
    if situation.workers:
        names = (f"{worker.name} ({some(worker.queues)})" for worker in situation.workers)
        yield ok("worker", f"{number(len(situation.workers), 'worker')}: {some(names)}.")
    else:
        yield warning("worker", "No worker runs.", _START_WORKER)
    for worker in Worker.objects.silent()[:MOST_LISTED]:
        yield warning(
            "worker",
            f"Worker {worker.name} on {worker.hostname} (pid {worker.pid}) went silent; it last answered "
            f"{ago(worker.seen_at, situation.now)}. What it ran is retried, or marked as interrupted.",
            "Was it killed (memory: dmesg -T | grep -i 'killed process'), or its host stopped? "
            f"Start another: {_START_WORKER} {shlex.join(worker.queues)}".rstrip(),
        )
    declared = {name for engine in all_engines() for name in engine.queue_names()}
    for worker in situation.workers:
        if gone := sorted(set(worker.queues) - declared):
            yield warning(
                "worker",
                f"Worker {worker.name} listens to queues that are declared no more here: {some(gone)}.",
                "Start it anew with the settings of this process, or declare them again.",
            )


def strangers(situation: Situation) -> Iterator[Finding]:
    """Workers that the servers know on our queues and the database does not."""
    ours = set(Worker.objects.values_list("name", flat=True)[:MOST_LOOKED_AT])
    for facts in situation.servers:
        for queue, told_of in facts.queues.items():
            if others := sorted(set(told_of.workers) - ours):
                yield warning(
                    "worker",
                    f'On {facts.address}, queue "{queue}" is also worked on by {some(others)}, which the '
                    "database does not know. A worker of another project drops the deliveries it takes.",
                    "If it is another project's, give each a Redis database or an RQ_KEY_PREFIX of its own; "
                    f"if it is a plain rq worker of this one, use {_START_WORKER} instead.",
                )


def maintainer(situation: Situation) -> Iterator[Finding]:
    if situation.has_maintainer:
        yield ok("maintainer", "A maintainer is at work.")
        return
    stays = Job.objects.unfinished().ours().exists()
    kind = error if stays else warning
    yield kind(
        "maintainer",
        "No maintainer runs: jobs that become due, were not delivered or were lost stay as they are.",
        _START_MAINTAINER,
    )


def deliveries(situation: Situation) -> Iterator[Finding]:
    """Jobs that should have been handed to their server and were not."""
    paused = Queue.objects.filter(paused=True).values("name")
    for facts in situation.servers:
        if facts.trouble:
            continue  # Told already, as the reason.
        # An epoch that nobody has: after an emptied server, nothing is delivered.
        waiting = Job.objects.undelivered(facts.epoch or "-").on_queue(*facts.queues)
        late = waiting.exclude(queue__in=paused).filter(queued_at__lt=situation.now - PATIENCE)
        if count := bounded_count(late):
            yield _late(situation, "delivery", f"{number(count, 'job')} not handed to {facts.address} yet.")


def schedule(situation: Situation) -> Iterator[Finding]:
    """Jobs whose time has come and which are not queued."""
    due = Job.objects.due().filter(scheduled_for__lt=situation.now - PATIENCE)
    first = due.values_list("scheduled_for", flat=True).first()
    if first:
        count = number(bounded_count(due), "job")
        yield _late(
            situation, "schedule", f"{count} overdue and not queued, the first {since(first, situation.now)}."
        )


def lost(situation: Situation) -> Iterator[Finding]:
    """Jobs that count as running, in a worker that is gone."""
    alive = Worker.objects.filter(pk=OuterRef("worker_id"), leased_until__gte=situation.now - LOST_AFTER)
    started = Job.objects.started().ours().filter(elsewhere_until__isnull=True)
    gone = started.filter(~Exists(alive), started_at__lt=situation.now - LOST_AFTER)
    if count := bounded_count(gone):
        yield _late(situation, "lost", f"{number(count, 'job')} marked as running, by a worker that is gone.")


def _late(situation: Situation, check: str, found: str) -> Finding:
    if situation.has_maintainer:
        return warning(
            check,
            f"{found} The maintainer is at work on it, or cannot.",
            "Run this again in a minute; if it does not become less, look at the log of the workers and "
            "their maintainer.",
        )
    return error(check, f"{found} The maintainer would see to it, but none runs.", _START_MAINTAINER)


def loadable(situation: Situation) -> Iterator[Finding]:
    """Whether workers of this code could run the newest jobs of each state."""
    unfinished = set(_newest_tasks(UNFINISHED))
    is_fine = True
    for name in sorted(unfinished | set(_newest_tasks({FAILED}))):
        try:
            registry.load(name)
        except BaseException as problem:  # noqa: BLE001 - Its module may raise anything.
            is_fine = False
            kind, jobs = (error, "wait") if name in unfinished else (warning, "have failed")
            yield kind(
                "task",
                f'Jobs of the task "{quoted(name)}" {jobs}, and it cannot be loaded: {told(problem)}',
                "Bring it back, or give its name to what replaces it with @task(name=…), deploy, and start "
                f"the workers anew: {_START_WORKER}",
            )
    if is_fine:
        yield ok("task", "The tasks of the newest jobs can be loaded.")


def _newest_tasks(states: Collection[str]) -> Iterator[str]:
    for state in sorted(states):  # Each is the end of an index, all together are not.
        newest = Job.objects.filter(status=state).order_by("-id")[:MOST_LOOKED_AT]
        for name, observed_id in newest.values_list("task", "observed_id"):
            if not observed_id:  # Those of others are not ours to load.
                yield name
