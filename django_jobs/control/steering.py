"""What all verbs share: permission, trace, and doing one thing to many jobs."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Protocol, TypeVar, overload

from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet

from .. import relay
from ..engines import Delivery, get_engine
from ..exceptions import EngineUnavailable, NotPossible, UnknownQueue
from ..models import Job, JobEvent, Worker

BATCH = 500

logger = logging.getLogger(__name__)

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


@dataclass(slots=True)
class Steered:
    """What became of a verb for many jobs: how many it was done to, and why not to the others."""

    done: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """{why: how many}, for example {"is finished": 2}."""

    def __str__(self) -> str:
        why = ", ".join(f"{count} {reason}" for reason, count in self.refused.most_common())
        return f"{self.done} done, {self.refused.total()} not: {why}" if why else f"{self.done} done"


class Verb(Protocol[R_co]):
    @overload
    def __call__(self, jobs: Job, by: Any = None, **options: Any) -> R_co: ...
    @overload
    def __call__(self, jobs: QuerySet[Job], by: Any = None, **options: Any) -> Steered: ...


def verb(permission: str) -> Callable[[Callable[..., R]], Verb[R]]:
    """Make a function of one job a verb: with a permission, and for a queryset as well.

    The function is called with a job and raises `NotPossible` when the job is in no state for it.
    """

    def decorate(function: Callable[..., R]) -> Verb[R]:
        @wraps(function)
        def steer(jobs: Any, by: Any = None, **options: Any) -> Any:
            check_permission(by, permission)
            if isinstance(jobs, Job):
                return function(jobs, by, **options)
            if isinstance(jobs, QuerySet) and jobs.model is Job:
                return each(function, jobs, by, **options)
            raise TypeError(f"{function.__name__}({jobs!r}): give a job or a queryset of jobs.")

        return steer

    return decorate


def each(function: Callable[..., Any], jobs: QuerySet[Job], by: Any, **options: Any) -> Steered:
    """Call `function` for each of the jobs that are there now; a refused one does not stop the others."""
    steered = Steered()
    for job in _one_by_one(jobs):
        try:
            function(job, by, **options)
        except NotPossible as refusal:
            steered.refused[refusal.reason] += 1
        else:
            steered.done += 1
    return steered


def check_permission(by: Any, codename: str) -> None:
    if by is not None and not by.has_perm(f"django_jobs.{codename}"):
        raise PermissionDenied(f"User {by} lacks the permission django_jobs.{codename}.")


def check_ours(job: Job) -> None:
    """Raise `NotPossible` for a job that is only observed: its library decides what becomes of it."""
    if job.observed_id:
        raise NotPossible(
            f"Job {job.pk} was enqueued by other code with plain {job.engine}, where its id is "
            f"{job.observed_id}; steer it there.",
            "only observed",
        )


def refuse(job: Job, verb: str, allowed: str) -> NotPossible:
    """The error for a job in no state for a verb; `job` is as it is now."""
    return NotPossible(f"Job {job.pk} is {job.status}; only {allowed} can be {verb}.", f"is {job.status}")


def trace(job: Job, kind: JobEvent.Kind, by: Any, message: str = "") -> None:
    JobEvent.objects.create(job=job, kind=kind, attempt=job.attempt, by=by, message=message)


def withdraw(delivery: Delivery, engine: str) -> None:
    """Take back a delivery that is void, best effort."""
    if not relay.reaches_out():
        return
    try:
        get_engine(engine).withdraw(delivery)
    except (EngineUnavailable, UnknownQueue) as error:
        logger.info("Delivery %s stays; its claim will fail: %s", delivery.id, error)


def alert_worker(job: Job) -> None:
    """Have the worker of a started job look at once whether it is still to run it, best effort."""
    worker = Worker.objects.filter(pk=job.worker_id).first() if job.worker_id else None
    if worker is None:
        return
    try:
        get_engine(job.engine).alert(worker.name, Delivery.of(job))
    except (EngineUnavailable, UnknownQueue) as error:
        logger.info("Worker %s sees at its next sign of life what became of %s: %s", worker, job.pk, error)


def _one_by_one(jobs: QuerySet[Job]) -> Iterator[Job]:
    for page in [list(jobs)] if jobs.query.is_sliced else _pages(jobs):
        yield from page


def _pages(jobs: QuerySet[Job]) -> Iterator[list[Job]]:
    """By id and in pages, as each page's jobs are changed before the next is read; none that came later."""
    jobs = jobs.order_by("pk")
    if newest := jobs.last():
        page = list(jobs.filter(pk__lte=newest.pk)[:BATCH])
        while page:
            yield page
            page = list(jobs.filter(pk__gt=page[-1].pk, pk__lte=newest.pk)[:BATCH])
