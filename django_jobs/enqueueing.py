"""The only way in: checks a call, writes its row, has it pushed at commit."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from django.db import router
from django.db.models.functions import Now

from . import registry, relay
from .engines import get_engine
from .models import Job
from .options import NO_TIMEOUT, Options
from .retries import in_seconds
from .signals import job_enqueued
from .states import QUEUED, SCHEDULED
from .values import json_error


def enqueue_call(
    function: Callable[..., Any], path: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Options
) -> Job:
    """Write the row of a call in the caller's transaction; its delivery is pushed when that commits.

    Raises `TypeError` for arguments that the function or JSON does not take, `UnknownQueue` and
    `UnknownEngine`. That the engine's server is away raises nothing: the job waits in the database.
    """
    registry.check_importable(path)
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
        relay.push_at_commit(job, alias)
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
    return None if options.timeout == NO_TIMEOUT else round(in_seconds(options.timeout))


def _when(options: Options) -> dict[str, Any]:
    if options.at is not None:
        return {"status": SCHEDULED, "scheduled_for": options.at, "queued_at": None}
    if options.delay:
        due = Now() + timedelta(seconds=in_seconds(options.delay))
        return {"status": SCHEDULED, "scheduled_for": due, "queued_at": None}
    return {"status": QUEUED}
