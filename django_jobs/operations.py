"""A verb for all jobs that match a search, done in the background, a chunk after the other.

What is done to a chunk's jobs and how far that brings the operation are written in one transaction. So a
maintainer that is killed leaves a chunk done or undone, and the next one goes on behind it: no job is left
out, and none is dealt with twice. The operation's row is locked meanwhile, and other maintainers pass it by.
Redis hears of it after the commit; what it does not hear, the relay tells it.
"""

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.db import IntegrityError, InterfaceError, OperationalError, router, transaction
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.utils.translation import gettext

from . import control, sql
from .control import together
from .control.steering import check_permission, part_of
from .exceptions import JobsError, SearchError
from .models import Job, Operation, QueueEvent
from .models.counting import CountOf, IdsOf, selected
from .models.workers import MOST_COUNTED
from .monitor import check_queue
from .redaction import redact_text
from .searching import Search, parse, replaced, strands
from .states import QUEUED
from .values import kept_begin, short
from .visibility import sees_all, visible

CHUNK = 500
"""How many jobs are dealt with in one transaction at most."""
SINGLY = 100
"""How many of them one after the other, as each takes several statements."""
LOOKED_THROUGH = 20_000
"""How many rows one statement looks through at most for jobs that match."""
LONGEST_LOOK_SECONDS = 0.5
LONGEST_PASS_SECONDS = 1
MOST_AT_ONCE = 100

Verb = Operation.Verb

PERMISSIONS: Mapping[str, str] = {
    Verb.REQUEUE: "requeue_job",
    Verb.CANCEL: "cancel_job",
    Verb.STOP: "stop_job",
    Verb.RUN_NOW: "run_job",
    Verb.MARK_FAILED: "fail_job",
    Verb.MOVE: "move_job",
    Verb.DELETE: "delete_job",
}
"""What each verb asks for besides `bulk_job`."""

_VERBS: Mapping[str, Callable[..., control.Steered]] = {verb: getattr(control, verb) for verb in Verb.values}
_TOGETHER: Mapping[str, Callable[..., None]] = {
    Verb.REQUEUE: together.requeue,
    Verb.CANCEL: together.cancel,
    Verb.DELETE: together.delete,
}
_OPTIONS: Mapping[str, str] = {Verb.MOVE: "queue", Verb.MARK_FAILED: "reason"}
_BY = "by"  # Among the options: the name of who started it, as the row of that user may be deleted.

logger = logging.getLogger(__name__)


def start(verb: str, search: str, by: Any = None, **options: Any) -> Operation:
    """Have the maintainer do this to all jobs that match the search now, and return the operation.

    `options` are those of the verb: `queue=` to move to, `reason=` to mark as failed. Needs `bulk_job`, what
    the verb itself needs, and `view_job_arguments` or `view_worker` where the search asks for arguments or
    workers. Raises `SearchError` for a search that is empty or cannot be understood, `ValueError` for an
    unknown verb, `TypeError` for options that it does not take, `UnknownQueue`, and `PermissionDenied`.
    """
    verb = _checked_verb(verb)
    check_permission(by, "bulk_job", PERMISSIONS[verb])
    meant = parse(search)
    if not meant:
        raise SearchError(
            gettext("The search is empty, which would mean all jobs; say which, such as status:failed.")
        )
    _check_may_search(by, meant)
    lower, upper = meant.span
    given = _checked_options(verb, options)
    newest = Job.objects.filter(pk__lte=upper).order_by("pk").values_list("pk", flat=True).last()
    operation: Operation = Operation.objects.create(
        verb=verb,
        options=given if by is None else {**given, _BY: short(str(by), 255)},
        search=search,
        by=by,
        newest=newest,
        # What was enqueued since two hours ago is that by today's clock, however long it takes.
        cursor=UUID(int=max(0, lower.int - 1)),
    )
    told = by or "trusted code"
    logger.info("Operation %s is to %s: %s, by %s.", operation.pk, verb, redact_text(search), told)
    return operation


def start_emptying(queue: str, by: Any = None) -> Operation:
    """Have the maintainer cancel all jobs that are queued on this queue now: `control.empty` for many.

    Needs what `start` needs, and `manage_queue`. Raises what `start` raises.
    """
    check_permission(by, "manage_queue")
    check_queue(queue)
    operation = start(Operation.Verb.CANCEL, replaced("", {"queue": queue, "status": QUEUED.value}), by=by)
    message = f"Its queued jobs are canceled by operation {operation.pk}."
    QueueEvent.objects.create(queue=queue, kind=QueueEvent.Kind.EMPTIED, by=by, message=message)
    return operation


def seen_by(user: Any) -> QuerySet[Operation]:
    """The operations that this user may know of: all, or the own ones of who may see some jobs only."""
    operations: QuerySet[Operation] = Operation.objects.all()
    return operations if user is None or sees_all(user) else operations.filter(by=user)


def permissions_to_abort(operation: Operation, by: Any) -> Sequence[str]:
    """What `abort` asks for: `bulk_job`, and `abort_operation` where somebody else started it."""
    return ["bulk_job"] if operation.by_id == getattr(by, "pk", None) else ["bulk_job", "abort_operation"]


def abort(operation: Operation, by: Any = None) -> bool:
    """Have an operation end after the chunk in hand; False if it has ended, or was told to already."""
    if by is not None:
        check_permission(by, *permissions_to_abort(operation, by))
    going_on = Operation.objects.unfinished().filter(pk=operation.pk, abort_requested_at__isnull=True)
    told = "" if by is None else f"Aborted by {short(str(by), 255)}."
    asked = bool(going_on.update(abort_requested_at=Now(), error=told))
    operation.refresh_from_db()
    if asked:
        logger.info("Operation %s is to be aborted, by %s.", operation.pk, by or "trusted code")
    return asked


def run_once() -> int:
    """Go on with the operations that have not ended, with each by one chunk; how many can go on at once.

    Ends after the chunk during which a second was over.
    """
    over_at = time.monotonic() + LONGEST_PASS_SECONDS
    ids = list(Operation.objects.unfinished().values_list("pk", flat=True)[:MOST_AT_ONCE])
    random.shuffle(ids)  # So that none waits for all before it.
    going_on = 0
    for operation_id in ids:
        going_on += _go_on(operation_id)
        if time.monotonic() > over_at:
            break
    return going_on


def remaining_seconds(operation: Operation) -> float | None:
    """How long an operation will take from now, at the pace at which it went so far; None if nobody knows."""
    if operation.finished_at or not operation.started_at or not operation.newest or not operation.cursor:
        return None
    elapsed = (sql.now(router.db_for_write(Job)) - operation.started_at).total_seconds()
    handled = operation.done + sum(operation.refused.values())
    if operation.matched is not None and operation.matched <= MOST_COUNTED:
        share = handled / operation.matched if operation.matched else 1.0
    else:  # Ids begin with the time of enqueue.
        try:
            lower = parse(operation.search).span[0]
        except SearchError:  # Not understood any more, as after a change of settings; it is about to end.
            return None
        first = Job.objects.filter(pk__gte=lower).order_by("pk").values_list("pk", flat=True).first()
        if not first or not first < operation.cursor:
            return None
        share = (operation.cursor.int - first.int) / (operation.newest.int - first.int)
    return elapsed * (1 - min(share, 1)) / share if share > 0 else None


def _checked_verb(verb: str) -> Operation.Verb:
    try:
        return Verb(verb)
    except ValueError:
        raise ValueError(f'Unknown verb "{verb}"; allowed are: {", ".join(Verb.values)}.') from None


def _checked_options(verb: Operation.Verb, options: Mapping[str, Any]) -> dict[str, str]:
    known = _OPTIONS.get(verb)
    for name, value in options.items():
        if name != known:
            raise TypeError(f"{name}= is no option of {verb}; {f'{known}= is' if known else 'it has none'}.")
        if not isinstance(value, str):
            raise TypeError(f"{name}={value!r} is of type {type(value).__name__}; give text.")
    if verb == Verb.MOVE:
        if "queue" not in options:
            raise TypeError("move takes a queue to move to: queue=….")
        check_queue(options["queue"])
    return {
        name: kept_begin(value, 2000) if name == "reason" else short(value, 2000)
        for name, value in options.items()
    }


def _go_on(operation_id: UUID) -> bool:
    """Do the next chunk; True if another one follows."""
    rows = Operation.objects.unfinished().filter(pk=operation_id)
    try:
        matched = _count_before_the_first(rows)
        with transaction.atomic(using=router.db_for_write(Job)):
            operation = rows.select_for_update(skip_locked=True).first()
            return operation is not None and _advance(operation, matched)
    except (OperationalError, InterfaceError):
        raise  # The database is away, or a deadlock was resolved: it is tried again.
    except Exception as error:
        if not isinstance(error, JobsError | PermissionDenied | ImproperlyConfigured):
            logger.exception("Operation %s stumbled.", operation_id)
        told = str(error) if isinstance(error, JobsError | PermissionDenied) else _told(error)
        rows.update(state=Operation.State.FAILED, error=kept_begin(told, 2000), finished_at=Now())
        logger.warning("Operation %s failed: %s", operation_id, told)
        return False


def _count_before_the_first(rows: QuerySet[Operation]) -> int | None:
    """How many jobs match, before the first chunk. To count them may take a second: nothing is locked."""
    operation = rows.filter(started_at__isnull=True, abort_requested_at__isnull=True).first()
    if operation is None:
        return None
    _check_still_allowed(operation)
    return _count(_matching(operation), operation)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _advance(operation: Operation, matched: int | None) -> bool:
    row = Operation.objects.filter(pk=operation.pk)
    if operation.abort_requested_at:
        row.update(state=Operation.State.ABORTED, finished_at=Now())
        logger.info("Operation %s was aborted: %s done.", operation.pk, operation.done)
        return False
    _check_still_allowed(operation)
    jobs = _matching(operation)
    changed: dict[str, Any] = {"state": Operation.State.RUNNING}
    if operation.started_at is None:
        changed |= {"started_at": Now(), "matched": matched}
    steered, cursor = _chunk(operation, jobs)
    changed |= {
        "cursor": cursor,
        "done": operation.done + steered.done,
        "refused": dict(Counter(operation.refused) + steered.refused),
    }
    has_ended = cursor is None or cursor == operation.newest
    if has_ended:
        changed |= {"state": Operation.State.DONE, "finished_at": Now()}
        logger.info("Operation %s is done: %s.", operation.pk, changed["done"])
    row.update(**changed)
    return not has_ended


def _check_still_allowed(operation: Operation) -> None:
    """Who started it may have lost the permission since, or the account."""
    by, name = operation.by, operation.options.get(_BY)
    if by is None and name is not None:
        raise PermissionDenied(f"User {name}, who started it, was deleted.")
    if by is not None and not getattr(by, "is_active", True):
        raise PermissionDenied(f"User {by}, who started it, is not active any more.")
    check_permission(by, "bulk_job", PERMISSIONS[operation.verb])
    _check_may_search(by, parse(operation.search))


def _check_may_search(by: Any, search: Search) -> None:
    # How many there are tells of them.
    if search.asks_for("args."):
        check_permission(by, "view_job_arguments")
    if search.asks_for("worker"):
        check_permission(by, "view_worker")


def _meant(operation: Operation) -> Search:
    # Its times are in cursor and newest.
    return replace(parse(operation.search), since=None, until=None)


def _matching(operation: Operation) -> QuerySet[Job]:
    return visible(operation.by, _meant(operation).apply(Job.objects.all()))


def _strands(operation: Operation) -> list[QuerySet[Job]] | None:
    """What matches and is not dealt with yet, where an index tells just that."""
    if operation.newest is None:  # There was no job at its start.
        return []
    jobs = visible(operation.by, Job.objects.all())
    return strands(jobs, _meant(operation), operation.cursor, operation.newest)


def _count(jobs: QuerySet[Job], operation: Operation) -> int | None:
    """How many of these there are, up to one more than `MOST_COUNTED`; None if that takes long."""
    over_at = time.monotonic() + LONGEST_PASS_SECONDS
    counted = 0
    if (ranges := _strands(operation)) is not None:
        counts = selected({number: CountOf(each, MOST_COUNTED + 1) for number, each in enumerate(ranges)})
        return min(sum(count or 0 for count in counts.values()), MOST_COUNTED + 1)
    for after, to in _stretches(operation):
        if time.monotonic() > over_at:
            return None
        here = jobs.filter(pk__gt=after, pk__lte=to).order_by()
        counted += here[: MOST_COUNTED + 1 - counted].count()
        if counted > MOST_COUNTED:
            break
    return counted


def _stretches(operation: Operation) -> Iterator[tuple[UUID, UUID]]:
    """From an id to another, from the cursor to the newest, with `LOOKED_THROUGH` rows in each at most."""
    after, newest = operation.cursor, operation.newest
    while newest is not None and after is not None and after < newest:
        ahead = Job.objects.filter(pk__gt=after, pk__lte=newest).order_by("pk").values_list("pk", flat=True)
        to: UUID = next(iter(ahead[LOOKED_THROUGH - 1 : LOOKED_THROUGH]), newest)
        yield after, to
        after = to


def _chunk(operation: Operation, jobs: QuerySet[Job]) -> tuple[control.Steered, UUID | None]:
    """Deal with the next jobs; what became of them, and the id up to which all are dealt with."""
    ids, cursor = _next_ids(operation, jobs)
    rows = Job.objects.select_for_update().filter(pk__in=ids).order_by("pk").only(*together.COLUMNS)
    locked = {job.pk: job for job in rows}
    still = set(
        jobs.filter(pk__in=ids).values_list("pk", flat=True)
    )  # Asked again, as they change no more now.
    steered = control.Steered()
    verb = _TOGETHER.get(operation.verb)
    alike: list[Job] = []
    singly: list[UUID] = []
    for position, job_id in enumerate(ids):
        job = locked.get(job_id)
        if job is None:
            steered.refused["deleted already"] += 1
        elif job_id not in still:
            steered.refused[f"is {job.status} by now"] += 1
        elif verb and together.is_alike(verb, job):
            alike.append(job)
        elif len(singly) == SINGLY:
            cursor = ids[position - 1]
            break
        else:
            singly.append(job_id)
    with part_of(f"Operation {operation.pk}."):
        if verb and alike and not _do_together(verb, alike, operation):
            singly += [job.pk for job in alike]
            alike = []
        steered.done += len(alike)
        if singly:
            each = _do(operation, jobs.filter(pk__in=singly))
            steered.done += each.done
            steered.refused += each.refused
    return steered, cursor


def _next_ids(operation: Operation, jobs: QuerySet[Job]) -> tuple[Sequence[UUID], UUID | None]:
    """The next jobs that match, as many as make a chunk, and the id up to which there are no others."""
    over_at = time.monotonic() + LONGEST_LOOK_SECONDS
    ids: list[UUID] = []
    cursor = operation.newest
    if (ranges := _strands(operation)) is not None:
        parts = selected({number: IdsOf(each[:CHUNK]) for number, each in enumerate(ranges)})
        ids = sorted(UUID(each) for part in parts.values() for each in part or ())[:CHUNK]
        return ids, ids[-1] if len(ids) == CHUNK else cursor
    for after, to in _stretches(operation):
        found = jobs.filter(pk__gt=after, pk__lte=to).order_by("pk").values_list("pk", flat=True)
        ids += found[: CHUNK - len(ids)]
        cursor = ids[-1] if len(ids) == CHUNK else to
        if len(ids) == CHUNK or time.monotonic() > over_at:
            break
    return ids, cursor


def _do_together(verb: Callable[..., None], jobs: Sequence[Job], operation: Operation) -> bool:
    """False if one of them stands in the way."""
    try:
        with transaction.atomic(using=router.db_for_write(Job)):
            verb(jobs, operation.by)
    except IntegrityError:
        return False
    return True


def _do(operation: Operation, jobs: QuerySet[Job]) -> control.Steered:
    options = {name: value for name, value in operation.options.items() if name != _BY}
    return _VERBS[operation.verb](jobs, by=operation.by, **options)
