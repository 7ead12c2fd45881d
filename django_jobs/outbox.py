"""Reports of a worker's children on their way to the database: many at once, and none is lost.

What the database does not take, or another transaction locks, waits in files as well, as `reports` has it.
"""

import json
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from uuid import UUID

from django.db import DatabaseError, InterfaceError, connections, router

from . import batches, reports, spool
from .batches import Report
from .models import Job
from .patience import patience

MOST_AT_ONCE = 200
MOST_CHARACTERS_AT_ONCE = 10_000_000
LOOK_AT_LOCKED_EVERY_SECONDS = 0.25
NEVER = float("inf")

logger = logging.getLogger(__name__)


class Outbox:
    """Holds reports until they are recorded. One thread puts and flushes; `keep_old` may be called by
    another."""

    def __init__(self, worker_id: UUID) -> None:
        self._worker_id = worker_id
        self._waiting: dict[UUID, tuple[Report, float]] = {}  # {job id: (report, since when)}
        self._one_by_one: set[UUID] = set()
        self._locked: set[UUID] = set()  # Those of them that were found locked.
        self._kept: dict[UUID, Path] = {}
        self._lock = threading.Lock()  # of the files
        self._due_at = NEVER
        self._resting_until = 0.0
        self._locked_until = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def unkept(self) -> int:
        """How many are in memory alone."""
        return len(self._waiting) - len(self._kept)

    def put(self, report: Report, *, within_seconds: float = 0) -> None:
        """`within_seconds`: for so long it may wait for others, to be recorded with them."""
        at = time.monotonic()
        self._waiting[report.job_id] = report, at
        self._due_at = min(self._due_at, at + within_seconds)
        if not report.status:
            self._one_by_one.add(report.job_id)

    def seconds_to_wait(self) -> float | None:
        """When to flush again; None if nothing waits."""
        if not self._waiting:
            return None
        due_at = self._locked_until if self._waiting.keys() <= self._locked else self._due_at
        return max(0.0, max(due_at, self._resting_until) - time.monotonic())

    def flush(self) -> list[Report]:
        """Record what waits, if it is time to, and return what needs no more attention. Waits for no
        transaction that holds a row, and tries nothing for a second after the database was away."""
        if self.seconds_to_wait() != 0:
            return []
        done: list[Report] = []
        try:
            with patience(router.db_for_write(Job), reports.LONGEST_WRITE_SECONDS):
                for together in self._batches():
                    done += self._record(together)
                for report in self._record_one_by_one():  # Each counts, though the next one fails.
                    done.append(report)
            self._due_at = NEVER
        except (DatabaseError, InterfaceError) as error:
            logger.warning("%s reports could not be written; trying again: %s", len(self._waiting), error)
            connections.close_all()
            self.keep(report.job_id for report, _ in list(self._waiting.values()))
            self._resting_until = time.monotonic() + reports.RETRY_EVERY_SECONDS
        return done

    def keep_old(self) -> None:
        """Keep in files what has waited for a second, as while the database does not answer."""
        now = time.monotonic()
        self.keep(
            job_id
            for job_id, (_, since) in list(self._waiting.items())
            if now - since > reports.KEEP_AFTER_SECONDS
        )

    def keep(self, job_ids: Iterable[UUID]) -> None:
        for job_id in job_ids:
            with self._lock:
                waiting = self._waiting.get(job_id)
                if waiting and job_id not in self._kept:
                    path = reports.keep(json.loads(waiting[0].document))
                    if path:
                        self._kept[job_id] = path

    def _batches(self) -> Iterable[Sequence[Report]]:
        together: list[Report] = []
        size = 0
        for job_id, (report, _) in list(self._waiting.items()):
            if job_id in self._one_by_one:
                continue
            if together and (
                len(together) == MOST_AT_ONCE or size + len(report.document) > MOST_CHARACTERS_AT_ONCE
            ):
                yield together
                together, size = [], 0
            together.append(report)
            size += len(report.document)
        if together:
            yield together

    def _record(self, together: Sequence[Report]) -> list[Report]:
        try:
            recorded = batches.record(together, self._worker_id)
        except Exception as error:
            if reports.is_away(error):
                raise
            recorded = set()  # One of them is refused; alone each is told without what is.
        # Canceled meanwhile, taken by others, recorded already, locked, or refused.
        self._one_by_one |= {report.job_id for report in together} - recorded
        return [self._drop(job_id) for job_id in recorded]

    def _record_one_by_one(self) -> Iterator[Report]:
        looks_at_locked = time.monotonic() >= self._locked_until
        for job_id in list(self._one_by_one if looks_at_locked else self._one_by_one - self._locked):
            report, _ = self._waiting[job_id]
            try:
                is_done = reports.deliver(json.loads(report.document), is_late=False)
            except Exception as error:
                if reports.is_away(error):
                    raise
                reports.give_up(json.loads(report.document), error)
                is_done = True
            if is_done:
                yield self._drop(job_id)
            else:
                self._locked.add(job_id)
                self.keep([job_id])  # It may wait for long; what shows that it has begun is forgotten sooner.
        if looks_at_locked:
            self._locked_until = time.monotonic() + LOOK_AT_LOCKED_EVERY_SECONDS

    def _drop(self, job_id: UUID) -> Report:
        with self._lock:
            report, _ = self._waiting.pop(job_id)
            if path := self._kept.pop(job_id, None):
                spool.drop(path)
        self._one_by_one.discard(job_id)
        self._locked.discard(job_id)
        return report
