"""Records the jobs that other code enqueued with an engine's plain library, and leaves their fate to it.

Our workers tell of each execution as it begins and as it ends. What happens elsewhere, or was not told, a
bounded look at the engines' servers finds. News may come late, twice, or in another order: each write is one
UPDATE, guarded by the state that it was made for.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from uuid import UUID, uuid5

from django.db.models import QuerySet

from .engines import all_engines
from .engines.base import BaseEngine, Run, Seen
from .exceptions import EngineUnavailable
from .models import Attempt, Job, Worker
from .observed import READ, Change, new_row, row_id, row_of, write
from .states import STARTED, TERMINAL

BATCH = 500
"""How many unfinished rows of each queue a pass looks after; the next pass goes on behind them."""
MOST_TRIES = 10
"""How often news are written anew when the row changes meanwhile."""

logger = logging.getLogger(__name__)


_seen_to: dict[str, UUID] = {}  # {queue: the last row that the pass before has looked after}


def record(seen: Seen) -> None:
    """Write what a worker of ours tells of an execution: that it began, or how it ended.

    Without an execution: that the job was not run. Raises the database's error when that is away.
    """
    for _ in range(MOST_TRIES):
        change = Change(row_of(seen))
        _hear(change, seen)
        if not change.is_needed or write([change]):
            return
    logger.warning("Job %s of plain %s changes all the time; its news are dropped.", seen.id, seen.engine)


def run_once() -> int:
    """Let the rows follow what the engines' servers tell of their plain jobs; how many were changed.

    For every few seconds: a bounded number of queries and round trips, whatever waits. Changes no server.
    """
    changed = 0
    for engine in all_engines():
        for queues in engine.servers().values() if engine.supports_plain_jobs else ():
            try:
                changed += _follow_server(engine, queues)
            except EngineUnavailable as error:
                logger.info("Plain jobs on %s are not looked at: %s", ", ".join(queues), error)
    return changed


def _hear(change: Change, seen: Seen) -> None:
    """Take in news of one execution: they are of now, or of an execution that others have followed."""
    run, job = seen.run, change.job
    if run is None:
        if seen.status in TERMINAL:
            change.end(seen, None)
        return
    if run.id != job.claim_id:
        if stored := _stored(job, run):
            if run.outcome:
                change.correct(stored, seen, run)
            return
        change.begin(seen, run)
    elif not run.outcome and job.status == STARTED and job.worker_id is None:
        change.update["worker_id"] = run.worker_id
    if run.outcome:
        change.end(seen, run)


def _follow_server(engine: BaseEngine, queues: Sequence[str]) -> int:
    sought = _sought(engine, queues)
    # Rows before the server: what it tells is then no older than the state that guards the writes.
    rows = Job.objects.only(*READ).in_bulk(list(sought))
    seen = {row_id(job.id, job.created_at): job for job in engine.look_up(dict(sought.values())).values()}
    new = {pk: new_row(job) for pk, job in seen.items() if pk in sought and pk not in rows}
    Job.objects.bulk_create(new.values(), ignore_conflicts=True)
    changes = []
    for pk, row in (rows | new).items():
        change = Change(row)
        _follow(change, seen.get(pk))
        if change.is_needed:
            changes.append(change)
    return len(new) + write(changes)


def _sought(engine: BaseEngine, queues: Sequence[str]) -> dict[UUID, tuple[str, str]]:
    """The plain jobs whose state is to be asked for, {id of the row: (id there, queue)}: those that do not
    stand where their row says, and the next of the others."""
    spots = {row_id(spot.id, spot.created_at): spot for spot in engine.plain_jobs(queues)}
    alive = set(Worker.objects.alive().values_list("pk", flat=True))
    sought = {pk: (spot.id, spot.queue) for pk, spot in spots.items()}
    for rows in (*_next_unfinished(engine, queues), *_in_batches(list(spots))):
        for pk, plain_id, queue, status, worker_id in rows.values_list(
            "pk", "observed_id", "queue", "status", "worker_id"
        ):
            spot = spots.get(pk)
            is_told = status == STARTED and worker_id in alive  # By that worker.
            if is_told or (spot and (spot.queue, spot.status) == (queue, status)):
                sought.pop(pk, None)
            else:
                sought.setdefault(pk, (plain_id, queue))
    return sought


def _next_unfinished(engine: BaseEngine, queues: Sequence[str]) -> Iterator[QuerySet[Job]]:
    for queue in queues:
        rows = Job.objects.unfinished().observed().filter(engine=engine.name, queue=queue)
        ids = rows.filter(pk__gt=_seen_to.pop(queue, UUID(int=0))).values_list("pk", flat=True)
        page = list(ids.order_by("id")[:BATCH])
        if len(page) == BATCH:
            _seen_to[queue] = page[-1]
        yield from _in_batches(page)


def _in_batches(ids: Sequence[UUID]) -> Iterator[QuerySet[Job]]:
    for start in range(0, len(ids), BATCH):
        yield Job.objects.filter(pk__in=ids[start : start + BATCH])


def _follow(change: Change, seen: Seen | None) -> None:
    """Bring a row to what its server tells now, None for nothing."""
    job = change.job
    if seen is None:
        if not job.has_ended:
            change.vanish()
    elif seen.status == STARTED:
        run = seen.run
        if run and run.id is None and job.claim_id is None:
            run = replace(run, id=_made_up_id(job, run))
        if run and run.id not in (None, job.claim_id) and not _stored(job, run):
            change.begin(seen, run)
    elif seen.status in TERMINAL:
        if not job.has_ended:
            _follow_to_end(change, seen)
    elif job.status == STARTED:
        change.end(seen, seen.run if seen.run and seen.run.id == job.claim_id else None)
    elif (job.status, job.queue, job.scheduled_for) != (seen.status, seen.queue, seen.scheduled_for):
        change.wait(seen)


def _follow_to_end(change: Change, seen: Seen) -> None:
    job, run = change.job, seen.run
    if run and run.id is None:
        run = replace(run, id=job.claim_id or _made_up_id(job, run))
    if run and run.id != job.claim_id:
        if _stored(job, run):
            run = None  # What is told is the end of an earlier attempt.
        else:
            change.begin(seen, run)
    change.end(seen, run)


def _made_up_id(job: Job, run: Run) -> UUID:
    """For an execution of which the server tells no id."""
    return uuid5(job.pk, str(run.started_at))


def _stored(job: Job, run: Run) -> Attempt | None:
    """The attempt of this execution, if it is over for us."""
    if job.claim_id is None and job.attempt == 1:
        return None  # None has begun.
    stored: Attempt | None = job.attempts.filter(claim_id=run.id).first()  # type: ignore[misc]
    return stored
