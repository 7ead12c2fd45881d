"""Memory that a worker shares with its children: what each runs now, until when it may, and what it has run
lately.

It is a file, where there may be one: so it outlives the worker, and tells what a worker that was killed had
not begun.
"""

import os
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from mmap import mmap
from struct import Struct
from uuid import UUID

from ..processes import SharedMoment, boot_clock, memory_file
from .workload import MOST_IN_ADVANCE, MOST_UNKEPT

_CELL = 16
"""Ids lie at multiples of so many bytes, whatever else changes: another release may read the file."""
_COUNT = Struct("q")


class Seats:
    """One seat for each job that runs at a time, and the moment at which the worker's fence closes.

    Each child has `per_child` of them: the first for what runs in its main thread, the others for async jobs.
    `descriptor` is a file that other processes map as well; without one it is made.

    What a child has begun is what its seats tell, and the last `remembered` jobs that have left one: all
    whose ends its worker may have neither recorded nor kept in files. It hands out nothing while more than
    `MOST_UNKEPT` reports are in memory alone, and a child has about `MOST_IN_ADVANCE` jobs at most besides
    those in its other seats.
    """

    def __init__(self, children: int, per_child: int, descriptor: int | None = None) -> None:
        self.children, self.per_child = children, per_child
        self.remembered = _remembered(per_child)
        self.descriptor = memory_file() if descriptor is None else descriptor
        size = self.size(children, per_child)
        if os.fstat(self.descriptor).st_size < size:
            os.truncate(self.descriptor, size)
        self.memory = mmap(self.descriptor, size)
        self.fence = SharedMoment(boot_clock, self.memory)

    @staticmethod
    def size(children: int, per_child: int) -> int:
        """How many bytes a file for so many needs."""
        return _CELL + children * (per_child * _Layout.SIZE + _Left.size(_remembered(per_child)))

    def of_child(self, number: int) -> "list[Seat]":
        after_seats = _CELL + self.children * self.per_child * _Layout.SIZE
        left_at = after_seats + number * _Left.size(self.remembered)
        left = _Left(self.memory, left_at, self.remembered)
        first = number * self.per_child
        starts = (_CELL + (first + each) * _Layout.SIZE for each in range(self.per_child))
        return [Seat(self.memory, start, left) for start in starts]


def _remembered(per_child: int) -> int:
    return MOST_UNKEPT + MOST_IN_ADVANCE + 2 * per_child


def begun_of(job_ids: Collection[UUID], data: bytes) -> set[UUID]:
    """Those of these jobs that were begun lately, as a file tells."""
    cells = {data[start : start + _CELL] for start in range(0, len(data), _CELL)}
    return {job_id for job_id in job_ids if job_id.bytes in cells}


class _Layout:
    JOB, SINCE, DEADLINE, CPU_DEADLINE, CLOSED, SIZE = 0, 16, 24, 32, 40, 3 * _CELL


class _Left:
    """Which jobs have left the seats of a child lately. The first is forgotten first."""

    def __init__(self, memory: mmap, offset: int, most: int) -> None:
        self._memory, self._offset, self._most = memory, offset, most
        self._lock = threading.Lock()

    @staticmethod
    def size(most: int) -> int:
        return _CELL * (1 + most)

    def note(self, job_id: UUID) -> None:
        with self._lock:
            (count,) = _COUNT.unpack_from(self._memory, self._offset)
            at = self._offset + _CELL * (1 + count % self._most)
            self._memory[at : at + _CELL] = job_id.bytes
            _COUNT.pack_into(self._memory, self._offset, count + 1)


class Seat:
    """What the function is that runs here; written by the child alone."""

    def __init__(self, memory: mmap, offset: int, left: _Left) -> None:
        self._memory, self._offset, self._left = memory, offset, left
        self._since = SharedMoment(boot_clock, memory, offset + _Layout.SINCE)
        self.deadline = SharedMoment(time.monotonic, memory, offset + _Layout.DEADLINE)
        """When the function's time is over."""
        self.cpu_deadline = SharedMoment(time.process_time, memory, offset + _Layout.CPU_DEADLINE)
        """At which CPU time of its process the function is over its limit."""

    @property
    def job_id(self) -> UUID | None:
        """The job whose function has begun and whose report is not sent yet."""
        told = bytes(self._memory[self._offset : self._offset + 16])
        return UUID(bytes=told) if any(told) else None

    @property
    def runs(self) -> bool:
        """True from the beginning of the function to its end."""
        return bool(self._since.get())

    @property
    def ran_seconds(self) -> float:
        return self._since.seconds_over()

    @property
    def is_closed(self) -> bool:
        """True if nothing more begins here, until the seat is left."""
        return bool(self._memory[self._offset + _Layout.CLOSED])

    def close(self) -> None:
        self._memory[self._offset + _Layout.CLOSED] = 1

    @contextmanager
    def running(self, job_id: UUID, limit_seconds: float | None) -> Iterator[None]:
        """Surrounds a function. Its job keeps the seat until `leave`, and counts as begun before anything of
        it runs."""
        self._memory[self._offset : self._offset + 16] = job_id.bytes
        if limit_seconds is not None:
            self.deadline.set_in(limit_seconds)
        self._since.set_in(0)
        try:
            yield
        finally:
            self._since.clear()
            self.deadline.clear()

    def leave(self) -> None:
        if job_id := self.job_id:
            self._left.note(job_id)  # First, so that it is told at any time.
        self._memory[self._offset : self._offset + _Layout.SIZE] = bytes(_Layout.SIZE)
