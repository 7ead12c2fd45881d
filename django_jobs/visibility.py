"""Which jobs a user may see: all, unless a function of the project tells otherwise."""

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db.models import QuerySet
from django.utils.module_loading import import_string

from .conf import settings
from .models import Job


def visible(user: Any, jobs: QuerySet[Job]) -> QuerySet[Job]:
    """Those of these jobs that this user may see; for None, which is trusted code, all of them.

    `jobs` takes further filters: it is no slice and no union. Raises `ImproperlyConfigured` when VISIBLE_JOBS
    names no function, or one that returns anything but such a queryset.
    """
    if user is None or settings.VISIBLE_JOBS is None:
        return jobs
    chosen = _hook(settings.VISIBLE_JOBS)(user, jobs)
    if not isinstance(chosen, QuerySet) or not issubclass(chosen.model, Job):
        raise ImproperlyConfigured(
            f'DJANGO_JOBS["VISIBLE_JOBS"]: {settings.VISIBLE_JOBS} returned a {type(chosen).__name__}; '
            "allowed is the queryset that it was given, with more filters."
        )
    if chosen.query.is_sliced or chosen.query.combinator:
        raise ImproperlyConfigured(
            f'DJANGO_JOBS["VISIBLE_JOBS"]: {settings.VISIBLE_JOBS} returned a slice or a union, which takes '
            "no further filters; allowed is the queryset that it was given, with more filters."
        )
    if not chosen.query.distinct and _may_repeat(chosen):
        return jobs.filter(pk__in=chosen.order_by().values("pk"))
    return chosen


def sees_all(user: Any) -> bool:
    """Whether nothing limits which jobs this user may see. What is told of all jobs is for nobody else."""
    return not visible(user, Job.objects.all()).query.has_filters()


def is_visible(user: Any, job: Job) -> bool:
    """Whether this user may see this job; True of a job that is gone where all may see all."""
    if user is None or settings.VISIBLE_JOBS is None:
        return True
    return visible(user, Job.objects.filter(pk=job.pk)).exists()


def hook_problem() -> str:
    """Why VISIBLE_JOBS is of no use, empty if it is."""
    try:
        if settings.VISIBLE_JOBS is not None:
            _hook(settings.VISIBLE_JOBS)
    except ImproperlyConfigured as problem:
        return str(problem)
    return ""


def _may_repeat(jobs: QuerySet[Job]) -> bool:
    """Whether a job may be there more than once: as often as there are rows of a table that was joined."""
    joins = (getattr(table, "join_field", None) for table in jobs.query.alias_map.values())
    return any(join is not None and (join.one_to_many or join.many_to_many) for join in joins)


def _hook(path: str) -> Any:
    try:
        hook = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(
            f'DJANGO_JOBS["VISIBLE_JOBS"] is "{path}", which cannot be imported: {error}.'
        ) from error
    if not callable(hook):
        raise ImproperlyConfigured(
            f'DJANGO_JOBS["VISIBLE_JOBS"] is "{path}", which is a {type(hook).__name__}; allowed is a '
            "function of a user and a queryset of jobs."
        )
    return hook
