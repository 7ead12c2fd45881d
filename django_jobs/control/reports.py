"""What work that goes on elsewhere reports: how far it is, and how it ended.

For jobs whose task returned `Elsewhere`, and as well for any other that has not ended: the first report wins.
`job` is a job or its id.
"""

from typing import Any
from uuid import UUID

from django.db import router, transaction

from ..exceptions import NotPossible
from ..models import Job, JobEvent, get_job
from ..outcomes import Outcome, end_from_outside
from ..stages import Stages, check_percent
from ..values import error_fields, error_message, json_error, result_error
from .steering import check_ours, check_permission, check_visible, leave, lock, refuse, trace

REPORTED_FAILURE = "ReportedFailure"
"""The error type of a failure that was reported as text."""


def update_progress(
    job: Job | str | UUID,
    percent: float,
    by: Any = None,
    *,
    message: str | None = None,
    stage: str | None = None,
) -> None:
    """Tell how far a job is, as `progress.update` does inside it. Raises `NotPossible` when it has ended."""
    check_permission(by, "report_job")
    check_percent(percent)
    job = _found(job, by)
    with transaction.atomic(using=router.db_for_write(Job)):
        for row in Job.objects.unfinished().select_for_update().filter(pk=job.pk):
            stages = Stages.of(row)
            stages.update(percent, message, stage)
            if Job.objects.filter(pk=row.pk, status=row.status).update(**stages.fields()):
                return
    raise _ended(job)


def complete(job: Job | str | UUID, result: Any = None, by: Any = None) -> Job:
    """End a job as finished, with its result.

    Raises `NotPossible` when it has ended, `TypeError` for a result that is not JSON and `ValueError` for one
    that is too large.
    """
    if problem := result_error(result):
        raise (TypeError if json_error(result) else ValueError)(problem)
    return _end(job, Outcome.finished(result=result, progress={"progress": 100}), by, "finished")


def fail(job: Job | str | UUID, error: str | BaseException, by: Any = None) -> Job:
    """Report that a job failed; if it has attempts left and has begun, the next one follows as planned.

    `error` is text or an exception. Raises `NotPossible` when the job has ended.
    """
    if isinstance(error, BaseException):
        outcome = Outcome.failed(**error_fields(error))
    else:
        outcome = Outcome.failed(REPORTED_FAILURE, error_message(str(error)), "")
    return _end(job, outcome, by, "failed")


def _end(job: Job | str | UUID, outcome: Outcome, by: Any, word: str) -> Job:
    check_permission(by, "report_job")
    job = _found(job, by)
    with transaction.atomic(using=router.db_for_write(Job)):
        lock(job)
        leave(job)
        if end_from_outside(job, outcome, final=False) is None:
            raise _ended(job)
        trace(job, JobEvent.Kind.REPORTED, by, f"Reported from elsewhere as {word}.")
        lock(job)
    return job


def _found(job: Job | str | UUID, by: Any) -> Job:
    found = job if isinstance(job, Job) else get_job(job)
    check_visible(found, by)
    check_ours(found)
    return found


def _ended(job: Job) -> NotPossible:
    return refuse(get_job(job.pk), "reported from elsewhere", "jobs that have not ended")
