"""What is deleted when: ended jobs after the days that the settings give them, results earlier if told so.

Rows are read in the order of their time, a page of a bounded number at once. How far that has come is
remembered, so that rows that are kept for long are not read again in each pass.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self
from uuid import UUID

from django.db import IntegrityError, router, transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from . import figures, sql
from .conf import settings
from .models import Job, JobQuerySet, Operation, QueueEvent, Rollup
from .states import FAILED

PAGE = 500
"""How many rows are read, and at most deleted, at once."""
LONGEST_PASS_SECONDS = 0.25
OPERATIONS_ARE_KEPT = timedelta(days=90)
AGAIN_AFTER_SECONDS = 86_400
"""After this, all is read again: a row that was locked when its time came, say, is still there."""

logger = logging.getLogger(__name__)


class Ended(NamedTuple):
    """What decides about one job."""

    at: datetime
    pk: UUID
    task: str
    queue: str
    status: str


@dataclass(frozen=True)
class Rules:
    """How many days ended jobs are kept, None for ever. A task's days win over its queue's."""

    ended: float | None
    failed: float | None
    queues: Mapping[str, float | None]
    tasks: Mapping[str, float | None]

    @classmethod
    def of_settings(cls) -> Self:
        return cls(
            settings.RETENTION_DAYS,
            settings.FAILED_RETENTION_DAYS,
            settings.QUEUE_RETENTION_DAYS,
            settings.TASK_RETENTION_DAYS,
        )

    def days(self, job: Ended) -> float | None:
        if job.task in self.tasks:
            return self.tasks[job.task]
        if job.queue in self.queues:
            return self.queues[job.queue]
        return self.failed if job.status == FAILED else self.ended

    def distinct_days(self) -> list[float]:
        days = {self.ended, self.failed, *self.queues.values(), *self.tasks.values()}
        return sorted(each for each in days if each is not None)

    def __str__(self) -> str:
        kept = [
            f"finished and canceled jobs are kept {_told(self.ended)}, failed ones {_told(self.failed)}",
            *(f"those of queue {name} {_told(days)}" for name, days in self.queues.items()),
            *(f"those of task {name} {_told(days)}" for name, days in self.tasks.items()),
        ]
        return "; ".join(kept)


class Retention:
    """Remembers between its passes how far it has come."""

    def __init__(self) -> None:
        self.is_behind = False
        """True when there was more to do than one pass does: the next one may follow at once."""
        self._rules: Rules | None = None
        self._walks: dict[float, _Walk] = {}
        # A time that is near comes to be seen when its transaction ends, which may be after later ones.
        self._results = _Walk("result_expires_at", overlap=timedelta(minutes=1))

    def run_once(self) -> int:
        """Delete jobs that were kept as long as they are to be; how many. Ends after the page during which
        a quarter of a second was over."""
        deadline = time.monotonic() + LONGEST_PASS_SECONDS
        rules = Rules.of_settings()
        if rules != self._rules:
            self._rules, self._walks = rules, {days: _Walk("finished_at") for days in rules.distinct_days()}
        deleted = 0
        self.is_behind = False
        for days, walk in self._walks.items():
            for page in walk.pages(Job.objects.all(), Now() - timedelta(days=days)):
                gone = _delete([job for job in page if rules.days(job) == days])
                walk.pass_by(page, gone)
                deleted += len(gone)
                if time.monotonic() > deadline:
                    self.is_behind = True
                    return deleted
        prune_queue_events()
        prune_operations()
        return deleted

    def expire_results(self) -> int:
        """Clear the results that were kept as long as `keep_result_for` said; how many. The rows stay."""
        deadline = time.monotonic() + LONGEST_PASS_SECONDS
        cleared = 0
        for page in self._results.pages(Job.objects.filter(result__isnull=False), Now()):
            cleared += _unchanged("result_expires_at", page).update_unless_locked(result=None)
            self._results.pass_by(page, gone={job.pk for job in page})
            if time.monotonic() > deadline:
                break
        return cleared


def prune(
    jobs: QuerySet[Job],
    kept: datetime | timedelta | None = None,
    *,
    page_size: int = PAGE,
    dry_run: bool = False,
) -> Iterator[Counter[str]]:
    """Delete those of these jobs that have ended and were kept long enough; after each page, how many of
    which status.

    `kept` says how long, or before which time they ended; without it, the settings do. `dry_run` counts only.
    """
    rules = Rules.of_settings()
    ways: list[tuple[Any, Callable[[Ended], bool]]]
    if kept is None:
        ways = [(Now() - timedelta(days=days), _has_days(rules, days)) for days in rules.distinct_days()]
    else:
        ways = [(Now() - kept if isinstance(kept, timedelta) else kept, lambda job: True)]
    for before, is_due in ways:
        walk = _Walk("finished_at", page_size)
        for page in walk.pages(jobs, before):
            due = [job for job in page if is_due(job)]
            gone = [] if dry_run else _delete(due)
            walk.pass_by(page, gone)
            yield Counter(job.status for job in due if dry_run or job.pk in gone)


def prune_queue_events() -> int:
    """Delete the oldest traces of steering of queues, which are kept as long as failed jobs; how many."""
    days = settings.FAILED_RETENTION_DAYS
    if days is None:
        return 0
    oldest = QueueEvent.objects.order_by("pk").values("pk")[:PAGE]
    old = QueueEvent.objects.filter(pk__in=oldest, at__lt=Now() - timedelta(days=days))
    deleted, _ = old.delete()
    return deleted


def prune_figures() -> int:
    """Delete figures and groups of errors that were kept long enough; how many. See `figures.prune`."""
    return figures.prune(sql.now(router.db_for_write(Rollup)))


def prune_operations() -> int:
    """Delete the oldest operations that ended 90 days ago; how many."""
    oldest = Operation.objects.order_by("pk").values("pk")[:PAGE]
    old = Operation.objects.filter(pk__in=oldest, finished_at__lt=Now() - OPERATIONS_ARE_KEPT)
    deleted, _ = old.delete()
    return deleted


class _Walk:
    """A way through jobs in the order of one of their times, from page to page."""

    def __init__(self, time_field: str, page_size: int = PAGE, *, overlap: timedelta = timedelta(0)) -> None:
        self._field = time_field
        self._page_size = page_size
        self._overlap = overlap
        self._at: datetime | None = None
        self._passed = 0  # How many rows of just that time lie behind; any number may have the same.
        self._begun_at = time.monotonic()

    def pages(self, jobs: QuerySet[Job], before: Any) -> Iterator[list[Ended]]:
        """The pages from where the walk stands; each is to be passed by."""
        if time.monotonic() - self._begun_at > AGAIN_AFTER_SECONDS:
            self._at, self._passed, self._begun_at = None, 0, time.monotonic()
        jobs = jobs.filter(**{f"{self._field}__lt": before})
        columns = jobs.order_by(self._field).values_list(self._field, "pk", "task", "queue", "status")
        while True:
            ahead = columns.filter(**{f"{self._field}__gt": self._at - _TICK}) if self._at else columns
            page = [Ended(*row) for row in ahead[self._passed : self._passed + self._page_size]]
            if page:
                yield page
            if len(page) < self._page_size:
                return

    def pass_by(self, page: Sequence[Ended], gone: Collection[UUID] = ()) -> None:
        """Go on behind this page, of which these rows are gone."""
        last = page[-1].at - self._overlap
        passed = sum(job.at == last and job.pk not in gone for job in page)
        self._passed = passed + (self._passed if last == self._at else 0)
        self._at = last


_TICK = timedelta(microseconds=1)
"""SQLite compares times as texts, where 10:00:00.5 stands before 10:00:00.500000. With a tick to spare, all
that has a time is found at or after it."""


def _unchanged(time_field: str, jobs: Sequence[Ended]) -> JobQuerySet:
    """The rows of these jobs, given in the order of this time, without those that have another by now."""
    times = {f"{time_field}__gt": jobs[0].at - _TICK, f"{time_field}__lt": jobs[-1].at + _TICK}
    return Job.objects.filter(pk__in=[job.pk for job in jobs], **times)


def _has_days(rules: Rules, days: float) -> Callable[[Ended], bool]:
    return lambda job: rules.days(job) == days


def _delete(jobs: Sequence[Ended]) -> Collection[UUID]:
    """Delete those of these jobs that have not moved on meanwhile, are not locked, and are not needed by rows
    of other apps; which."""
    if not jobs:
        return ()
    try:
        with transaction.atomic(using=router.db_for_write(Job)):
            ended = _unchanged("finished_at", jobs).ended().select_for_update(skip_locked=True)
            gone = set(ended.order_by("pk").values_list("pk", flat=True))
            Job.objects.filter(pk__in=gone).only("pk").delete()  # Arguments and results may be large.
    except IntegrityError as error:
        if len(jobs) == 1:
            logger.info("Job %s stays: %s", jobs[0].pk, error)
            return ()
        half = len(jobs) // 2
        return {*_delete(jobs[:half]), *_delete(jobs[half:])}
    return gone


def _told(days: float | None) -> str:
    if days is None:
        return "for ever"
    return "1 day" if days == 1 else f"{days:g} days"
