"""The only way in: checks a call and its options, writes the row, has it pushed at commit."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Any

from django.db import router, transaction
from django.db.models.functions import Now
from django.utils import timezone

from . import registry, relay
from .engines import get_engine
from .models import Job
from .retries import Retry
from .signals import job_enqueued
from .states import QUEUED, SCHEDULED
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
        self._check_types()
        if self.delay is not None and self.at is not None:
            raise ValueError("delay= and at= both say when; give one of them.")
        if self.at is not None and timezone.is_naive(self.at):
            raise ValueError(
                f"at={self.at!r} has no time zone, so the moment it means is unknown; "
                "give an aware datetime, for example django.utils.timezone.make_aware(at)."
            )
        if self.delay is not None and _seconds(self.delay) < 0:
            raise ValueError(f"delay={self.delay!r} lies in the past; a delay is 0 or more seconds.")
        if self.timeout is not None and _seconds(self.timeout) < 1 and self.timeout != NO_TIMEOUT:
            raise ValueError(f"timeout={self.timeout!r}: at least 1 second, or -1 for no limit.")
        if len(self.subject) > 255 or not is_storable(self.subject):
            raise ValueError("subject= has at most 255 characters, none of them NUL.")
        for name, value in (("tags", list(self.tags)), ("meta", dict(self.meta))):
            if problem := json_error(value):
                raise TypeError(f"{name}= {problem}.")

    def _check_types(self) -> None:
        for name, kinds, wanted in _KINDS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise TypeError(f"{name}={value!r} is a {type(value).__name__}; give {wanted}.")


_DURATION = (int, float, timedelta, type(None))
_KINDS: list[tuple[str, Any, str]] = [
    ("queue", str, "the name of a queue"),
    ("engine", str, "the name of an engine"),
    ("retry", (Retry, type(None)), "Retry(max=…, interval=…)"),
    ("timeout", _DURATION, "seconds or a timedelta"),
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


def enqueue(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Job:
    """Enqueue a call of `function` on the queue "default", or as its `@task` says.

    All further arguments are the function's own; options are given with `task(function).using(…)`.
    """
    enqueue_task = getattr(function, "enqueue", None)  # It is a Task: its options count.
    if enqueue_task is not None:
        return enqueue_task(*args, **kwargs)  # type: ignore[no-any-return]
    path = registry.path_of(function)
    registry.load(path)
    return enqueue_call(function, path, args, kwargs, Options())


def enqueue_call(
    function: Callable[..., Any], path: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Options
) -> Job:
    """Write the row of a call in the caller's transaction; its delivery is pushed when that commits.

    Raises `TypeError` for arguments that the function or JSON does not take, `UnknownQueue` and
    `UnknownEngine`. That the engine's server is away raises nothing: the job waits in the database.
    """
    _check_arguments(function, path, args, kwargs)
    engine = get_engine(options.engine)
    engine.check_queue(options.queue)
    job = Job(
        task=path,
        args=list(args),
        kwargs=dict(kwargs),
        engine=options.engine,
        queue=options.queue,
        timeout_seconds=_timeout_seconds(options, engine.default_timeout_seconds(options.queue)),
        idempotent=options.idempotent,
        max_attempts=1 + (options.retry.max if options.retry else 0),
        retry_intervals=options.retry.intervals if options.retry else [],
        owner=options.owner,
        subject=options.subject,
        tags=list(options.tags),
        meta=dict(options.meta),
        **_when(options),
    )
    alias = router.db_for_write(Job)
    job.save(using=alias, force_insert=True)
    if job.status == SCHEDULED:
        job.refresh_from_db(fields=["scheduled_for"])
    else:
        transaction.on_commit(lambda: relay.push_at_commit(job), using=alias, robust=True)
    job_enqueued.send_robust(Job, job=job)
    return job


def _check_arguments(
    function: Callable[..., Any], path: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{path} cannot be called so: {error}") from None
    except ValueError as error:
        raise TypeError(
            f"{path} does not tell its arguments; call it from a function of your own."
        ) from error
    for name, value in bound.arguments.items():
        if problem := json_error(value):
            raise TypeError(
                f'Argument "{name}" of {path} {problem}. Arguments are stored as JSON: '
                "give an id, a path or plain values instead."
            )


def _timeout_seconds(options: Options, default: int | None) -> int | None:
    if options.timeout is None:
        return default
    return None if options.timeout == NO_TIMEOUT else round(_seconds(options.timeout))


def _when(options: Options) -> dict[str, Any]:
    if options.at is not None:
        return {"status": SCHEDULED, "scheduled_for": options.at, "queued_at": None}
    if options.delay:
        due = Now() + timedelta(seconds=_seconds(options.delay))
        return {"status": SCHEDULED, "scheduled_for": due, "queued_at": None}
    return {"status": QUEUED}


def _seconds(duration: float | timedelta) -> float:
    return duration.total_seconds() if isinstance(duration, timedelta) else duration
