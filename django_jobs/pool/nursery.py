"""Which children a worker has: as many as there are to be, replaced when they end, have had enough, or run
old code."""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from ..batches import Claimed
from ..processes import how_it_ended
from .child import LimitsOfTime
from .children import Child
from .forker import Forker
from .seats import Seats

PAUSE_AFTER_EARLY_END_SECONDS = 1
"""A child that ends before it has done anything is not replaced at once, but after so long."""
NEWS_PATIENCE_SECONDS = 2
"""How long the news of how a child ended may take."""
FORKER_PATIENCE_SECONDS = 5
"""How long a forker may take to end, which may still import the project."""

logger = logging.getLogger(__name__)


class Nursery:
    """To be made before the worker has threads or connections, as it forks the process that forks the
    children."""

    def __init__(
        self,
        worker_name: str,
        processes: int,
        new_running_file: Callable[[int], int | None],
        limits: LimitsOfTime,
        *,
        async_concurrency: int = 1,
        max_jobs: int | None = None,
        max_memory_bytes: int | None = None,
    ) -> None:
        self.children: list[Child] = []
        self.unsettled: set[int] = set()
        """The numbers of children that have ended and whose last jobs are not settled. Their seats tell of
        these, so others are taken first."""
        self.processes = processes
        self.max_jobs = max_jobs
        # While they are replaced there may be twice as many; and some that do not end.
        per_child = 1 if async_concurrency == 1 else 1 + async_concurrency
        children = 2 * processes + 8
        self.seats = Seats(children, per_child, new_running_file(Seats.size(children, per_child)))
        self._worker_name, self._limits = worker_name, limits
        self._async_concurrency = async_concurrency
        self._max_memory_bytes = max_memory_bytes
        self._forker: Forker | None = Forker(self.seats, limits)
        self._fresh_forker: Forker | None = None
        self._old_forkers: list[Forker] = []
        self._ended: dict[int, str] = {}  # {pid: how}
        self._fill_at = 0.0
        self._is_closing = False

    def staying(self) -> list[Child]:
        """The children that may be handed more."""
        return [child for child in self.children if not child.is_retiring]

    def fill(self) -> None:
        """Have as many children as there are to be, beside those that only end what they have."""
        if self._is_closing or self._forker is None or time.monotonic() < self._fill_at:
            return
        taken = {child.number for child in self.children}
        free = [number for number in range(self.seats.children) if number not in taken]
        free.sort(key=self.unsettled.__contains__)
        for number, _ in zip(free, range(self.processes - len(self.staying())), strict=False):
            try:
                child = Child(self._forker, self.seats, number, self._worker_name, self._async_concurrency)
            except OSError as error:
                self._fill_at = time.monotonic() + PAUSE_AFTER_EARLY_END_SECONDS
                logger.warning("Worker %s: no child could be forked: %s", self._worker_name, error)
                return
            self.children.append(child)

    def hear(self) -> None:
        """Take the news of which children there are and which have ended."""
        for forker in self._forkers():
            notes = forker.heard()
            if notes is None:
                self._note_end_of(forker)
                continue
            for note in notes:
                self._note(forker, note)

    def has_ended(self, child: Child) -> bool:
        """True if it is known to; `hear` brings the news."""
        return child.pid in self._ended

    def remove(self, child: Child) -> str:
        """Take leave of a child that has ended, and tell how it did."""
        deadline = time.monotonic() + NEWS_PATIENCE_SECONDS
        while child.handed and child.pid not in self._ended and time.monotonic() < deadline:
            self.hear()
            if child.pid not in self._ended:
                time.sleep(0.002)
        self.children.remove(child)
        told = self._ended.pop(child.pid, "its process ended without a report")
        how = child.ending or told
        has_worked = child.ran or child.begun() or child.ending or child.is_retiring
        if not has_worked and time.monotonic() - child.since < PAUSE_AFTER_EARLY_END_SECONDS:
            logger.warning("Worker %s: child %s has ended early: %s.", self._worker_name, child.pid, how)
            self._fill_at = time.monotonic() + PAUSE_AFTER_EARLY_END_SECONDS
        return how

    def replace(self) -> list[Claimed]:
        """Begin to replace children that have had enough, and one that runs old code; what they had not
        begun."""
        self._use_fresh_code()
        returned: list[Claimed] = []
        for child in self.children:
            if child.is_retiring:
                child.retire()  # It may not have heard.
            elif self._has_had_enough(child):
                returned += self._retire(child, "has had enough")
        if self._forker and not any(child.is_retiring for child in self.children):
            for child in self.children:
                if child.forker is not self._forker:  # One after another.
                    returned += self._retire(child, "runs old code")
                    break
            else:
                for forker in self._old_forkers:
                    forker.close()
        if self.children:
            self.fill()
        return returned

    def load_fresh_code(self) -> None:
        """Have all children replaced by such that have imported the project anew. If that fails, they
        stay."""
        if self._fresh_forker:
            self._fresh_forker.close()
            self._old_forkers.append(self._fresh_forker)
        logger.info("Worker %s: its children are replaced, with the code as it is now.", self._worker_name)
        self._fresh_forker = self._start_forker()

    def watched(self) -> list[Any]:
        """What is readable when there is something to hear."""
        return [*(forker.line for forker in self._forkers()), *self.children]

    def stop_filling(self) -> None:
        self._is_closing = True

    def close(self) -> None:
        """Have all end, and wait for that. Who has not ended by now is killed."""
        for child in self.children:
            child.kill("its process was ended with the worker")
        forkers = list(self._forkers())
        for forker in forkers:
            forker.close()
        for forker in forkers:
            _wait_for_end(forker.pid)
            forker.line.close()

    def _forkers(self) -> Iterator[Forker]:
        yield from [each for each in (self._forker, self._fresh_forker, *self._old_forkers) if each]

    def _note(self, forker: Forker, note: dict[str, Any]) -> None:
        if "ended" in note:
            if any(child.pid == note["ended"] for child in self.children):  # Else nobody asks any more.
                self._ended[note["ended"]] = how_it_ended(note["status"], note["memory_kb"])
            return
        for child in self.children:
            if child.number == note["forked"] and child.forker is forker and not child.pid:
                child.pid = note["pid"]
                if child.ending:  # It was to be killed before there was a process.
                    child.kill(child.ending)

    def _note_end_of(self, forker: Forker) -> None:
        with suppress(ChildProcessError):
            os.waitpid(forker.pid, 0)
        if forker in self._old_forkers:
            self._old_forkers.remove(forker)
        elif forker is self._fresh_forker:
            self._fresh_forker = None
            logger.error(
                "Worker %s: the code as it is now cannot be loaded, so its children stay as they are.",
                self._worker_name,
            )
        else:
            self._forker = None
            if not self._is_closing:
                logger.warning(
                    "Worker %s: who forks its children has ended; another begins.", self._worker_name
                )
                self._fresh_forker = self._fresh_forker or self._start_forker()

    def _use_fresh_code(self) -> None:
        if self._forker is None and self._fresh_forker is None and not self._is_closing:
            self._fresh_forker = self._start_forker()
        if self._fresh_forker and self._fresh_forker.is_ready:
            if self._forker:
                self._old_forkers.append(self._forker)
            self._forker, self._fresh_forker = self._fresh_forker, None

    def _start_forker(self) -> Forker | None:
        try:
            return Forker(self.seats, self._limits, fresh=True)
        except OSError as error:
            logger.error(
                "Worker %s: a process with fresh code cannot be started: %s", self._worker_name, error
            )
            return None

    def _has_had_enough(self, child: Child) -> bool:
        if child.begins_no_more or (self.max_jobs and child.ran >= self.max_jobs):
            return True
        return self._max_memory_bytes is not None and child.memory_bytes() > self._max_memory_bytes

    def _retire(self, child: Child, why: str) -> list[Claimed]:
        logger.info("Worker %s: child %s %s and is replaced.", self._worker_name, child.pid, why)
        returned = child.take_back()
        child.retire()
        return returned


def _wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + FORKER_PATIENCE_SECONDS
    with suppress(ChildProcessError):
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return
            time.sleep(0.005)
