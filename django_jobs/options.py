"""The options of `@task` and `using()`, checked where they are given."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Any

from django.utils import timezone

from .retries import LONGEST_SECONDS, Retry, in_seconds
from .values import is_storable, json_error

NO_TIMEOUT = -1  # as RQ spells it


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a task is enqueued. Durations are seconds or `timedelta`."""

    queue: str = "default"
    engine: str = "rq"
    retry: Retry | None = None
    timeout: float | timedelta | None = None  # None: the queue's default; -1: no limit
    idempotent: bool = False
    delay: float | timedelta | None = None
    at: datetime | None = None
    owner: Any = None
    subject: str = ""
    tags: Collection[str] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, kinds, wanted in _KINDS:
            value = getattr(self, name)
            if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
                raise TypeError(f"{name}={value!r} is of type {type(value).__name__}; give {wanted}.")
        self._check_times()
        if self.owner is not None and not getattr(self.owner, "pk", None):
            raise TypeError(f"owner={self.owner!r} is no saved user; give one, or None.")
        if len(self.subject) > 255 or not is_storable(self.subject):
            raise ValueError("subject= has at most 255 characters, none of them NUL.")
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
    ("subject", str, 'text such as "file:42"'),
    ("tags", (list, tuple, set, frozenset), "a list of words"),
    ("meta", Mapping, "a dict"),
]


def check_option_names(names: Mapping[str, Any]) -> None:
    """Raise `TypeError` for an option that does not exist."""
    known = [each.name for each in fields(Options)]
    for name in names:
        if name not in known:
            guess = get_close_matches(name, known, n=1)
            hint = f'did you mean "{guess[0]}"?' if guess else f"known are: {', '.join(known)}."
            raise TypeError(f'Unknown option "{name}"; {hint}')
