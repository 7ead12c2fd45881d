"""The only way in: checks calls, writes their rows, has them pushed at commit."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache, partial
from typing import Any
from uuid import UUID

from django.core.exceptions import SynchronousOnlyOperation
from django.db import connections, router, transaction
from django.utils import timezone

from . import registry, relay, sql
from .conf import settings
from .current import current_job
from .engines import check_supported, get_engine
from .exceptions import NotEnqueued
from .models import Job, new_job
from .options import NO_TIMEOUT, Options
from .retries import in_seconds
from .signals import job_enqueued
from .states import QUEUED, SCHEDULED
from .values import json_bytes, json_error

BATCH = 500  # rows in one INSERT
MOST_TRIES = 10
"""How often a unique job is tried whose key is held whenever it is inserted, and free whenever one looks."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a task, to be enqueued."""

    function: Callable[..., Any]
    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    options: Options


def enqueue_calls(calls: Iterable[Call]) -> list[Job]:
    """Write the rows of calls in the caller's transaction; their deliveries are pushed when that commits.

    Where only another database than the jobs' is in a transaction, or `database=` names another, the rows are
    written when that commits; the jobs returned have their ids already.

    Raises `TypeError` and `ValueError` for arguments that the function or JSON does not take, `UnknownQueue`,
    `UnknownEngine` and `UnsupportedByEngine`, before anything is written. That an engine's server is away
    raises nothing: the jobs wait in the database.
    """
    calls = list(calls)
    parent = current_job()
    parent_id = parent.pk if parent else None
    jobs = [_job_of(call, parent_id) for call in calls]
    delays = [in_seconds(call.options.delay or 0) for call in calls]
    alias = router.db_for_write(Job)
    try:
        if awaited := _awaited_databases(calls, alias):
            for job in jobs:  # What they were given may change before that commit.
                job.args, job.kwargs, job.meta = deepcopy((job.args, job.kwargs, job.meta))
            _after_commits(awaited, lambda: _write_in_place(jobs, delays, alias))
            return jobs
        return _write(jobs, delays, alias)
    except SynchronousOnlyOperation as error:
        raise SynchronousOnlyOperation(
            "Enqueueing writes to the database, which async code may not do directly: "
            "use `await task.aenqueue(…)`, or `await sync_to_async(task.enqueue)(…)`."
        ) from error


def _job_of(call: Call, parent_id: UUID | None) -> Job:
    options = call.options
    registry.check_importable(call.function, call.name)
    check_arguments(call)
    engine = get_engine(options.engine)
    engine.check_queue(options.queue)
    if options.at_front:
        check_supported(engine.name, "at_front", f"at_front=True for {call.name}")
    is_later = bool(options.delay) or (options.at is not None and options.at > timezone.now())
    job = new_job(
        task=call.name,
        description=options.description,
        args=list(call.args),
        kwargs=dict(call.kwargs),
        engine=options.engine,
        queue=options.queue,
        at_front=options.at_front,
        timeout_seconds=_timeout_seconds(options, engine.default_timeout_seconds(options.queue)),
        idempotent=options.idempotent,
        max_attempts=1 + (options.retry.max if options.retry else 0),
        retry_intervals=options.retry.intervals if options.retry else [],
        retry_jitter=options.retry.jitter if options.retry else 0,
        keep_result_seconds=_seconds(options.keep_result_for),
        subject=options.subject,
        tags=list(options.tags),
        meta=dict(options.meta),
        unique_key=options.unique,
        parent_id=parent_id,
        status=SCHEDULED if is_later else QUEUED,
        scheduled_for=options.at if is_later else None,
    )
    if options.owner is not None:
        job.owner = options.owner
    return job


def check_arguments(call: Call) -> None:
    """Raise `TypeError` or `ValueError` for arguments that the function or JSON does not take."""
    try:
        bound = _signature(call.function).bind(*call.args, **call.kwargs)
    except TypeError as error:
        raise TypeError(f"{call.name} cannot be called so: {error}") from None
    except ValueError as error:
        raise TypeError(
            f"{call.name} does not tell its arguments; call it from a function of your own."
        ) from error
    for name, value in bound.arguments.items():
        if problem := json_error(value):
            raise TypeError(
                f'Argument "{name}" of {call.name} {problem}. Arguments are stored as JSON: '
                "give an id, a path or plain values instead."
            )
    size = json_bytes([call.args, call.kwargs])
    if size > settings.MAX_ARGUMENTS_BYTES:
        raise ValueError(
            f"The arguments of {call.name} are {size:,} bytes of JSON; at most "
            f"{settings.MAX_ARGUMENTS_BYTES:,} are stored. Store them elsewhere and give an id or a path, or "
            'raise DJANGO_JOBS["MAX_ARGUMENTS_BYTES"].'
        )


_signature = lru_cache(maxsize=1000)(inspect.signature)


def _timeout_seconds(options: Options, default: int | None) -> int | None:
    if options.timeout is None:
        return default
    return None if options.timeout == NO_TIMEOUT else round(in_seconds(options.timeout))


def _awaited_databases(calls: Iterable[Call], alias: str) -> list[str]:
    """The databases whose transactions must commit before jobs are written to `alias`."""
    chosen = {call.options.database for call in calls}
    if len(chosen) > 1:
        raise ValueError(
            f"Calls with different database= ({', '.join(sorted(map(str, chosen)))}) do not go together; "
            "enqueue them apart."
        )
    database = next(iter(chosen), None)
    if database is not None:
        return [database] if database != alias else []
    if connections[alias].in_atomic_block:
        return []
    opened = connections.all(initialized_only=True)
    return [connection.alias for connection in opened if connection.in_atomic_block]


def _after_commits(aliases: Sequence[str], then: Callable[[], None]) -> None:
    awaited = set(aliases)

    def committed(alias: str) -> None:
        awaited.discard(alias)
        if not awaited:  # One that rolled back is awaited for ever.
            then()

    for alias in aliases:
        transaction.on_commit(partial(committed, alias), using=alias)


def _write_in_place(jobs: Sequence[Job], delays: Sequence[float], alias: str) -> None:
    for job, written in zip(jobs, _write(jobs, delays, alias), strict=True):
        vars(job).update(vars(written))


def _write(jobs: Sequence[Job], delays: Sequence[float], alias: str) -> list[Job]:
    """Insert the jobs; where the unique key of one is held, its holder stands in its place."""
    _set_due_times(jobs, delays, alias)
    held: dict[UUID, Job] = {}
    with transaction.atomic(using=alias) if len(jobs) > 1 else nullcontext():
        for batch in _batches(jobs):
            if batch[0].unique_key is None:
                sql.insert(batch, alias)
            else:
                held |= _insert_unique(batch, alias)
    new = [job for job in jobs if job.pk not in held]
    for job in new:
        job_enqueued.send_robust(Job, job=job)
    relay.push_at_commit([job for job in new if job.status == QUEUED], alias)
    return [held.get(job.pk, job) for job in jobs]


def _set_due_times(jobs: Sequence[Job], delays: Sequence[float], alias: str) -> None:
    if any(delays):
        now = sql.now(alias)
        for job, delay in zip(jobs, delays, strict=True):
            if delay:
                job.scheduled_for = now + timedelta(seconds=delay)


def _batches(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """What can go in one INSERT."""
    plain = [job for job in jobs if job.unique_key is None]
    # By their keys: two transactions that insert the same keys in different orders would block each other.
    unique = sorted((job for job in jobs if job.unique_key), key=lambda job: str(job.unique_key))
    for group in (plain, unique):
        for start in range(0, len(group), BATCH):
            yield group[start : start + BATCH]


def _insert_unique(jobs: Sequence[Job], alias: str) -> dict[UUID, Job]:
    held: dict[UUID, Job] = {}
    for _ in range(MOST_TRIES):
        # Nothing is raised on a conflict, so that the caller's transaction survives it.
        inserted = sql.insert(jobs, alias, ignore_conflicts=True)
        jobs = [job for job in jobs if job.pk not in inserted]
        holders = Job.objects.unfinished().filter(unique_key__in=[job.unique_key for job in jobs])
        by_key = {holder.unique_key: holder for holder in holders} if jobs else {}
        for holder in by_key.values():
            holder.deduplicated = True
        held |= {job.pk: by_key[job.unique_key] for job in jobs if job.unique_key in by_key}
        jobs = [job for job in jobs if job.unique_key not in by_key]  # Their holders ended meanwhile.
        if not jobs:
            return held
    raise NotEnqueued(
        f'The unique key "{jobs[0].unique_key}" is held by another job whenever {jobs[0].task} is enqueued, '
        "and yet no such job is seen; is this transaction's isolation level higher than READ COMMITTED?"
    )


def _seconds(duration: float | timedelta | None) -> float | None:
    return None if duration is None else in_seconds(duration)
