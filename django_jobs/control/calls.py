"""Calls that people make: a task of their choice, and a job once more with other arguments."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from django.db import IntegrityError, router, transaction

from .. import registry, relay
from ..enqueueing import Call, check_arguments, enqueue_calls
from ..exceptions import NotPossible, NotRequeueable
from ..models import Job, JobEvent
from ..options import Options
from ..tasks import task_of
from ..visibility import is_visible
from .jobs import copy_of, key_is_held
from .steering import check_ours, check_permission, check_visible, lock, trace


def enqueue(
    task: Callable[..., Any] | str,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    by: Any = None,
    **options: Any,
) -> Job:
    """Enqueue a call of a task, or of another function that may run as a job; the trace names the user.

    `options` are those of `using()`. Raises what `enqueue` raises: `TaskNotAllowed`, `TaskNotFound`, and
    `TypeError` or `ValueError` for arguments that the function or JSON does not take. With `unique=` and an
    unfinished job of that key it returns that job, and raises `NotPossible` if `by` may not see it.
    """
    check_permission(by, "enqueue_job")
    chosen = _allowed(task).using(**options)
    call = Call(chosen.function, chosen.name, *_checked(args, kwargs), replace(chosen.options, database=None))
    with transaction.atomic(using=router.db_for_write(Job)):
        [job] = enqueue_calls([call])
        if not job.deduplicated:
            trace(job, JobEvent.Kind.ENQUEUED, by)
    if job.deduplicated and not is_visible(by, job):
        raise NotPossible(f'Another job holds the unique key "{job.unique_key}".', "unique key held")
    return job


def requeue_edited(job: Job, args: Sequence[Any], kwargs: Mapping[str, Any], by: Any = None) -> Job:
    """Run a job that has ended once more with other arguments: a new job, with `requeued_from`.

    The job itself stays as it is. Raises `NotRequeueable` while it has not ended and while its unique key is
    held, and what `enqueue` raises for its task and the arguments.
    """
    check_permission(by, "requeue_job", "edit_job_arguments")
    if not isinstance(job, Job):
        raise TypeError(f"requeue_edited({job!r}, …): give a job, such as get_job(id).")
    check_visible(job, by)
    check_ours(job)
    args, kwargs = _checked(args, kwargs)
    check_arguments(Call(_allowed(job.task).function, job.task, args, kwargs, Options()))
    alias = router.db_for_write(Job)
    with transaction.atomic(using=alias):
        lock(job)
        if not job.has_ended:
            raise NotRequeueable(
                f"Job {job.pk} is {job.status}; only jobs that have ended can be requeued.",
                f"is {job.status}",
            )
        try:
            with transaction.atomic(using=alias):
                again = copy_of(job, args=args, kwargs=kwargs)
        except IntegrityError:
            raise key_is_held(job, by) from None
        trace(job, JobEvent.Kind.REQUEUED, by, f"With other arguments, as new job {again.pk}.")
        trace(again, JobEvent.Kind.REQUEUED, by, f"From job {job.pk}, with other arguments.")
        relay.push_at_commit([again], alias)
    return again


def _allowed(task: Callable[..., Any] | str) -> Any:
    if isinstance(task, str):
        # Before anything is imported: a name that somebody typed must not import any module there is.
        registry.discover()
        registry.check_allowed(task)
    return task_of(task)


def _checked(args: Any, kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
    if not isinstance(args, list | tuple):
        raise TypeError(f"args={args!r}; give a list of the positional arguments.")
    if kwargs is not None and not (
        isinstance(kwargs, Mapping) and all(isinstance(name, str) for name in kwargs)
    ):
        raise TypeError(f"kwargs={kwargs!r}; give a dict of the arguments by their names.")
    return list(args), dict(kwargs or {})
