"""Which job runs here."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from .models import Job

_current: ContextVar[Job | None] = ContextVar("django_jobs_current_job", default=None)


def current_job() -> Job | None:
    """The job that runs here, as it was when it was claimed; None outside a job."""
    return _current.get()


@contextmanager
def running(job: Job) -> Iterator[None]:
    """Have this be the job that runs in the block."""
    token = _current.set(job)
    try:
        yield
    finally:
        _current.reset(token)
