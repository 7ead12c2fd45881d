"""Brings due rows to the engines as deliveries: at commit for speed, in a loop for certainty.

Only the loop notes in a row that it is delivered: most have started before, and need no such note. So a push
at commit that fails or is lost does no harm, and one that the loop repeats does none either: the server
knows the delivery, and only one claim succeeds.
"""

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID
from weakref import WeakKeyDictionary

from django.db import connections, router, transaction
from django.db.models.functions import Now

from . import executor
from .conf import settings
from .engines import Delivery, all_engines
from .engines.base import BaseEngine
from .exceptions import EngineUnavailable
from .models import Job, Queue
from .states import QUEUED

BATCH = 500
REST_AFTER_FAILURE_SECONDS = 5
MOST_NESTED = 20
"""How deep jobs that enqueue jobs run inside each other with IMMEDIATE."""

logger = logging.getLogger(__name__)

_batches: WeakKeyDictionary[object, tuple[object, list[Job]]] = WeakKeyDictionary()
"""{connection: (the callbacks of its transaction, the jobs of its transaction)}"""
_resting_until: dict[str, float] = {}  # {server: monotonic time}
_withheld = False
_unreached: set[str] = set()  # servers that the loop did not reach in its last pass
_here = threading.local()  # .depth: how many jobs run inside each other in this thread


def push_at_commit(jobs: Sequence[Job], alias: str) -> None:
    """Have queued jobs pushed when the transaction on database `alias` commits, at once if there is none.

    The first `BATCH` jobs of a transaction go in one push, which takes at most a second; none is tried while
    the server seems down. It never raises: what it could not push, the loop pushes.

    With the setting IMMEDIATE the jobs run here instead, and no server is asked.
    """
    connection = transaction.get_connection(alias)
    if not jobs or _withheld or (not connection.get_autocommit() and not connection.in_atomic_block):
        return  # Transactions managed by hand have no callbacks; the loop sees the row when it is committed.
    if settings.IMMEDIATE:
        transaction.on_commit(lambda: _run_here(jobs), using=alias, robust=True)
        return
    callbacks, batch = _batches.get(connection, (None, []))
    if callbacks is not connection.run_on_commit:  # A new transaction, or one that rolled back a part.
        batch = []
        _batches[connection] = connection.run_on_commit, batch
    batch.extend(jobs[: BATCH - len(batch)])
    # Each enqueue has a callback, as a savepoint may roll back with its own; the first that runs pushes all.
    transaction.on_commit(lambda: _push_batch(batch), using=alias, robust=True)


def run_once() -> int:
    """Queue what is due and push what is not delivered; how many were queued or pushed, whichever are more.

    Does a bounded amount of work; call it again at once while it returns as much as `BATCH`.
    """
    queued, pushed = queue_due_jobs(), 0
    for engine in all_engines():
        for server, queues in engine.servers().items():
            try:
                pushed += _push_undelivered(engine, queues)
            except EngineUnavailable as error:
                if server not in _unreached:  # Said once, not every second.
                    logger.warning("Nothing can be delivered to %s: %s", ", ".join(queues), error)
                _unreached.add(server)
            else:
                if server in _unreached:
                    logger.warning("Deliveries to %s go on.", ", ".join(queues))
                _unreached.discard(server)
    # What is due on a queue that takes nothing must not hold up what is due later.
    return max(queued, pushed)


def queue_due_jobs() -> int:
    """Move scheduled jobs whose time has come to their queues, the longest due first.

    It waits for no transaction that holds some of them; a later pass sees to those.
    """
    with transaction.atomic(using=router.db_for_write(Job)):
        due: Iterable[UUID] = (
            Job.objects.due().select_for_update(skip_locked=True)[:BATCH].values_list("pk", flat=True)
        )
        if connections[router.db_for_write(Job)].features.has_select_for_update_skip_locked:
            # Locked first: in one statement PostgreSQL may ask for them again for each row, and get others.
            due = list(due)
        return Job.objects.scheduled().filter(pk__in=due).update(status=QUEUED, queued_at=Now())


@contextmanager
def withheld() -> Iterator[None]:
    """Within this block this process hands nothing to a server, and runs nothing at commit: for tests."""
    global _withheld
    before, _withheld = _withheld, True
    try:
        yield
    finally:
        _withheld = before


def reaches_out() -> bool:
    """False while this process hands nothing to a server: within `withheld()`, and with IMMEDIATE."""
    return not (_withheld or settings.IMMEDIATE)


def rests(server: str) -> bool:
    """True for a few seconds after this process found the server away: no request waits for it meanwhile."""
    return time.monotonic() < _resting_until.get(server, 0)


def let_rest(server: str) -> None:
    _resting_until[server] = time.monotonic() + REST_AFTER_FAILURE_SECONDS


def _run_here(jobs: Sequence[Job]) -> None:
    depth = getattr(_here, "depth", 0)
    if depth == MOST_NESTED:
        logger.error(
            "Jobs run inside those that enqueue them, %s deep at most; %s stays queued.", depth, jobs[0]
        )
        return
    _here.depth = depth + 1
    try:
        for job in jobs:
            _run_while_queued(job)
    finally:
        _here.depth = depth


def _run_while_queued(job: Job) -> None:
    attempt = 0
    while job.status == QUEUED and job.attempt > attempt:  # The same: not to be had, its queue is paused.
        attempt = job.attempt
        if (raised := executor.run_here(job)) is not None:
            # Not raised: the caller whose commit this is has nothing to do with it.
            logger.error("Attempt %s of job %s failed.", attempt, job, exc_info=raised)


def _push_batch(batch: list[Job]) -> None:
    jobs = batch[:BATCH]
    batch.clear()
    if len(jobs) > 1:  # A savepoint may have rolled back some.
        committed = Job.objects.queued().filter(pk__in=[job.pk for job in jobs])
        jobs = list(committed.only("engine", *Delivery.COLUMNS).order_by("id"))
    for engine in all_engines():
        mine = [job for job in jobs if job.engine == engine.name]
        for server, queues in engine.servers().items() if mine else ():
            here = [job for job in mine if job.queue in queues]
            if here and not rests(server):
                _try_push(engine, server, here)


def _try_push(engine: BaseEngine, server: str, jobs: Sequence[Job]) -> None:
    try:
        engine.push([Delivery.of(job) for job in jobs])
    except EngineUnavailable as error:
        let_rest(server)
        waiting = "1 job waits" if len(jobs) == 1 else f"{len(jobs)} jobs wait"
        logger.warning(
            "%s in the database until the server of the queue answers: %s. What to do, jobs_doctor tells.",
            waiting,
            str(error).rstrip("."),
        )


def _push_undelivered(engine: BaseEngine, queues: Sequence[str]) -> int:
    epoch, pushed = engine.epoch(queues[0]), 0
    paused = set(Queue.objects.filter(name__in=queues, paused=True).values_list("name", flat=True))
    for queue in queues:
        if queue not in paused:
            try:
                pushed += _push_next(engine, queue, epoch)
            except EngineUnavailable as error:
                engine.epoch(queue)  # Raises if it is not this queue alone, which somebody made unusable.
                logger.warning("Nothing can be delivered to %s: %s", queue, error)
    return pushed


def _push_next(engine: BaseEngine, queue: str, epoch: str) -> int:
    jobs = Job.objects.filter(engine=engine.name)
    deliveries = [Delivery(*row) for row in jobs.next_undelivered(queue, epoch, BATCH, *Delivery.COLUMNS)]
    return _mark(deliveries, engine.push(deliveries)) if deliveries else 0


def _mark(deliveries: Iterable[Delivery], epoch: str) -> int:
    """Note that these were handed to a server in this epoch, unless their rows await others meanwhile, or are
    held by a transaction; in how many rows."""
    marked = 0
    alike: dict[tuple[int, int], list[UUID]] = {}
    for delivery in deliveries:
        alike.setdefault((delivery.attempt, delivery.number), []).append(delivery.job_id)
    for (attempt, number), ids in alike.items():
        # Not by their status, which would lead a planner to read all that is queued.
        awaited = Job.objects.filter(pk__in=ids, attempt=attempt, delivery=number)
        marked += awaited.update_unless_locked(delivered_at=Now(), delivered_epoch=epoch)
    return marked
