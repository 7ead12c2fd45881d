"""What all verbs share: who may, what is seen, the trace, and doing one thing to many jobs."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any, Protocol, TypeVar, overload
from uuid import UUID

from django.core.exceptions import PermissionDenied
from django.db import router, transaction
from django.db.models import QuerySet

from .. import relay
from ..conf import settings
from ..engines import Delivery, get_engine
from ..engines.base import BaseEngine
from ..exceptions import EngineUnavailable, JobDoesNotExist, NotPossible, ReadOnly
from ..models import Job, JobEvent, Worker
from ..states import QUEUED, STARTED
from ..visibility import is_visible, visible

BATCH = 500

logger = logging.getLogger(__name__)

_part_of: ContextVar[str] = ContextVar("django_jobs_part_of", default="")

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
                check_visible(jobs, by)
                return function(jobs, by, **options)
            if isinstance(jobs, QuerySet) and issubclass(jobs.model, Job):
                return each(function, jobs, by, **options)
            raise TypeError(
                f"{function.__name__.lstrip('_')}({jobs!r}): give a job, such as get_job(id), or a queryset "
                "of jobs."
            )

        return steer

    return decorate


def each(function: Callable[..., Any], jobs: QuerySet[Job], by: Any, **options: Any) -> Steered:
    """Call `function` for each of the jobs that are there now; a refused one does not stop the others.

    One that is not among them any more when its turn comes is left out, and so are those that `by` may not
    see.
    """
    steered = Steered()
    is_fixed = _is_fixed(jobs)
    if not is_fixed:
        jobs = visible(by, jobs)
    for job in _one_by_one(jobs):
        if is_fixed and not is_visible(by, job):
            continue
        try:
            with transaction.atomic(using=router.db_for_write(Job)):
                _check_chosen(job, jobs)
                function(job, by, **options)
        except NotPossible as refusal:
            steered.refused[refusal.reason] += 1
        except PermissionDenied:
            steered.refused[f"is {job.status}, which takes another permission"] += 1
        except JobDoesNotExist:
            steered.refused["deleted already"] += 1
        else:
            steered.done += 1
    return steered


def check_permission(by: Any, *codenames: str) -> None:
    """Raise `PermissionDenied` unless this user has all of these permissions, and `ReadOnly` where nobody may
    steer. None is trusted code, which always may."""
    if by is None:
        return
    if not hasattr(by, "has_perm"):
        raise TypeError(f"by={by!r} is no user; give one, and options by their names, such as queue=…")
    check_not_read_only()
    for codename in codenames:
        if not by.has_perm(f"django_jobs.{codename}"):
            raise PermissionDenied(f"User {by} lacks the permission django_jobs.{codename}.")


def check_not_read_only() -> None:
    """Raise `ReadOnly` where nobody may steer: for what acts for a person whom it cannot name."""
    if settings.READ_ONLY:
        raise ReadOnly('DJANGO_JOBS["READ_ONLY"] is True: jobs, queues and workers are only looked at here.')


def check_visible(job: Job, by: Any) -> None:
    """Raise `JobDoesNotExist` for a job that this user may not see."""
    if not is_visible(by, job):
        raise _gone(job)


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


def lock(job: Job) -> None:
    """Read the row anew; nobody else changes it before this transaction ends. Raises `JobDoesNotExist`."""
    try:
        job.refresh_from_db(from_queryset=Job.objects.select_for_update())
    except Job.DoesNotExist:
        raise _gone(job) from None


def trace(job: Job, kind: JobEvent.Kind, by: Any, message: str = "") -> None:
    JobEvent.objects.create(job=job, kind=kind, attempt=job.attempt, by=by, message=traced(message))


def traced(message: str) -> str:
    """The message of a trace, with what the change is part of."""
    return " ".join(filter(None, [message, _part_of.get()]))


@contextmanager
def part_of(what: str) -> Iterator[None]:
    """Have the traces within this block tell what the change is part of: a sentence."""
    token = _part_of.set(what)
    try:
        yield
    finally:
        _part_of.reset(token)


def leave(job: Job) -> None:
    """After the commit, take back the delivery that this job awaits, or have its worker look what became of
    the attempt that it runs. To be called before the change, with the job as it stands until then.
    """
    delivery = Delivery.of(job)
    if job.status == STARTED and job.worker_id:
        tell = partial(alert_worker, job.worker_id, delivery, job.engine)
    elif job.status == QUEUED and not job.observed_id:
        tell = partial(withdraw, delivery, job.engine)
    else:
        return
    # Not the partial itself: Django 5.2 asks what it calls robustly for a __qualname__.
    transaction.on_commit(lambda: tell(), using=router.db_for_write(Job), robust=True)


def withdraw(delivery: Delivery, engine: str) -> None:
    """Take back a delivery that is void, best effort: its claim would fail anyway."""
    _tell(engine, delivery, lambda engine: engine.withdraw(delivery))


def alert_worker(worker_id: UUID, delivery: Delivery, engine: str) -> None:
    """Have a worker look at once whether it is still to run this, best effort: it looks again soon anyway."""
    if worker := Worker.objects.filter(pk=worker_id).first():
        _tell(engine, delivery, lambda engine: engine.alert(worker.name, delivery))


def _gone(job: Job) -> JobDoesNotExist:
    return JobDoesNotExist(f"There is no job {job.pk}; it may have been deleted.")


def _tell(name: str, delivery: Delivery, say: Callable[[BaseEngine], None]) -> None:
    engine = get_engine(name)
    server = next((server for server, queues in engine.servers().items() if delivery.queue in queues), None)
    if server is None or not relay.reaches_out():
        return
    # A second for each of a thousand jobs would be too long; with pushes it rests after one that failed.
    if relay.rests(server):
        return
    try:
        say(engine)
    except EngineUnavailable as error:
        relay.let_rest(server)
        logger.info("Nothing is said to %s about %s, which is void: %s", name, delivery.id, error)


def _check_chosen(job: Job, jobs: QuerySet[Job]) -> None:
    """Lock the row of a job read from `jobs`; raise `NotPossible` if it would not be chosen any more."""
    now = copy(job)
    lock(now)
    if _columns(now) == _columns(job):
        return
    is_chosen = now.status == job.status if _is_fixed(jobs) else jobs.filter(pk=job.pk).exists()
    if not is_chosen:
        raise NotPossible(
            f"Job {job.pk} is {now.status} by now, or otherwise changed.", f"is {now.status} by now"
        )


def _columns(job: Job) -> dict[str, Any]:
    return {name: value for name, value in vars(job).items() if name != "_state"}


def _is_fixed(jobs: QuerySet[Job]) -> bool:
    """True for what takes no further filter."""
    return bool(jobs.query.is_sliced or jobs.query.combinator)


def _one_by_one(jobs: QuerySet[Job]) -> Iterator[Job]:
    for page in [list(jobs)] if _is_fixed(jobs) else _pages(jobs):
        yield from page


def _pages(jobs: QuerySet[Job]) -> Iterator[list[Job]]:
    """By id and in pages, as each page's jobs are changed before the next is read; none that came later."""
    jobs = (jobs if jobs.query.standard_ordering else jobs.reverse()).order_by("pk")
    if newest := jobs.last():
        page = list(jobs.filter(pk__lte=newest.pk)[:BATCH])
        while page:
            yield page
            page = list(jobs.filter(pk__gt=page[-1].pk, pk__lte=newest.pk)[:BATCH])
