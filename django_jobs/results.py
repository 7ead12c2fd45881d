"""How a job ended, for whoever waits for it: a result object as Taskiq's users know it."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db.models.functions import Now

from .exceptions import JobFailed, ResultExpired
from .models import Job, get_job
from .states import CANCELED, FINISHED


@dataclass(frozen=True, slots=True)
class TaskResult:
    """How a job ended. `error` is None unless `is_err`, which is true for failed and canceled jobs."""

    job_id: UUID
    is_err: bool
    return_value: Any
    error: str | None
    execution_time: float
    """Seconds that the last attempt ran; 0 if none did."""
    result_error: str = ""
    """Why what the task returned is not kept, and `return_value` is None; empty if it is."""

    def raise_for_error(self) -> None:
        """Raise `JobFailed` if the job did not finish."""
        if self.is_err:
            raise JobFailed(f"Job {self.job_id} did not finish: {self.error}")


def get_task_result(job_id: str | UUID) -> TaskResult | None:
    """The result of this job, None while it has not ended.

    Raises `JobDoesNotExist`, and `ResultExpired` after the time that `keep_result_for` gave the result.
    """
    job = get_job(job_id)
    return _result(job) if job.has_ended else None


def wait_task_result(job_id: str | UUID, timeout: float | None = None) -> TaskResult:
    """The result of this job as soon as it has ended.

    Raises `WaitTimeout` when it has not after `timeout` seconds, `JobDoesNotExist` and `ResultExpired`.
    """
    return _result(get_job(job_id).wait(timeout))


async def aget_task_result(job_id: str | UUID) -> TaskResult | None:
    """`get_task_result` for async code."""
    return await sync_to_async(get_task_result)(job_id)


async def await_task_result(job_id: str | UUID, timeout: float | None = None) -> TaskResult:
    """`wait_task_result` for async code."""
    job = await sync_to_async(get_job)(job_id)
    return await sync_to_async(_result)(await job.await_result(timeout))


def _result(job: Job) -> TaskResult:
    if job.status == FINISHED and job.result_expires_at and _has_expired(job):
        raise ResultExpired(
            f"The result of job {job.pk} was kept for {job.keep_result_seconds:g} s, until "
            f"{job.result_expires_at:%Y-%m-%d %H:%M:%S.%f %Z}; keep_result_for= says how long."
        )
    return TaskResult(
        job_id=job.pk,
        is_err=job.status != FINISHED,
        return_value=job.result,
        error=_error(job),
        execution_time=job.duration.total_seconds() if job.duration else 0,
        result_error=job.result_error,
    )


def _has_expired(job: Job) -> bool:
    """By the database's clock, as all times of jobs."""
    return not Job.objects.filter(pk=job.pk, result_expires_at__gt=Now()).exists()


def _error(job: Job) -> str | None:
    if job.status == FINISHED:
        return None
    if job.status == CANCELED and not job.error_type:
        return "canceled"
    return f"{job.error_type}: {job.error_message}" if job.error_message else job.error_type
