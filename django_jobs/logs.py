"""Log records that tell which job they are about: `job_id`, `task`, `queue` and `attempt`, "-" outside a job.

The worker calls `install()`, so that every format may name them, and masks what it logs if `REDACT_AT_WRITE`
is on. Elsewhere, say in a web server with the same
LOGGING, a filter does it for the records of a handler:

    "filters": {"job": {"()": "django_jobs.logs.JobFilter"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "filters": ["job"], "formatter": "line"}},
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

from .conf import settings
from .redaction import redact_at_write

LINE = "%(asctime)s %(levelname)s %(name)s [%(job_id)s %(task)s %(queue)s %(attempt)s]: %(message)s"

_plain = logging.Formatter()
_OUTSIDE = dict.fromkeys(("job_id", "task", "queue", "attempt"), "-")

_current: ContextVar[dict[str, Any] | None] = ContextVar("django_jobs_log_fields", default=None)
_running: dict[object, dict[str, Any]] = {}
"""What runs in this process, for the records of threads: these know nothing of the context of a job."""


@contextmanager
def telling(job: Any) -> Iterator[None]:
    """Have the records that are made in this block tell this job; also those of threads, as long as this
    process runs no other."""
    fields = {"job_id": str(job.pk), "task": job.task, "queue": job.queue, "attempt": job.attempt}
    token, key = _current.set(fields), object()
    _running[key] = fields
    try:
        yield
    finally:
        del _running[key]
        _current.reset(token)


def is_told() -> bool:
    """Whether what is logged here is about a job because of its context, not because that runs alone."""
    return _current.get() is not None


def install() -> None:
    """Have all records of this process tell their job, whatever logger made them and whatever handler
    formats them."""
    factory = logging.getLogRecordFactory()
    if not isinstance(factory, _Factory):
        logging.setLogRecordFactory(_Factory(factory))


class JobFilter(logging.Filter):
    """Adds the fields to each record, and lets all through. What a record has under these names stays."""

    def filter(self, record: logging.LogRecord) -> bool:
        _add_fields(record)
        return True


class _Factory:
    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._make(*args, **kwargs)
        record._job = _fields()
        record.__class__ = _telling_its_job(type(record))  # type: ignore[arg-type] # A class has a hash.
        return record


@cache
def _telling_its_job(record_class: type[logging.LogRecord]) -> type[logging.LogRecord]:
    """A class of records that get the fields when they are formatted.

    Not when they are made: a record with the attribute `task` makes `logger.info(..., extra={"task": 1})` of
    anybody raise an error.
    """

    class JobRecord(record_class):  # type: ignore[misc, valid-type]
        def getMessage(self) -> str:
            _add_fields(self)
            if self.exc_info and not vars(self).get("exc_text") and settings.REDACT_AT_WRITE:
                # Formatters take it instead of `exc_info`, which stays for those who look at the error.
                self.exc_text = redact_at_write(_plain.formatException(self.exc_info))
            return redact_at_write(super().getMessage())

        def __reduce__(self) -> Any:
            return logging.makeLogRecord, (vars(self),)  # Where it is unpickled, this class is not known.

    return JobRecord


def _add_fields(record: logging.LogRecord) -> None:
    fields: dict[str, Any] = getattr(record, "_job", None) or _fields()
    for name, value in fields.items():
        vars(record).setdefault(name, value)


def _fields() -> dict[str, Any]:
    if fields := _current.get():
        return fields
    running = list(_running.values())
    return running[0] if running and all(each == running[0] for each in running) else _OUTSIDE
