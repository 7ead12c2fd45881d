"""The row of a job that other code enqueued with an engine's plain library: how it comes about, and what
becomes of it as news of it come.

Each write is one UPDATE, guarded by the state that it was made for.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from django.db import router, transaction
from django.db.models import F
from django.db.models.functions import Now

from .engines.base import Run, Seen
from .fingerprints import fingerprint
from .models import Attempt, Job, Worker
from .models.figures import add_attempt
from .models.tallies import tally
from .models.workers import installation_id
from .states import CANCELED, FINISHED, QUEUED, STARTED, TERMINAL
from .values import TRACEBACK_LIMIT, error_message, kept

BATCH = 500
"""How many rows one statement takes."""

_NO_ERROR = ("", "", "")
_GONE = "It is no longer on its server: it was deleted, has expired, was lost, or made way for one of its id."
_UNKNOWN_END = "How this attempt ended is not known: the server keeps that of the last one only."
_RESULT_KEPT = "Plain {engine} keeps its result, for as long as it was told to."

READ = (
    *("observed_id", "task", "queue", "status", "attempt", "max_attempts", "claim_id", "worker"),
    *("scheduled_for", "queued_at", "started_at"),
)


def row_id(plain_id: str, created_at: datetime) -> UUID:
    """The id of a plain job's row: one for all who write it, and in the order of time as the others are."""
    milliseconds = max(0, int(created_at.timestamp() * 1000))
    return UUID(int=milliseconds << 80 | uuid5(installation_id(), plain_id).int & (1 << 80) - 1)


class Change:
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


def write(changes: Iterable[Change]) -> int:
    """Write them, each if its row has not changed meanwhile; how many were."""
    kinds: dict[Hashable, list[Change]] = {}
    for change in changes:
        kinds.setdefault(change.kind, []).append(change)
    written = 0
    for alike in kinds.values():
        with transaction.atomic(using=router.db_for_write(Job)):
            for start in range(0, len(alike), BATCH):
                written += _write_alike(alike[start : start + BATCH])
    return written


def _write_alike(changes: Sequence[Change]) -> int:
    first = changes[0]
    rows = Job.objects.filter(pk__in=[change.job.pk for change in changes], **first.guard)
    written = rows.update(**first.fields)
    if written:
        moved = Counter({(first.job.queue, first.job.status): -written})
        moved[first.fields.get("queue", first.job.queue), first.status] += written
        tally(moved)
        first.write_attempts()
    return written


def row_of(seen: Seen) -> Job:
    pk = row_id(seen.id, seen.created_at)
    row: Job | None = Job.objects.filter(pk=pk).only(*READ).first()
    if row is None:
        Job.objects.bulk_create([new_row(seen)], ignore_conflicts=True)
        row = Job.objects.only(*READ).get(pk=pk)
    return row


def new_row(seen: Seen) -> Job:
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
