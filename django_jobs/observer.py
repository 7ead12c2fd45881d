"""Records the jobs that other code enqueued with an engine's plain library, and leaves their fate to it.

Our workers tell of each execution as it begins and as it ends. What happens elsewhere, or was not told, a
bounded look at the engines' servers finds. News may come late, twice, or in another order: each write is one
UPDATE, guarded by the state that it was made for.
"""

import logging
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from django.db import router, transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Now

from .engines import all_engines
from .engines.base import BaseEngine, Run, Seen
from .exceptions import EngineUnavailable
from .fingerprints import fingerprint
from .models import Attempt, Job, Worker
from .models.figures import add_attempt
from .models.tallies import tally
from .models.workers import installation_id
from .states import CANCELED, FINISHED, QUEUED, STARTED, TERMINAL
from .values import TRACEBACK_LIMIT, error_message, kept

BATCH = 500
"""How many unfinished rows of each queue a pass looks after; the next pass goes on behind them."""
MOST_TRIES = 10
"""How often news are written anew when the row changes meanwhile."""

logger = logging.getLogger(__name__)

_NO_ERROR = ("", "", "")
_GONE = "It is no longer on its server: it was deleted, has expired, was lost, or made way for one of its id."
_UNKNOWN_END = "How this attempt ended is not known: the server keeps that of the last one only."
_RESULT_KEPT = "Plain {engine} keeps its result, for as long as it was told to."

_READ = (
    *("observed_id", "task", "queue", "status", "attempt", "max_attempts", "claim_id", "worker"),
    *("scheduled_for", "queued_at", "started_at"),
)

_seen_to: dict[str, UUID] = {}  # {queue: the last row that the pass before has looked after}


def record(seen: Seen) -> None:
    """Write what a worker of ours tells of an execution: that it began, or how it ended.

    Without an execution: that the job was not run. Raises the database's error when that is away.
    """
    for _ in range(MOST_TRIES):
        change = _Change(_row_of(seen))
        _hear(change, seen)
        if not change.is_needed or _write([change]):
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


def row_id(plain_id: str, created_at: datetime) -> UUID:
    """The id of a plain job's row: one for all who write it, and in the order of time as the others are."""
    milliseconds = max(0, int(created_at.timestamp() * 1000))
    return UUID(int=milliseconds << 80 | uuid5(installation_id(), plain_id).int & (1 << 80) - 1)


class _Change:
    """What is to become of one row. Its attempt has begun when it has a `claim_id`: that of the execution."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.status: str = job.status
        self.attempt = job.attempt
        self.claim_id = job.claim_id
        self.update: dict[str, Any] = {}
        self._attempts: list[tuple[int, dict[str, Any], UUID | None]] = []  # number, fields, worker of ours

    def wait(self, seen: Seen) -> None:
        """Await the attempt that has not begun, or the one after that which has."""
        if self.claim_id is not None:
            self.attempt += 1
        self.status, self.claim_id = seen.status, None
        self._set(
            **_fresh(seen),
            scheduled_for=seen.scheduled_for,
            queued_at=seen.queued_at,
            started_at=None,
            worker_id=None,
        )

    def begin(self, seen: Seen, run: Run) -> None:
        if self.status == STARTED:
            self._store(None, Attempt.Outcome.FAILED, ("", _UNKNOWN_END, ""))
        if self.claim_id is not None:
            self.attempt += 1
        self.status, self.claim_id = STARTED, run.id
        self._set(
            **_fresh(seen),
            **_error_of_job(_NO_ERROR),
            scheduled_for=None,
            started_at=run.started_at or Now(),
            worker_id=run.worker_id,
        )
        if seen.queued_at and run.started_at and seen.queued_at <= run.started_at:
            self._set(queued_at=seen.queued_at)

    def end(self, seen: Seen, run: Run | None) -> None:
        """End the attempt that has begun, if one has, as `run` tells; then be what the job was seen to be."""
        error = seen.error
        if run:
            self._store(run, run.outcome, error)
        elif self.status == STARTED:
            known = {FINISHED: Attempt.Outcome.FINISHED, CANCELED: Attempt.Outcome.CANCELED}
            error = error if any(error) or seen.status in known else ("", _UNKNOWN_END, "")
            self._store(None, known.get(seen.status, Attempt.Outcome.FAILED), error)
        if seen.status in TERMINAL:
            is_finished = seen.status == FINISHED
            self.status = seen.status
            self._set(
                scheduled_for=None,
                finished_at=(run and run.ended_at) or Now(),
                progress=100 if is_finished else 0,
                result_error=_RESULT_KEPT.format(engine=seen.engine) if is_finished else "",
            )
        else:
            self.wait(seen)
        self._set(**_error_of_job(error))

    def vanish(self) -> None:
        error = ("", _GONE, "")
        if self.status == STARTED:
            self._store(None, Attempt.Outcome.CANCELED, error)
        self.status = CANCELED
        self._set(finished_at=Now(), scheduled_for=None, **_error_of_job(error))

    def correct(self, stored: Attempt, seen: Seen, run: Run) -> None:
        """Tell how an attempt ended that is stored, and over, without that."""
        self._attempts.append((stored.number, _told(run, run.outcome, seen.error), None))
        if self.claim_id is None and stored.number == self.attempt - 1:
            self._set(**_error_of_job(seen.error))

    @property
    def is_needed(self) -> bool:
        return bool(self.update or self._attempts)

    @property
    def guard(self) -> dict[str, Any]:
        return {"status": self.job.status, "attempt": self.job.attempt, "claim_id": self.job.claim_id}

    @property
    def fields(self) -> dict[str, Any]:
        """All that is written to the row."""
        most = max(self.job.max_attempts, self.attempt)
        after = {"status": self.status, "attempt": self.attempt, "claim_id": self.claim_id}
        return {**after, "max_attempts": most, **self.update}

    @property
    def kind(self) -> Hashable:
        """Changes of one kind are written by one UPDATE."""
        alone = self.job.pk if self._attempts else None
        return alone, self.job.queue, *self.guard.values(), *self.fields.items()

    def write_attempts(self) -> None:
        for number, fields, worker_id in self._attempts:
            # While an attempt is started, it is not stored.
            is_new = number == self.job.attempt and self.job.status == STARTED
            stored = None if is_new else self.job.attempts.filter(number=number).first()
            if stored:
                self.job.attempts.filter(number=number).update(**fields)
                _correct_figures(self.job, stored, fields)
            else:
                self.job.attempts.create(number=number, **fields)
                _count_for_worker(worker_id, fields)
                waited = _seconds_waited(fields, self.update.get("queued_at"), self.job.queued_at)
                add_attempt(
                    self.job, **_counted(fields), waited_seconds=waited, ran_seconds=_seconds_run(fields)
                )

    def _store(self, run: Run | None, outcome: str, error: tuple[str, str, str]) -> None:
        run = run or Run(started_at=self.job.started_at)
        fields = _told(run, outcome, error) | {"claim_id": self.claim_id}
        self._attempts.append((self.attempt, fields, run.worker_id))

    def _set(self, **fields: Any) -> None:
        self.update |= fields


def _hear(change: _Change, seen: Seen) -> None:
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
    rows = Job.objects.only(*_READ).in_bulk(list(sought))
    seen = {row_id(job.id, job.created_at): job for job in engine.look_up(dict(sought.values())).values()}
    new = {pk: _new(job) for pk, job in seen.items() if pk in sought and pk not in rows}
    Job.objects.bulk_create(new.values(), ignore_conflicts=True)
    changes = []
    for pk, row in (rows | new).items():
        change = _Change(row)
        _follow(change, seen.get(pk))
        if change.is_needed:
            changes.append(change)
    return len(new) + _write(changes)


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


def _follow(change: _Change, seen: Seen | None) -> None:
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


def _follow_to_end(change: _Change, seen: Seen) -> None:
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


def _write(changes: Iterable[_Change]) -> int:
    """Write them, each if its row has not changed meanwhile; how many were."""
    kinds: dict[Hashable, list[_Change]] = {}
    for change in changes:
        kinds.setdefault(change.kind, []).append(change)
    written = 0
    for alike in kinds.values():
        with transaction.atomic(using=router.db_for_write(Job)):
            for start in range(0, len(alike), BATCH):
                written += _write_alike(alike[start : start + BATCH])
    return written


def _write_alike(changes: Sequence[_Change]) -> int:
    first = changes[0]
    rows = Job.objects.filter(pk__in=[change.job.pk for change in changes], **first.guard)
    written = rows.update(**first.fields)
    if written:
        moved = Counter({(first.job.queue, first.job.status): -written})
        moved[first.fields.get("queue", first.job.queue), first.status] += written
        tally(moved)
        first.write_attempts()
    return written


def _row_of(seen: Seen) -> Job:
    pk = row_id(seen.id, seen.created_at)
    row: Job | None = Job.objects.filter(pk=pk).only(*_READ).first()
    if row is None:
        Job.objects.bulk_create([_new(seen)], ignore_conflicts=True)
        row = Job.objects.only(*_READ).get(pk=pk)
    return row


def _new(seen: Seen) -> Job:
    waits = seen.status != STARTED and seen.status not in TERMINAL
    return Job(
        id=row_id(seen.id, seen.created_at),
        observed_id=seen.id,
        engine=seen.engine,
        task=seen.task,
        description=seen.description,
        status=seen.status if waits else QUEUED,
        scheduled_for=seen.scheduled_for,
        created_at=seen.created_at,
        queued_at=seen.queued_at,
        **_placed(seen),
    )


def _placed(seen: Seen) -> dict[str, Any]:
    return {"queue": seen.queue, "timeout_seconds": seen.timeout_seconds}


def _fresh(seen: Seen) -> dict[str, Any]:
    return {**_placed(seen), "finished_at": None, "progress": 0, "result_error": ""}


def _error(error: tuple[str, str, str]) -> dict[str, str]:
    kind, message, traceback = error
    return {
        "error_type": kind,
        "error_message": error_message(message),
        "traceback": kept(traceback, TRACEBACK_LIMIT),
    }


def _error_of_job(error: tuple[str, str, str]) -> dict[str, str]:
    fields = _error(error)
    return {**fields, "fingerprint": _fingerprint(fields)}


def _fingerprint(fields: Mapping[str, Any]) -> str:
    error = {name: fields[name] for name in ("error_type", "error_message", "traceback")}
    return fingerprint(**error) if error["error_type"] else ""


def _told(run: Run, outcome: str, error: tuple[str, str, str]) -> dict[str, Any]:
    """What is known of an execution that is over, as fields of an attempt."""
    return {
        "worker_name": run.worker_name,
        "started_at": run.started_at or Now(),
        "finished_at": run.ended_at or Now(),
        "outcome": outcome,
        "log": run.log,
        **_error(error),
    }


def _count_for_worker(worker_id: UUID | None, attempt: dict[str, Any]) -> None:
    if worker_id is None:
        return
    went_well = attempt["outcome"] in {Attempt.Outcome.FINISHED, Attempt.Outcome.RETRIED}
    ended = "finished_count" if went_well else "failed_count"
    seconds = (attempt["finished_at"] - attempt["started_at"]).total_seconds()
    counts = {ended: F(ended) + 1, "busy_seconds": F("busy_seconds") + seconds}
    Worker.objects.filter(pk=worker_id).update(**counts)


def _correct_figures(job: Job, stored: Attempt, fields: dict[str, Any]) -> None:
    """Count an attempt otherwise than it was stored, if that was not known yet. How long it waited stays."""
    before, after = _counted(vars(stored)), _counted(fields)
    if all(before[name] == after[name] for name in ("outcome", "worker_name", "fingerprint")):
        return
    add_attempt(job, **before, amount=-1)
    ran = None if stored.worker_name else _seconds_run(fields)  # Else that was counted, too.
    add_attempt(job, **after, ran_seconds=ran)


def _counted(attempt: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "outcome": attempt["outcome"],
        "at": attempt["finished_at"],
        "worker_name": attempt["worker_name"],
        "fingerprint": _fingerprint(attempt),
    }


def _seconds_waited(attempt: Mapping[str, Any], *queued_at: datetime | None) -> float | None:
    """Since the job was last queued before this attempt; None if that is not known."""
    began = attempt["started_at"]
    if not isinstance(began, datetime):
        return None
    return min(((began - at).total_seconds() for at in queued_at if at and at <= began), default=None)


def _seconds_run(attempt: Mapping[str, Any]) -> float | None:
    """None if that is not known: if no worker has told it."""
    began, ended = attempt["started_at"], attempt["finished_at"]
    if not (attempt["worker_name"] and isinstance(began, datetime) and isinstance(ended, datetime)):
        return None
    return max(0.0, (ended - began).total_seconds())
