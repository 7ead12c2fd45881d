"""Steering of jobs: cancel, stop, requeue, run now, mark failed, move, delete."""

from typing import Any

from django.db import IntegrityError, router, transaction
from django.db.models import F
from django.db.models.functions import Now

from .. import relay
from ..engines import Delivery, check_supported, get_engine
from ..exceptions import NotPossible, NotRequeueable, UnsupportedByEngine
from ..models import Job, JobEvent, QueueEvent
from ..models.jobs import NEXT_DELIVERY
from ..models.tallies import tally
from ..outcomes import Outcome, end_from_outside
from ..states import CANCELED, FAILED, FINISHED, QUEUED, STARTED, sources
from ..values import error_message, kept_begin
from ..visibility import visible
from .steering import check_ours, check_permission, leave, lock, refuse, trace, traced, verb, withdraw

MARKED_FAILED = "MarkedFailed"
"""The error type of a job that a person marked as failed."""

WAITING = [status for status in sources(CANCELED) if status != STARTED]
"""The states in which a job is canceled at once."""


def cancel(jobs: Any, by: Any = None) -> Any:
    """Stop a job that has not ended, and return True if this call stopped it or asked for it.

    One that waits is canceled at once. A started one, for which the permission `stop_job` is asked as well,
    stays `started` until its worker has stopped it; when it finishes first, it stays finished. Raises
    `UnsupportedByEngine` for a started one whose engine cannot stop it, and `NotPossible` for a job of plain
    RQ. For a queryset: how many, see `Steered`.
    """
    try:
        steered = _cancel(jobs, by)
    except UnsupportedByEngine:
        raise
    except NotPossible:
        if jobs.observed_id:
            raise
        return False
    return True if steered is None else steered


@verb("stop_job")
def stop(job: Job, by: Any = None) -> None:
    """Stop a job that runs: its process is ended, and the job canceled. Raises `NotPossible` for others, and
    `UnsupportedByEngine` where the engine cannot."""
    check_ours(job)
    with transaction.atomic(using=router.db_for_write(Job)):
        _stop(job, by)


@verb("requeue_job")
def requeue(job: Job, by: Any = None) -> Job:
    """Run a job that has ended once more, and return the job that will run.

    A failed or canceled one is reopened with one attempt more; a finished one stays as it is, and a new
    job with the same call is made, with `requeued_from`. Raises `NotRequeueable` while it has not ended, when
    it was failed or canceled as the caller knows it and has finished since, and when another unfinished job
    holds its unique key.
    """
    check_ours(job)
    known = job.status
    alias = router.db_for_write(Job)
    with transaction.atomic(using=alias):
        try:
            with transaction.atomic(using=alias):
                again = _reopen(job) or _copy_finished(job, known)
        except IntegrityError:
            raise key_is_held(job, by) from None
        trace(job, JobEvent.Kind.REQUEUED, by, "" if again is job else f"As new job {again.pk}.")
        relay.push_at_commit([again], alias)
    return again


@verb("run_job")
def run_now(job: Job, by: Any = None) -> Job:
    """Queue a scheduled job at once, also one that waits for its next attempt."""
    check_ours(job)
    alias = router.db_for_write(Job)
    with transaction.atomic(using=alias):
        due = {"status": QUEUED, "scheduled_for": None, "queued_at": Now()}
        queued = Job.objects.scheduled().filter(pk=job.pk).update(**due)
        lock(job)
        if not queued:
            raise refuse(job, "run before their time", "scheduled jobs")
        trace(job, JobEvent.Kind.RUN_NOW, by)
        relay.push_at_commit([job], alias)
    return job


@verb("fail_job")
def mark_failed(job: Job, by: Any = None, *, reason: str = "") -> Job:
    """End a job that has not ended as failed, with a reason; no attempt follows. One that runs is stopped if
    its engine can do that; else its function goes on, and how it ends is a late report."""
    check_ours(job)
    with transaction.atomic(using=router.db_for_write(Job)):
        lock(job)
        leave(job)
        # It may have been asked to cancel before; the later word counts.
        Job.objects.started().filter(pk=job.pk).update(cancel_requested_at=None)
        failed = Outcome.failed(MARKED_FAILED, error_message(reason) or "Marked as failed.", "")
        if end_from_outside(job, failed, final=True) is None:
            raise refuse(job, "marked as failed", "jobs that have not ended")
        lock(job)
        trace(job, JobEvent.Kind.MARKED_FAILED, by, kept_begin(reason, 2000))
    return job


@verb("move_job")
def move(job: Job, by: Any = None, *, queue: str) -> Job:
    """Let a waiting job wait on another queue. Raises `UnknownQueue`, and `NotPossible` once it has begun."""
    check_ours(job)
    get_engine(job.engine).check_queue(queue)
    alias = router.db_for_write(Job)
    with transaction.atomic(using=alias):
        lock(job)
        leave(job)
        before = job.queue
        if before == queue:
            raise NotPossible(f"Job {job.pk} is on the queue {queue} already.", "there already")
        waiting = Job.objects.filter(pk=job.pk, queue=before, status__in=WAITING)
        moved = waiting.update(queue=queue, **NEXT_DELIVERY)
        lock(job)
        if not moved:
            raise refuse(job, "moved", "jobs that wait")
        trace(job, JobEvent.Kind.MOVED, by, f"From {before} to {queue}.")
        if job.status == QUEUED:
            relay.push_at_commit([job], alias)
    return job


@verb("delete_job")
def delete(job: Job, by: Any = None) -> None:
    """Delete the row of a job with its attempts and events; one that runs is stopped if its engine can do
    that.

    The trace is with its queue: a `QueueEvent` with the job's id, task and user.
    """
    alias = router.db_for_write(Job)
    with transaction.atomic(using=alias):
        row = Job.objects.select_for_update().filter(pk=job.pk).first()
        if row is None:
            raise NotPossible(f"There is no job {job.pk}; it may have been deleted.", "deleted already")
        deleted_one(row, by).save()
        leave(row)
        try:
            with transaction.atomic(using=alias):
                row.delete()
        except IntegrityError as error:
            raise NotPossible(
                f"Job {row.pk} cannot be deleted, as other rows need it: {error}", "needed by other rows"
            ) from error


def deleted_one(job: Job, by: Any) -> QueueEvent:
    """The trace of a job that is deleted, to be saved."""
    message = traced(f"Job {job.pk}: {job.task}, {job.status}.")
    return QueueEvent(queue=job.queue, kind=QueueEvent.Kind.JOB_DELETED, by=by, message=message)


def cancel_waiting(job: Job, by: Any = None) -> None:
    """Cancel a job that waits; raises `NotPossible` for one that has begun. Asks for no permission."""
    check_ours(job)
    with transaction.atomic(using=router.db_for_write(Job)):
        now_canceled = {"status": CANCELED, "finished_at": Now(), "cancel_requested_at": Now()}
        canceled = Job.objects.filter(pk=job.pk, status__in=WAITING).update(**now_canceled)
        lock(job)
        if not canceled:
            raise refuse(job, "canceled", "jobs that have not ended")
        tally({(job.queue, CANCELED): 1})
        trace(job, JobEvent.Kind.CANCELED, by)
        delivery = Delivery.of(job)
        alias = router.db_for_write(Job)
        transaction.on_commit(lambda: withdraw(delivery, job.engine), using=alias, robust=True)


@verb("cancel_job")
def _cancel(job: Job, by: Any = None) -> None:
    check_ours(job)
    with transaction.atomic(using=router.db_for_write(Job)):
        lock(job)
        if job.status == STARTED:
            check_permission(by, "stop_job")
            _stop(job, by)
        else:
            cancel_waiting(job, by)


def _stop(job: Job, by: Any) -> None:
    asked = Job.objects.started().filter(pk=job.pk).update(cancel_requested_at=Now())
    lock(job)
    if not asked:
        raise refuse(job, "stopped", "started jobs")
    trace(job, JobEvent.Kind.CANCEL_REQUESTED, by)
    if job.elsewhere_until:  # No worker holds it that could confirm.
        end_from_outside(job, Outcome.canceled(), final=True)
        lock(job)
        trace(job, JobEvent.Kind.CANCELED, by)
    else:
        check_supported(job.engine, "stop", f"Job {job.pk}")
        leave(job)


def _reopen(job: Job) -> Job | None:
    """The job, queued again; None if it is finished. Raises `NotRequeueable` if it has not ended."""
    for status in (FAILED, CANCELED):
        reopened = Job.objects.filter(pk=job.pk, status=status).update(
            status=QUEUED, attempt=F("attempt") + 1, **FRESH
        )
        if reopened:
            lock(job)
            tally({(job.queue, status): -1})
            return job
    lock(job)
    if job.status != FINISHED:
        raise NotRequeueable(
            f"Job {job.pk} is {job.status}; only jobs that have ended can be requeued.", f"is {job.status}"
        )
    return None


def _copy_finished(job: Job, known: str) -> Job:
    if known in (FAILED, CANCELED):
        raise NotRequeueable(
            f"Job {job.pk} was {known} and has finished since: somebody else has requeued it. To run it once "
            "more, read it anew.",
            "is finished by now",
        )
    return copy_of(job)


def copy_of(job: Job, **changed: Any) -> Job:
    """A new row with the same call but for what is changed. Raises `IntegrityError` if its unique key is
    held."""
    call = {name: getattr(job, name) for name in _CALL}
    copy = Job(**{**call, **changed}, requeued_from=job)
    copy.save(force_insert=True)
    return copy


def key_is_held(job: Job, by: Any) -> NotRequeueable:
    """The error for a job whose unique key is held; it names the holder to those who may see it."""
    holder = visible(by, Job.objects.unfinished().filter(unique_key=job.unique_key)).first()
    which = f"job {holder.pk} holds, which is {holder.status}" if holder else "another job holds"
    return NotRequeueable(
        f'Job {job.pk} has the unique key "{job.unique_key}", which {which}; requeue it when that has ended.',
        "unique key held",
    )


FRESH: dict[str, Any] = {
    "delivery": 0,
    "delivered_at": None,
    "delivered_epoch": "",
    "worker": None,
    "claim_id": None,
    "losses": 0,
    "cancel_requested_at": None,
    "elsewhere_until": None,
    "result_expires_at": None,
    "scheduled_for": None,
    "queued_at": Now(),
    "started_at": None,
    "finished_at": None,
    "error_type": "",
    "error_message": "",
    "traceback": "",
    "fingerprint": "",
    "progress": 0,
    "progress_message": "",
    "stage": "",
    "stages": {},
    "stage_names": [],
}
"""A requeued job starts from nothing but what it was asked to do; how it went is in its attempts."""

_CALL = [
    "task",
    "description",
    "engine",
    "queue",
    "at_front",
    "args",
    "kwargs",
    "timeout_seconds",
    "idempotent",
    "max_attempts",
    "retry_intervals",
    "retry_jitter",
    "keep_result_seconds",
    "owner",
    "subject",
    "tags",
    "meta",
    "unique_key",
]
