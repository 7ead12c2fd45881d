"""The options of `@task` and `using()`, checked where they are given."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings as django_settings
from django.utils import timezone

from .conf import LIMITS
from .retries import LONGEST_SECONDS, Retry, in_seconds
from .values import did_you_mean, is_storable, json_error

NO_TIMEOUT = -1  # as RQ spells it


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a task is enqueued. Durations are seconds or `timedelta`.

    Raises `TypeError` for a value of a wrong type, and `ValueError` for one that is not allowed.
    """

    queue: str = "default"
    engine: str = "rq"
    retry: Retry | None = None
    timeout: float | timedelta | None = None  # None: the queue's default; -1: no limit
    idempotent: bool = False
    delay: float | timedelta | None = None
    at: datetime | None = None
    at_front: bool = False
    unique: str | None = None  # one unfinished job per key
    owner: Any = None
    subject: str = ""
    tags: Collection[str] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""
    keep_result_for: float | timedelta | None = None  # None: as long as the row
    database: str | None = None  # whose transaction the enqueue waits for, if not the jobs' own

    def __post_init__(self) -> None:
        for name, kinds, wanted in _KINDS:
            value = getattr(self, name)
            if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
                raise TypeError(f"{name}={value!r} is of type {type(value).__name__}; give {wanted}.")
        self._check_times()
        if self.unique is not None and not self.unique:
            raise ValueError('unique="" is no key; give one such as "file:42", or None.')
        if self.database is not None and self.database not in django_settings.DATABASES:
            known = did_you_mean(self.database, django_settings.DATABASES)
            raise ValueError(f'Unknown database "{self.database}"; {known}')
        if self.owner is not None and not getattr(self.owner, "pk", None):
            raise TypeError(f"owner={self.owner!r} is no saved user; give one, or None.")
        for name in ("subject", "description", "unique"):
            text = getattr(self, name) or ""
            if len(text) > 255 or not is_storable(text):
                raise ValueError(f"{name}= has at most 255 characters, none of them NUL.")
        for tag in self.tags:
            if not isinstance(tag, str) or not tag:
                raise TypeError(f"tags= holds {tag!r}; a tag is a word.")
        for name, value in (("tags", list(self.tags)), ("meta", dict(self.meta))):
            if problem := json_error(value):
                raise TypeError(f"{name}= {problem}.")

    def _check_times(self) -> None:
        if self.delay is not None and self.at is not None:
            raise ValueError("delay= and at= both say when; give one of them.")
        if self.delay is not None and not 0 <= in_seconds(self.delay) < LONGEST_SECONDS:
            raise ValueError(f"delay={self.delay!r}: from 0 seconds to {LONGEST_SECONDS:,}.")
        if self.timeout not in (None, NO_TIMEOUT) and not 1 <= in_seconds(self.timeout) < LONGEST_SECONDS:
            raise ValueError(
                f"timeout={self.timeout!r}: from 1 second to {LONGEST_SECONDS:,}, or -1 for no limit."
            )
        if self.keep_result_for is not None and not 0 <= in_seconds(self.keep_result_for) < LONGEST_SECONDS:
            raise ValueError(
                f"keep_result_for={self.keep_result_for!r}: from 0 seconds to {LONGEST_SECONDS:,}, "
                "or None for as long as the row."
            )
        if self.at is not None and timezone.is_naive(self.at):
            raise ValueError(
                f"at={self.at!r} has no time zone, so the moment it means is unknown; "
                "give an aware datetime, for example django.utils.timezone.make_aware(at)."
            )
        if self.at is not None and not 1 < self.at.year < 9999:
            raise ValueError(f"at={self.at!r} lies beyond what databases store.")


_DURATION = (int, float, timedelta, type(None))
_KINDS: list[tuple[str, Any, str]] = [
    ("queue", str, "the name of a queue"),
    ("engine", str, "the name of an engine"),
    ("retry", (Retry, type(None)), "django_jobs.Retry(max=…, interval=…)"),
    ("timeout", _DURATION, "seconds or a timedelta"),
    ("idempotent", bool, "True or False"),
    ("delay", _DURATION, "seconds or a timedelta"),
    ("at", (datetime, type(None)), "a datetime"),
    ("at_front", bool, "True or False"),
    ("unique", (str, type(None)), 'text such as "file:42"'),
    ("subject", str, 'text such as "file:42"'),
    ("description", str, "text"),
    ("keep_result_for", _DURATION, "seconds or a timedelta"),
    ("database", (str, type(None)), "the alias of a database"),
    ("tags", (list, tuple, set, frozenset), "a list of words"),
    ("meta", Mapping, "a dict"),
]


def check_option_names(names: Mapping[str, Any]) -> None:
    """Raise `TypeError` for an option that does not exist."""
    known = [*(each.name for each in fields(Options)), *LIMITS]
    for name in names:
        if name in LIMITS:
            raise TypeError(
                f"{name} is a limit of the task, not of a call: give it to @task, or to the queue with "
                'DJANGO_JOBS["QUEUE_LIMITS"].'
            )
        if name not in known:
            raise TypeError(f'Unknown option "{name}"; {did_you_mean(name, known)}')
