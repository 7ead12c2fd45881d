"""Brings the ends of attempts from the worker to the database, however long that is away.

A report that is not written within a second waits in memory and in a file. The process tries again until it
ends; then the next `rqworker` of this user and project on this machine delivers the file.
"""

import logging
import threading
import time
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    connections,
    router,
    transaction,
)

from . import spool
from .models import Attempt, Job
from .models.workers import installation_id
from .outcomes import Outcome, record
from .patience import patience
from .retries import Retry
from .signals import job_finished
from .values import short

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
                if _is_refusal(error):  # Even without its values.
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
    for path, document in spool.kept():
        try:
            if document["installation"] != str(installation_id()):
                continue  # Of another database, which this project used then.
            is_delivered = _deliver(document)
        except (OperationalError, InterfaceError):
            raise
        except Exception as error:  # noqa: BLE001 - Whatever it holds, it must not keep the others waiting.
            spool.set_aside(path, error)
        else:
            if is_delivered:
                spool.drop(path)
                delivered += 1
    return delivered


def _deliver(document: dict[str, Any]) -> bool:
    job, outcome, worker_name = _read(document)
    if job is None:
        return True
    with transaction.atomic(using=router.db_for_write(Job)):
        if Job.objects.select_for_update(skip_locked=True).filter(pk=job.pk).first() is None:
            return False
        recorded = _record(job, outcome, worker_name)
    logger.warning("The report of job %s, which its worker could not write, is recorded.", job.pk)
    job_finished.send_robust(Job, job=job, outcome=recorded.kind)
    return True


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
                document = _document(*self._told)
                self._path = spool.keep(document["claim"], document)

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
            if not _is_refusal(error):
                raise
            logger.error("The database refuses what job %s tells: %s", job.pk, error)
            outcome = _without_values(outcome, f"The database refused it: {short(str(error), 1000)}")
            return record(job, outcome, worker_name)


def _is_refusal(error: Exception) -> bool:
    # Class 54 of PostgreSQL's errors: beyond a limit of its own, such as the size of a value.
    sqlstate = str(getattr(error.__cause__, "sqlstate", ""))
    return isinstance(error, DataError | IntegrityError) or sqlstate.startswith("54")


def _without_values(outcome: Outcome, why: str) -> Outcome:
    has_result = outcome.kind == Attempt.Outcome.FINISHED
    error = outcome.error if has_result else {**outcome.error, "error_message": why, "traceback": ""}
    result_error = why if has_result else ""
    return replace(outcome, error=error, log="", progress=None, result=None, result_error=result_error)


def _document(job: Job, outcome: Outcome, worker_name: str) -> dict[str, Any]:
    retry = outcome.retry and {"max": outcome.retry.max, "interval": outcome.retry.seconds_after(job.attempt)}
    return {
        "installation": str(installation_id()),
        "job": str(job.pk),
        "attempt": job.attempt,
        "claim": str(job.claim_id),
        "worker": str(job.worker_id) if job.worker_id else None,
        "worker_name": worker_name,
        "started_at": job.started_at.isoformat(),  # type: ignore[union-attr] # A claimed job has started.
        "outcome": {**asdict(replace(outcome, retry=None)), "retry": retry},
    }


def _read(document: dict[str, Any]) -> tuple[Job | None, Outcome, str]:
    """The job as it was claimed then, None if it is deleted; how its attempt ended; its worker's name."""
    told = dict(document["outcome"])
    retry = told.pop("retry")
    outcome = Outcome(**{**told, "kind": Attempt.Outcome(told["kind"]), "retry": retry and Retry(**retry)})
    job = Job.objects.filter(pk=UUID(document["job"])).first()
    if job:
        job.attempt, job.claim_id = int(document["attempt"]), UUID(document["claim"])
        job.worker_id = document["worker"] and UUID(document["worker"])
        job.started_at = datetime.fromisoformat(document["started_at"])
        job.elsewhere_until = None
    return job, outcome, str(document["worker_name"])
