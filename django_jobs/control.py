"""Steering: what people and programs may do to a job. Each verb checks the permission, guards the change
by the job's state, and leaves a trace with the user.

`by` is the user who asks; None means trusted code, which may do everything.
"""

import logging
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import router, transaction
from django.db.models import F
from django.db.models.functions import Greatest, Now

from . import relay
from .engines import Delivery, get_engine
from .exceptions import EngineUnavailable, NotRequeueable
from .models import Job, JobEvent
from .states import CANCELED, FAILED, FINISHED, QUEUED, STARTED, sources

logger = logging.getLogger(__name__)

_WAITING = [status for status in sources(CANCELED) if status != STARTED]


def cancel(job: Job, by: Any = None) -> bool:
    """Stop a job that has not ended, and return True if this call stopped it or asked for it.

    One that waits is canceled at once. A started one stays `started` until its worker has stopped it;
    when it finishes first, it stays finished.
    """
    _check_permission(by, "cancel_job")
    with transaction.atomic(using=router.db_for_write(Job)):
        waiting = Job.objects.filter(pk=job.pk, status__in=_WAITING)
        if waiting.update(status=CANCELED, finished_at=Now(), cancel_requested_at=Now()):
            kind = JobEvent.Kind.CANCELED
        elif Job.objects.started().filter(pk=job.pk).update(cancel_requested_at=Now()):
            kind = JobEvent.Kind.CANCEL_REQUESTED
        else:
            return False
        job.refresh_from_db()
        _trace(job, kind, by)
        if kind == JobEvent.Kind.CANCELED and job.delivered_at:
            transaction.on_commit(lambda: _withdraw(job), using=router.db_for_write(Job), robust=True)
    return True


def requeue(job: Job, by: Any = None) -> Job:
    """Run a job that has ended once more, and return the job that will run.

    A failed or canceled one is reopened with one attempt more; a finished one stays as it is, and a new
    job with the same call is made, with `requeued_from`. Raises `NotRequeueable` while it has not ended.
    """
    _check_permission(by, "requeue_job")
    alias = router.db_for_write(Job)
    with transaction.atomic(using=alias):
        reopened = Job.objects.filter(pk=job.pk, status__in=[FAILED, CANCELED]).update(
            status=QUEUED,
            attempt=F("attempt") + 1,
            max_attempts=Greatest(F("max_attempts"), F("attempt") + 1),
            **_FRESH,
        )
        job.refresh_from_db()
        if reopened:
            again = job
        elif job.status == FINISHED:
            again = _copy(job)
        else:
            raise NotRequeueable(f"Job {job.pk} is {job.status}; only jobs that have ended can be requeued.")
        _trace(job, JobEvent.Kind.REQUEUED, by, "" if reopened else f"As new job {again.pk}.")
        relay.push_at_commit(again, alias)
    return again


def _check_permission(by: Any, codename: str) -> None:
    if by is not None and not by.has_perm(f"django_jobs.{codename}"):
        raise PermissionDenied(f"User {by} lacks the permission django_jobs.{codename}.")


def _trace(job: Job, kind: JobEvent.Kind, by: Any, message: str = "") -> None:
    JobEvent.objects.create(job=job, kind=kind, attempt=job.attempt, by=by, message=message)


def _withdraw(job: Job) -> None:
    try:
        get_engine(job.engine).withdraw(Delivery.of(job))
    except EngineUnavailable as error:
        logger.info("The delivery of canceled job %s stays; its claim will fail: %s", job.pk, error)


# A requeued job starts from nothing but what it was asked to do; how it went is in its attempts.
_FRESH: dict[str, Any] = {
    "delivery": 0,
    "delivered_at": None,
    "delivered_epoch": "",
    "worker": None,
    "claim_id": None,
    "losses": 0,
    "cancel_requested_at": None,
    "scheduled_for": None,
    "queued_at": Now(),
    "started_at": None,
    "finished_at": None,
    "error_type": "",
    "error_message": "",
    "traceback": "",
    "progress": 0,
    "progress_message": "",
    "stage": "",
    "stages": {},
    "stage_names": [],
}

_CALL = [
    "task",
    "engine",
    "queue",
    "args",
    "kwargs",
    "timeout_seconds",
    "idempotent",
    "max_attempts",
    "retry_intervals",
    "owner",
    "subject",
    "tags",
    "meta",
]


def _copy(job: Job) -> Job:
    copy = Job(**{name: getattr(job, name) for name in _CALL}, requeued_from=job)
    copy.save(force_insert=True)
    return copy
