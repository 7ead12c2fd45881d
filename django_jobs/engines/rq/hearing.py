"""What children tell their worker, and how that is recorded: many reports at once."""

import logging
import time
from dataclasses import replace
from typing import Any
from uuid import UUID

from django.db import Error, connections, router

from ... import batches
from ...batches import Report
from ...models import Job
from ...outbox import Outbox
from ...outcomes import WENT_WELL
from ...patience import patience
from ...pool.children import Child
from ...pool.holdings import PATIENCE_SECONDS
from ...pool.workload import MOST_UNKEPT
from . import taking
from .handing import LATER_SECONDS, HandingWorker
from .horses import Horse
from .taking import End
from .worker import TOLD_ELSEWHERE

GATHER_SECONDS = 0.01
"""How long the report of a child that has more to do waits for others, to be recorded with them."""

logger = logging.getLogger(__name__)


class HearingWorker(HandingWorker):
    """The ear for children: what they have begun, how far it is, how it and they themselves ended."""

    def _begin_anew(self) -> None:
        super()._begin_anew()
        self._outbox = Outbox(self._signs.worker.pk)
        self._is_burst = False
        """If it ends when there is nothing more to do."""
        self._progress: dict[UUID, str] = {}
        self._progress_at = 0.0

    def _hear(self) -> None:
        self._nursery.hear()
        for child in list(self._nursery.children):
            told, progress, lives = child.heard()
            self._progress |= progress
            for report in told:
                self._note_end(report)
            if not lives or self._nursery.has_ended(child):  # What a job has forked may keep its line open.
                self._bury(child)
        self.bury_horses()
        self._record_progress()

    def _record_progress(self) -> None:
        """Write the newest progress of each job; of one whose row is locked, a little later."""
        self._progress = {job: told for job, told in self._progress.items() if job in self._holdings.held}
        if not self._progress or time.monotonic() < self._progress_at:
            return
        try:
            with patience(router.db_for_write(Job), PATIENCE_SECONDS):
                for job_id in batches.record_progress(list(self._progress.values())):
                    del self._progress[job_id]
        except Error as error:
            logger.warning("Worker %s: progress could not be written: %s", self.name, error)
            connections.close_all()
            self._progress.clear()
        if self._progress:
            self._progress_at = time.monotonic() + LATER_SECONDS

    def _bury_horse(self, horse: Horse, ended: tuple[int, int, Any] | None) -> None:
        super()._bury_horse(horse, ended)
        self._note_followers()

    def _note_followers(self) -> None:
        """What has ended may have enqueued more, of which a burst is not told as it arrives."""
        self._may_be_more |= self._is_burst

    def _note_end(self, report: Report) -> None:
        self._note_followers()
        if held := self._holdings.held.get(report.job_id):
            may_wait = held.child and not held.child.is_idle and self._outbox.unkept < MOST_UNKEPT
            within_seconds = GATHER_SECONDS if may_wait else 0
            self._outbox.put(replace(report, queue=held.claimed.queue), within_seconds=within_seconds)
            self._workload.note(held.claimed.task, report.ran_seconds)
            self._worked_seconds += report.ran_seconds

    def _bury(self, child: Child) -> None:
        """Settle what a child leaves that has ended. What it had not begun, others run."""
        returned = child.take_back()
        how = self._nursery.remove(child)
        begun = child.begun()
        for job_id, claimed in child.handed.items():
            if job_id in begun:
                logger.warning("Worker %s: child %s: %s; it ran job %s.", self.name, child.pid, how, job_id)
                self._holdings.lose(job_id, f"Worker {self.name}: {how}.")
                self._nursery.unsettled.add(child.number)
            else:
                returned.append(claimed)
        child.close()
        self._reclaim(returned)
        if self._nursery.children or self._backlog or returned:
            self._nursery.fill()

    def _record(self) -> None:
        """Write what has ended; Redis is told with the next exchange."""
        for report in self._outbox.flush():
            held = self._holdings.held.pop(report.job_id)
            if report.outcome in WENT_WELL:
                self._ends.append(End(held.ticket, taking.FINISHED))
            else:
                self._ends.append(End(held.ticket, taking.FAILED, TOLD_ELSEWHERE))
            if held.child and report.is_awaited:
                held.child.note_recorded(report.job_id)
        if self._outbox.unkept > MOST_UNKEPT and time.monotonic() >= self._rests_until:
            self._rest()  # What is taken now would only be given back.
        if self._holdings.has_lost:
            for held, evidence in self._holdings.end_lost():
                self._ends.append(End(held.ticket, taking.STOPPED, evidence))
            if not self._holdings.has_lost:
                self._nursery.unsettled.clear()

    def _hand_out(self) -> None:
        """Nothing while so many reports are in memory alone that a child would forget what it has begun."""
        if self._outbox.unkept <= MOST_UNKEPT:
            super()._hand_out()

    def _supplied(self) -> set[Child]:
        """While reports are gathered, the children that do not run out of jobs meanwhile. What they tell can
        wait as well: to hear each report at once costs as much as a short job."""
        if not 0 < (self._outbox.seconds_to_wait() or 0) <= GATHER_SECONDS:
            return set()
        supplied = (child for child in self._nursery.children if child.has_more_in_turn)
        return {child for child in supplied if self._load(child) > GATHER_SECONDS}
