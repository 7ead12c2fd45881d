"""Brings the ends of attempts from the worker to the database, however long that is away.

A report that is not written within a second waits in memory and in a file. The process tries again until it
ends; then the next `rqworker` of this user and project on this machine delivers the file.
"""

import json
import logging
import threading
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    connections,
    router,
    transaction,
)

from . import spool, sql
from .models import Attempt, Job
from .models.figures import bucket, seconds_waited
from .models.workers import installation_id
from .outcomes import Outcome, after_failure, as_counted, fail_untold, record
from .patience import patience
from .retries import Retry
from .signals import job_finished
from .states import FINISHED
from .values import error_message, short

RETRY_EVERY_SECONDS = 1
KEEP_AFTER_SECONDS = 1
LONGEST_WRITE_SECONDS = 60
"""After which a database that takes a report and does not answer is taken to hang."""

logger = logging.getLogger(__name__)


def report(job: Job, outcome: Outcome, *, worker_name: str) -> None:
    """Record how a claimed attempt ended, and what comes next for its job.

    Waits for a database that is away. Changes no state when the attempt was superseded meanwhile.
    """
    with _Keeping(job, outcome, worker_name) as keeping:
        while True:
            try:
                recorded = _record(job, outcome, worker_name)
                break
            except (DatabaseError, InterfaceError) as error:
                keeping.keep()
                if is_refusal(error):  # Even without its values.
                    raise
                logger.warning("The report of job %s could not be written; trying again: %s", job.pk, error)
                connections.close_all()
                time.sleep(RETRY_EVERY_SECONDS)
        keeping.drop()
    job_finished.send_robust(Job, job=job, outcome=recorded.kind)


def deliver_kept() -> int:
    """Record what processes that have ended left in files; how many. Raises the database's error when that is
    away. Waits for no transaction that holds a job's row; a later call sees to it."""
    delivered = 0
    for path, told in spool.kept():
        try:
            if told["installation"] != str(installation_id()):
                continue  # Of another database, which this project used then.
            is_delivered = deliver(told)
        except Exception as error:  # Whatever it holds, it must not keep the others waiting.
            if is_away(error):
                raise
            spool.set_aside(path, error)
        else:
            if is_delivered:
                spool.drop(path)
                delivered += 1
    return delivered


def keep(told: dict[str, Any]) -> Path | None:
    """Keep this report, a `document`, in a file; None if that is not possible."""
    return spool.keep(f"{told['claim']}.{told['job']}", {"installation": str(installation_id()), **told})


def kept_claims() -> set[tuple[UUID, UUID]]:
    """The job and the claim of each report in a file, as its name tells."""
    kept = set()
    for name in spool.names():
        claim, _, job = name.partition(".")
        with suppress(ValueError):
            kept.add((UUID(job), UUID(claim)))
    return kept


def deliver(told: dict[str, Any], *, is_late: bool = True) -> bool:
    """Record this report, a `document`; False if another transaction holds the job's row.

    `is_late`: its process has ended, and nobody there tells that the attempt has.
    """
    job, outcome, worker_name = _read(told)
    if job is None:
        return True
    with transaction.atomic(using=router.db_for_write(Job)):
        if Job.objects.select_for_update(skip_locked=True).filter(pk=job.pk).first() is None:
            return False
        recorded = _record(job, outcome, worker_name)
    if is_late:
        logger.warning("The report of job %s, which its worker could not write, is recorded.", job.pk)
        job_finished.send_robust(Job, job=job, outcome=recorded.kind)
    return True


def give_up(told: dict[str, Any], error: Exception) -> None:
    """Have the job fail whose report, a `document`, the database takes in no form: it must not run again for
    that, nor hold up others."""
    logger.error("The report of job %s cannot be recorded: %r", told["job"], error)
    job, _, worker_name = _read(told)
    if job:
        fail_untold(job, f"The database refuses its report: {error!r}", worker_name)


class _Keeping:
    """Keeps one report in a file once it failed, or hung for `KEEP_AFTER_SECONDS`, until it is dropped."""

    def __init__(self, job: Job, outcome: Outcome, worker_name: str) -> None:
        self._told = job, outcome, worker_name
        self._lock = threading.Lock()
        self._is_needed = True
        self._path: Path | None = None
        self._timer = threading.Timer(KEEP_AFTER_SECONDS, self.keep)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()

    def keep(self) -> None:
        with self._lock:
            # Only a process that has run no delivery does not know its installation.
            if self._is_needed and not self._path and installation_id.cache_info().currsize:
                self._path = keep(document(*self._told))

    def drop(self) -> None:
        with self._lock:
            self._is_needed = False
            if self._path:
                spool.drop(self._path)


def _record(job: Job, outcome: Outcome, worker_name: str) -> Outcome:
    """Record it, without what the database refuses for its values; what was recorded."""
    with patience(router.db_for_write(Job), LONGEST_WRITE_SECONDS):
        try:
            return record(job, outcome, worker_name)
        except DatabaseError as error:
            if not is_refusal(error):
                raise
            logger.error("The database refuses what job %s tells: %s", job.pk, error)
            told = short(error_message(str(error)), 1000)
            outcome = _without_values(outcome, f"The database refused it: {told}")
            return record(job, outcome, worker_name)


def is_away(error: Exception) -> bool:
    """True for what another try may mend; else it is the report."""
    return isinstance(error, DatabaseError | InterfaceError) and not is_refusal(error)


def is_refusal(error: Exception) -> bool:
    """True if the database takes the report in no other way than without its values."""
    # Class 54 of PostgreSQL's errors: beyond a limit of its own, such as the size of a value.
    sqlstate = str(getattr(error.__cause__, "sqlstate", ""))
    return isinstance(error, DataError | IntegrityError) or sqlstate.startswith("54")


def _without_values(outcome: Outcome, why: str) -> Outcome:
    has_result = outcome.kind == Attempt.Outcome.FINISHED
    error = outcome.error if has_result else {**outcome.error, "error_message": why, "traceback": ""}
    result_error = why if has_result else ""
    return replace(outcome, error=error, log="", progress=None, result=None, result_error=result_error)


def document(job: Job, outcome: Outcome, worker_name: str) -> dict[str, Any]:
    """All of a report in JSON's types: what is sent to the process that records it, or kept in a file.

    `status` is what comes next for the job, empty for what cannot be recorded together with other reports.
    """
    alias = router.db_for_write(Job)
    outcome = as_counted(job, outcome)
    status, seconds = _what_comes_next(job, outcome)
    progress = outcome.progress or {}
    waited = seconds_waited(job)
    return {
        "job": str(sql.database_uuid(job.pk, alias)),
        "attempt": job.attempt,
        "claim": str(sql.database_uuid(job.claim_id, alias)),  # type: ignore[arg-type] # A claimed job has one.
        "queue": job.queue,
        "task": job.task,
        "worker": str(job.worker_id) if job.worker_id else None,
        "worker_name": worker_name,
        "started_at": str(connections[alias].ops.adapt_datetimefield_value(job.started_at)),
        "status": status if outcome.progress else "",
        "wait_seconds": seconds,
        "keep_seconds": job.keep_result_seconds,
        "outcome": outcome.kind,
        **outcome.error,
        "log": outcome.log,
        **progress,
        **{name: _as_json(progress[name]) for name in ("stages", "stage_names") if progress},
        "result": None if outcome.result is None else json.dumps(outcome.result),
        "result_error": outcome.result_error,
        "retry": outcome.retry
        and {"max": outcome.retry.max, "interval": outcome.retry.seconds_after(job.attempt)},
        "elsewhere_seconds": outcome.elsewhere_seconds,
        "ran_seconds": outcome.ran_seconds,
        "fingerprint": outcome.fingerprint,
        "waited_seconds": waited,
        "wait_bucket": None if waited is None else bucket(waited),
        "run_bucket": bucket(outcome.ran_seconds) if outcome.ran_seconds else None,
    }


def progress_document(job: Job, fields: dict[str, Any]) -> dict[str, Any]:
    """The progress and the log of an attempt that goes on, in JSON's types."""
    alias = router.db_for_write(Job)
    return {
        "job": str(sql.database_uuid(job.pk, alias)),
        "attempt": job.attempt,
        "claim": str(sql.database_uuid(job.claim_id, alias)),  # type: ignore[arg-type] # A claimed job has one.
        **fields,
        "stages": _as_json(fields["stages"]),
        "stage_names": _as_json(fields["stage_names"]),
        "log": fields["live_log"],
    }


def _as_json(stages: dict[str, Any] | list[str]) -> str:
    return json.dumps(stages) if stages else str(stages)  # Most jobs have none.


def _what_comes_next(job: Job, outcome: Outcome) -> tuple[str, float]:
    if outcome.kind == Attempt.Outcome.FINISHED:
        return FINISHED, 0
    if outcome.kind in (Attempt.Outcome.FAILED, Attempt.Outcome.RETRIED):
        return after_failure(job, outcome)
    return "", 0


def _read(told: dict[str, Any]) -> tuple[Job | None, Outcome, str]:
    """The job as it was claimed then, None if it is deleted; how its attempt ended; its worker's name."""
    progress = None
    if "progress" in told:
        progress = {name: told[name] for name in ("progress", "progress_message", "stage")}
        progress |= {name: json.loads(told[name]) for name in ("stages", "stage_names")}
    outcome = Outcome(
        kind=Attempt.Outcome(told["outcome"]),
        error={name: told[name] for name in ("error_type", "error_message", "traceback")},
        log=told["log"],
        progress=progress,
        result=None if told["result"] is None else json.loads(told["result"]),
        result_error=told["result_error"],
        retry=told["retry"] and Retry(**told["retry"]),
        elsewhere_seconds=told["elsewhere_seconds"],
        ran_seconds=told["ran_seconds"],
    )
    job = Job.objects.filter(pk=UUID(told["job"])).first()
    if job:
        job.attempt, job.claim_id = int(told["attempt"]), UUID(told["claim"])
        job.worker_id = told["worker"] and UUID(told["worker"])
        job.started_at = _moment(told["started_at"])
        job.elsewhere_until = None
    return job, outcome, str(told["worker_name"])


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
