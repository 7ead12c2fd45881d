"""Steering of many jobs in a few statements, for operations: by the rules of the same verbs for one job.

The jobs are those that one transaction has locked, `is_alike` of each, and `done` by one user. What needs a
closer look is left to the verb itself.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from django.db import router, transaction
from django.db.models import F
from django.db.models.functions import Now

from .. import relay
from ..engines import Delivery
from ..models import Job, JobEvent, QueueEvent
from ..models.tallies import tally
from ..states import CANCELED, FAILED, QUEUED, TERMINAL
from .jobs import FRESH, WAITING, deleted_one
from .steering import traced, withdraw

COLUMNS = ("status", "engine", "observed_id", "unique_key", *Delivery.COLUMNS)
"""What is read of the jobs."""


def requeue(jobs: Sequence[Job], by: Any) -> None:
    alias = router.db_for_write(Job)
    before = Counter((job.queue, job.status) for job in jobs)
    _rows(jobs).update(status=QUEUED, attempt=F("attempt") + 1, **FRESH)
    tally({key: -count for key, count in before.items()})
    for job in jobs:
        job.status, job.attempt, job.delivery = QUEUED, job.attempt + 1, 0
    _trace(jobs, JobEvent.Kind.REQUEUED, by)
    relay.push_at_commit(jobs, alias)


def cancel(jobs: Sequence[Job], by: Any) -> None:
    _rows(jobs).update(status=CANCELED, finished_at=Now(), cancel_requested_at=Now())
    tally(Counter((job.queue, CANCELED.value) for job in jobs))
    _trace(jobs, JobEvent.Kind.CANCELED, by)
    deliveries = [(Delivery.of(job), job.engine) for job in jobs if job.status == QUEUED]

    def withdraw_all() -> None:
        for delivery, engine in deliveries:
            withdraw(delivery, engine)

    transaction.on_commit(withdraw_all, using=router.db_for_write(Job), robust=True)


def delete(jobs: Sequence[Job], by: Any) -> None:
    """Raises `IntegrityError` if rows of other apps need one of them."""
    QueueEvent.objects.bulk_create(deleted_one(job, by) for job in jobs)
    _rows(jobs).only("pk").delete()  # Arguments and results may be large.


TOGETHER: Mapping[Callable[..., Any], Collection[str]] = {
    requeue: (FAILED, CANCELED),
    cancel: WAITING,
    delete: sorted(TERMINAL),
}
"""Each with the states in which jobs are alike."""


def is_alike(verb: Callable[..., Any], job: Job) -> bool:
    """Whether the verb asks for nothing of this job but its state. Locked as it is, it keeps that."""
    if job.status not in TOGETHER[verb]:
        return False
    return verb is delete or not (job.observed_id or (verb is requeue and job.unique_key))


def _rows(jobs: Sequence[Job]) -> Any:
    return Job.objects.filter(pk__in=[job.pk for job in jobs])


def _trace(jobs: Sequence[Job], kind: JobEvent.Kind, by: Any) -> None:
    message = traced("")
    JobEvent.objects.bulk_create(
        JobEvent(job=job, kind=kind, attempt=job.attempt, by=by, message=message) for job in jobs
    )
