"""What happened to a job, told inside the process where it happened, and the receivers that log it.

job_enqueued   sent with `job` when its row was written; the transaction may still be rolled back
job_started    sent with `job` in the worker, after the claim
job_finished   sent with `job` and `outcome` in the worker, after the report; `job` is as it was claimed, and
               `outcome` the attempt's; not for attempts that were killed, lost, or ended from outside

Between processes facts travel by the database, never by a signal.
"""

import logging
from typing import Any

from django.dispatch import Signal, receiver

job_enqueued = Signal()
job_started = Signal()
job_finished = Signal()

logger = logging.getLogger("django_jobs")


@receiver(job_enqueued)
def _log_enqueued(job: Any, **kwargs: object) -> None:
    logger.debug("Job enqueued id=%s task=%s queue=%s status=%s", job.pk, job.task, job.queue, job.status)


@receiver(job_started)
def _log_started(job: Any, **kwargs: object) -> None:
    logger.info("Job started id=%s task=%s queue=%s attempt=%s", job.pk, job.task, job.queue, job.attempt)


@receiver(job_finished)
def _log_finished(job: Any, outcome: str, **kwargs: object) -> None:
    logger.info(
        "Job ended id=%s task=%s queue=%s attempt=%s outcome=%s",
        job.pk,
        job.task,
        job.queue,
        job.attempt,
        outcome,
    )
