"""How many attempts ended how, and how long they waited and ran: in each minute, hour and day.

Whoever ends attempts adds to the figures in the same transaction (`models.figures`). The maintainer folds the
additions, each once, into rows for all attempts of a period, for those on the queue, and for those of the
task. Looking reads such rows only: a bounded number of them, however many attempts there were.

How many jobs run and wait now, and how many workers live, the maintainer counts once a minute: a census.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise, zip_longest
from typing import Any, Literal

from django.db import models, router, transaction
from django.db.models import Exists, F, Q, QuerySet, Sum
from django.db.models.functions import Now
from django.utils import timezone

from . import grouping, sql
from .models import Attempt, Census, ErrorCount, FigureDelta, Job, Lease, Rollup, Worker
from .models.counting import CountOf, selected
from .models.figures import BOUNDS, start_of
from .models.workers import MOST_WORKERS

MOST_FOLDED = 2_000
"""How many additions one call of `fold` takes."""
MOST_PRUNED = 5_000
"""How many rows of a kind one call of `prune` deletes."""
MOST_STARTS = 7 * 24 * 60
"""How many periods a series has at most: the minutes of a week."""

Period = Literal["minute", "hour", "day"]

_WIDTHS: dict[str, timedelta] = {
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
}
KEPT: dict[str, timedelta] = {"minute": timedelta(days=7), "hour": timedelta(days=90)}
"""How long rows of a period are kept, and of a census those of minutes. Days are kept for ever."""
COUNTS_KEPT = timedelta(days=90)
"""How long it is kept how often an error came up in an hour."""

_NUMBERS = ("finished", "failed", "lost", "retried", "canceled", "wait_seconds", "run_seconds")
_COLUMNS = (*_NUMBERS, "waits", "runs")
_COUNTED: dict[str, tuple[str, ...]] = {
    Attempt.Outcome.FINISHED: ("finished",),
    Attempt.Outcome.FAILED: ("failed",),
    Attempt.Outcome.LOST: ("failed", "lost"),
    Attempt.Outcome.RETRIED: ("retried",),
    Attempt.Outcome.CANCELED: ("canceled",),
}

_Key = tuple[str, datetime, str, str]
"""Period, start, queue and task of a row."""
_Addition = dict[Any, float]
"""What is to be added to a row, by the names of its numbers, and by name and number of a bucket."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What became of the attempts that ended in one period. `failed` includes `lost`.

    `waits` and `runs` are histograms, as in `Rollup`. Attempts of which nobody knows how long they waited, or
    ran, as of those that were lost, are not in these.
    """

    start: datetime
    finished: int = 0
    failed: int = 0
    lost: int = 0
    retried: int = 0
    canceled: int = 0
    wait_seconds: float = 0
    run_seconds: float = 0
    waits: Sequence[int] = ()
    runs: Sequence[int] = ()

    @property
    def ended(self) -> int:
        return self.finished + self.failed + self.retried + self.canceled

    @property
    def failure_rate(self) -> float:
        """Which part of them failed, from 0 to 1; 0 if there were none."""
        return self.failed / self.ended if self.ended else 0.0

    @property
    def wait_p50_seconds(self) -> float | None:
        return percentile(self.waits, 0.5)

    @property
    def wait_p95_seconds(self) -> float | None:
        return percentile(self.waits, 0.95)

    @property
    def run_p50_seconds(self) -> float | None:
        return percentile(self.runs, 0.5)

    @property
    def run_p95_seconds(self) -> float | None:
        return percentile(self.runs, 0.95)

    @property
    def mean_run_seconds(self) -> float | None:
        """None if there were none of which it is known."""
        return self.run_seconds / sum(self.runs) if any(self.runs) else None


def percentile(histogram: Sequence[int], part: float) -> float | None:
    """How long this part of them (above 0, at most 1) took at most, in seconds; None if there were none.

    Interpolated between the ends of a bucket, in which the true duration lies as well. As no bucket ends
    later than at four times its beginning, what is told is too long or too short by less than a factor of
    four; below 5 ms it may be off by so much. Of durations over a day it tells one day.
    """
    rank, passed = part * sum(histogram), 0
    for number, count in enumerate(histogram):
        if count and passed + count >= rank:
            begin = BOUNDS[number - 1] if number else 0.0
            end = BOUNDS[number] if number < len(BOUNDS) else begin
            return begin + (end - begin) * (rank - passed) / count
        passed += count
    return None


def series(
    period: Period, since: datetime, until: datetime, *, queue: str = "", task: str = ""
) -> list[Figures]:
    """The figures of each minute, hour or day (of UTC), from the one that `since` lies in to the last that
    begins before `until`; zeros where nothing ended. Of one queue, of one task, or with neither of all.

    Raises `ValueError` for more than `MOST_STARTS`.
    """
    starts = _starts(period, since, until)
    rows = _between(period, starts).filter(queue=queue, task=task)
    return _without_gaps(starts, _read(rows))


def series_by_queue(
    period: Period, since: datetime, until: datetime, queues: Iterable[str]
) -> dict[str, list[Figures]]:
    """The series of each of these queues, in one query."""
    starts = _starts(period, since, until)
    found: dict[str, list[Figures]] = {queue: [] for queue in queues}
    rows = _between(period, starts).filter(queue__in=[*found], task="").exclude(queue="")
    for queue, *columns in rows.values_list("queue", "start", *_COLUMNS):
        found[queue].append(Figures(*columns))
    return {queue: _without_gaps(starts, each) for queue, each in found.items()}


def total(since: timedelta, *, queue: str = "", task: str = "") -> Figures:
    """All that has ended in the time since then: to the minute within the last week, to the hour within 90
    days, else to the day."""
    begin = timezone.now() - since
    return together(begin, _read(_rows_since(begin, since).filter(queue=queue, task=task)))


def by_task(since: timedelta, most: int = 10) -> list[tuple[str, Figures]]:
    """The tasks of which attempts have ended since then, as in `total`; the most failing first."""
    begin = timezone.now() - since
    rows = _rows_since(begin, since).exclude(task="")
    ended = F("finished") + F("failed") + F("retried") + F("canceled")
    sums = rows.values("task").annotate(bad=Sum("failed"), ended=Sum(ended)).filter(ended__gt=0)
    found: dict[str, list[Figures]] = {
        each["task"]: [] for each in sums.order_by("-bad", "-ended", "task")[:most]
    }
    for task, *columns in rows.filter(task__in=[*found]).values_list("task", "start", *_COLUMNS):
        found[task].append(Figures(*columns))
    return [(task, together(begin, each)) for task, each in found.items()]


def uncounted() -> QuerySet[FigureDelta]:
    """What has ended and nobody counts, while no maintainer runs: figures are too low by these."""
    return FigureDelta.objects.filter(~Exists(maintainers()))


def maintainers() -> QuerySet[Lease]:
    """The lease of the maintainer, while one runs."""
    # The name that the maintainer's module, which is above this one, gives its lease.
    return Lease.objects.filter(name="maintainer", expires_at__gte=Now())


def together(start: datetime, rows: Iterable[Figures]) -> Figures:
    """These as one, from `start` on."""
    rows = list(rows)
    sums = {name: sum(getattr(row, name) for row in rows) for name in _NUMBERS}
    waits, runs = (_summed(getattr(row, name) for row in rows) for name in ("waits", "runs"))
    return Figures(start, **sums, waits=waits, runs=runs)


def censuses(since: datetime, until: datetime) -> list[Census | None]:
    """What was counted in each minute of this time, as in `series`; None where nobody did."""
    starts = _starts("minute", since, until)
    rows = Census.objects.filter(start__gte=start_of("minute", since), start__lt=until)
    found = {row.start: row for row in rows}
    return [found.get(start) for start in starts]


def take_census() -> bool:
    """Count what runs and waits and who lives, unless it was done in this minute; True if this call did it.

    At most 5 statements, which count no further than told of `Census`.
    """
    start = start_of("minute", sql.now(router.db_for_write(Census)))
    if Census.objects.filter(pk=start).exists():
        return False
    jobs = {"running": Job.objects.started().order_by("id"), "waiting": Job.objects.queued().order_by("id")}
    counts = selected({name: CountOf(each) for name, each in jobs.items()})
    row = Census(
        start=start,
        running=counts["running"] or 0,
        waiting=counts["waiting"] or 0,
        workers=Worker.objects.alive().order_by()[:MOST_WORKERS].count(),
    )
    Census.objects.bulk_create([row], ignore_conflicts=True)
    return True


def fold() -> int:
    """Fold the oldest additions; how many. With `MOST_FOLDED` there may be more."""
    deltas = list(FigureDelta.objects.order_by("pk")[:MOST_FOLDED])
    if not deltas:
        return 0
    alias = router.db_for_write(FigureDelta)
    with transaction.atomic(using=alias):
        # First, so that who folds the same waits here, and then finds that it comes too late.
        deleted, _ = FigureDelta.objects.filter(pk__in=[delta.pk for delta in deltas]).delete()
        if deleted != len(deltas):
            transaction.set_rollback(True, using=alias)
            return 0
        now = sql.now(alias)
        for delta in deltas:
            delta.at = min(delta.at, now)  # Some are told by the clocks of workers.
        _add_to_rollups(deltas)
        grouping.add(deltas, now)
    return len(deltas)


def prune(now: datetime) -> int:
    """Delete rows of minutes and each census after 7 days, of hours after 90, and with these the errors'
    counts of hours; groups of errors that have not come up for a year. At most `MOST_PRUNED` of each; how
    many."""
    old: list[QuerySet[models.Model]] = [
        *(Rollup.objects.filter(period=period, start__lt=now - kept) for period, kept in KEPT.items()),
        Census.objects.filter(start__lt=now - KEPT["minute"]),
        ErrorCount.objects.filter(start__lt=now - COUNTS_KEPT),
    ]
    pruned = grouping.prune(now)
    for rows in old:
        oldest = list(rows.order_by("start").values_list("pk", flat=True)[:MOST_PRUNED])
        if oldest:
            pruned += rows.model._default_manager.filter(pk__in=oldest).delete()[0]
    return pruned


def _starts(period: Period, since: datetime, until: datetime) -> list[datetime]:
    first, width = start_of(period, since), _WIDTHS[period]
    count = -((first - until) // width)
    if count > MOST_STARTS:
        raise ValueError(
            f"From {since} to {until} are {count:,} {period}s; at most {MOST_STARTS:,} are told."
        )
    return [first + number * width for number in range(count)]


def _between(period: Period, starts: Sequence[datetime]) -> QuerySet[Rollup]:
    if not starts:
        return Rollup.objects.none()
    return Rollup.objects.filter(period=period, start__gte=starts[0], start__lte=starts[-1])


def _without_gaps(starts: Iterable[datetime], rows: Iterable[Figures]) -> list[Figures]:
    found = {row.start: row for row in rows}
    return [found.get(start) or Figures(start) for start in starts]


def _rows_since(begin: datetime, since: timedelta) -> QuerySet[Rollup]:
    """The rows that make up the time from then till now: minutes until an hour begins, hours until a day
    does, then days. Of each queue and task there are no more than 59 minutes and 23 hours."""
    periods = [period for period in _WIDTHS if since <= KEPT.get(period, since)]
    at, chosen = start_of(periods[0], begin), Q()
    for period, longer in pairwise(periods):
        until = start_of(longer, at + _WIDTHS[longer] - _WIDTHS[period])
        chosen |= Q(period=period, start__gte=at, start__lt=until)
        at = until
    return Rollup.objects.filter(chosen | Q(period=Rollup.Period.DAY, start__gte=at))


def _read(rows: QuerySet[Rollup]) -> Iterator[Figures]:
    return (Figures(*columns) for columns in rows.values_list("start", *_COLUMNS))


def _summed(histograms: Iterable[Sequence[int]]) -> list[int]:
    return [sum(counts) for counts in zip_longest(*histograms, fillvalue=0)]


def _add_to_rollups(deltas: Iterable[FigureDelta]) -> None:
    additions = _additions(deltas)
    keys = sorted(additions)
    new = [Rollup(period=period, start=start, queue=queue, task=task) for period, start, queue, task in keys]
    Rollup.objects.bulk_create(new, ignore_conflicts=True)
    rows = []
    for row in _locked(keys):
        if addition := additions.get((row.period, row.start, row.queue, row.task)):
            _add(row, addition)
            rows.append(row)
    # All of them exist; an UPDATE would name each row once for each column.
    Rollup.objects.bulk_create(rows, update_conflicts=True, unique_fields=["id"], update_fields=_COLUMNS)


def _additions(deltas: Iterable[FigureDelta]) -> dict[_Key, _Addition]:
    minutes: dict[tuple[datetime, str, str], _Addition] = {}
    for delta in deltas:
        key = start_of("minute", delta.at), delta.queue, delta.task
        _count(minutes.setdefault(key, defaultdict(int)), delta)
    additions: dict[_Key, _Addition] = {}
    for (minute, queue, task), counted in minutes.items():
        for period in _WIDTHS:
            for row in {("", ""), (queue, ""), ("", task)}:  # Fewer if a name is empty.
                addition = additions.setdefault((period, start_of(period, minute), *row), defaultdict(int))
                for what, amount in counted.items():
                    addition[what] += amount
    return additions


def _count(addition: _Addition, delta: FigureDelta) -> None:
    for name in _COUNTED[delta.outcome]:
        addition[name] += delta.amount
    addition["wait_seconds"] += delta.wait_seconds
    addition["run_seconds"] += delta.run_seconds
    if delta.wait_bucket is not None:
        addition["waits", delta.wait_bucket] += delta.amount
    if delta.run_bucket is not None:
        addition["runs", delta.run_bucket] += delta.amount


def _locked(keys: Sequence[_Key]) -> QuerySet[Rollup]:
    """These rows, and maybe more of their periods."""
    periods, starts, queues, tasks = (set(names) for names in zip(*keys, strict=True))
    rows = Rollup.objects.filter(period__in=periods, start__in=starts, queue__in=queues, task__in=tasks)
    return rows.select_for_update().order_by("pk")


def _add(row: Rollup, addition: Mapping[Any, float]) -> None:
    """What is taken back was added before; should that be gone, nothing falls below 0."""
    for name in _NUMBERS:
        setattr(row, name, max(0, getattr(row, name) + addition.get(name, 0)))
    for name in ("waits", "runs"):
        counts = [int(addition.get((name, number), 0)) for number in range(len(BOUNDS) + 1)]
        setattr(row, name, [max(0, count) for count in _summed([getattr(row, name), counts])])
