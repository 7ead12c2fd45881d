"""Which failures belong together: adds each to its group of errors, and opens the groups that come back."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from .fingerprints import fingerprint, innermost_frame
from .models import Attempt, ErrorCount, ErrorGroup, FigureDelta
from .models.figures import start_of
from .redaction import redact_text
from .values import short

MOST_NAMED = 20
"""How many tasks and how many workers a group names: those that failed so most often."""
MOST_ATTEMPTS = 10
"""How many of a job's failed attempts are looked at for the one that failed so."""
KEPT = timedelta(days=365)
MOST_PRUNED = 500

FAILURES = (Attempt.Outcome.FAILED, Attempt.Outcome.LOST)

_FIELDS = [
    *("count", "first_seen", "last_seen", "tasks", "workers", "sample", "message"),
    *("state", "reopened_at", "ignored_until"),
]


def add(deltas: Iterable[FigureDelta], now: datetime) -> None:
    """Add the failures that these tell of to their groups; within the transaction that takes them away."""
    alike: dict[str, list[FigureDelta]] = {}
    for delta in deltas:
        if delta.fingerprint and delta.outcome in FAILURES:
            alike.setdefault(delta.fingerprint, []).append(delta)
    groups = _locked_groups(alike)
    for group in groups:
        _add(group, alike[group.pk], now)
    ErrorGroup.objects.bulk_create(
        groups, update_conflicts=True, unique_fields=["fingerprint"], update_fields=_FIELDS
    )
    _count_hours(delta for group in groups for delta in alike[group.pk])


def prune(now: datetime) -> int:
    """Delete groups that have not come up for a year, at most `MOST_PRUNED`; those that are ignored stay."""
    old = ErrorGroup.objects.filter(last_seen__lt=now - KEPT).exclude(state=ErrorGroup.State.IGNORED)
    oldest = list(old.order_by("last_seen").values_list("pk", flat=True)[:MOST_PRUNED])
    return ErrorGroup.objects.filter(pk__in=oldest).delete()[0] if oldest else 0


def _locked_groups(alike: Mapping[str, Sequence[FigureDelta]]) -> list[ErrorGroup]:
    """The groups of these failures, new ones too. Without those of which no failure is stored any more."""
    rows = ErrorGroup.objects.filter(pk__in=[*alike])
    unknown = alike.keys() - set(rows.values_list("pk", flat=True))
    new = [group for pk in sorted(unknown) if (group := _new_group(alike[pk]))]
    ErrorGroup.objects.bulk_create(new, ignore_conflicts=True)
    return list(rows.select_for_update().order_by("pk"))


def _new_group(alike: Sequence[FigureDelta]) -> ErrorGroup | None:
    newest = _newest(alike)
    attempt = _attempt(newest) if newest else None
    if newest is None or attempt is None:
        return None
    return ErrorGroup(
        fingerprint=newest.fingerprint,
        error_type=attempt.error_type,
        frame=short(innermost_frame(attempt.traceback), 255),
        message=redact_text(attempt.error_message),
        sample=newest.sample,
        first_seen=newest.at,
        last_seen=newest.at,
    )


def _add(group: ErrorGroup, alike: Sequence[FigureDelta], now: datetime) -> None:
    group.count = max(0, group.count + sum(delta.amount for delta in alike))
    group.tasks = _largest(group.tasks, ((delta.task, delta.amount) for delta in alike))
    group.workers = _largest(group.workers, ((delta.worker_name, delta.amount) for delta in alike))
    times = [delta.at for delta in alike if delta.amount > 0]
    newest = _newest(alike)
    if newest is None:  # Some were taken back, and no more.
        return
    group.first_seen = min(group.first_seen, *times)
    if newest.at > group.last_seen:
        group.last_seen = newest.at
        if attempt := _attempt(newest):
            group.sample, group.message = newest.sample, redact_text(attempt.error_message)
    if group.state == ErrorGroup.State.RESOLVED:
        since = [at for at in times if group.changed_at is None or at > group.changed_at]
        if since:
            group.state, group.reopened_at = ErrorGroup.State.OPEN, min(since)
    elif group.state == ErrorGroup.State.IGNORED and group.ignored_until and group.ignored_until <= now:
        group.state, group.ignored_until = ErrorGroup.State.OPEN, None


def _newest(alike: Iterable[FigureDelta]) -> FigureDelta | None:
    return max((delta for delta in alike if delta.amount > 0), key=lambda delta: delta.at, default=None)


def _attempt(delta: FigureDelta) -> Attempt | None:
    """The newest attempt of the job named that failed so; None if it is gone."""
    failed = Attempt.objects.filter(job=delta.sample, outcome__in=FAILURES).order_by("-number")
    attempt: Attempt
    for attempt in failed.only("error_type", "error_message", "traceback")[:MOST_ATTEMPTS]:
        if delta.fingerprint == fingerprint(attempt.error_type, attempt.error_message, attempt.traceback):
            return attempt
    return None


def _largest(counts: Mapping[str, int], more: Iterable[tuple[str, int]]) -> dict[str, int]:
    summed = Counter(counts)
    for name, amount in more:
        if name:
            summed[name] += amount
    return {name: count for name, count in summed.most_common(MOST_NAMED) if count > 0}


def _count_hours(deltas: Iterable[FigureDelta]) -> None:
    hours: Counter[tuple[str, datetime]] = Counter()
    for delta in deltas:
        hours[delta.fingerprint, start_of("hour", delta.at)] += delta.amount
    # Nobody else changes them: their groups are locked.
    rows = ErrorCount.objects.filter(
        group__in={pk for pk, _ in hours}, start__in={start for _, start in hours}
    )
    counted = {(pk, start): count for pk, start, count in rows.values_list("group", "start", "count")}
    ErrorCount.objects.bulk_create(
        [
            ErrorCount(group_id=pk, start=start, count=max(0, counted.get((pk, start), 0) + amount))
            for (pk, start), amount in hours.items()
        ],
        update_conflicts=True,
        unique_fields=["group", "start"],
        update_fields=["count"],
    )
