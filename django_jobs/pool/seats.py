"""Memory that a worker shares with its children: what each runs now, until when it may, and what it has begun
lately.

It is a file, where there may be one: so it outlives the worker, and tells what a worker that was killed had
not begun.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import mmap
from struct import Struct
from uuid import UUID

from ..processes import SharedMoment, boot_clock, memory_file
from .workload import MOST_IN_ADVANCE

MOST_REMEMBERED = 2 * MOST_IN_ADVANCE
"""How many jobs begun lately a seat tells of: all that a child may have begun and its worker neither
recorded nor kept in files. At most `MOST_IN_ADVANCE` reports are gathered when those of what the child was
handed last come in, and then no more is handed out before all are recorded."""

_COUNT = Struct("q")


class Seats:
    """One seat for each job that runs at a time, and the moment at which the worker's fence closes.

    Each child has `per_child` of them: the first for what runs in its main thread, the others for async jobs.
    `descriptor` is a file that other processes map as well; without one it is made.
    """

    def __init__(self, children: int, per_child: int, descriptor: int | None = None) -> None:
        self.children, self.per_child = children, per_child
        self.descriptor = memory_file() if descriptor is None else descriptor
        size = SharedMoment.SIZE + children * per_child * _Layout.SIZE
        if os.fstat(self.descriptor).st_size < size:
            os.truncate(self.descriptor, size)
        self.memory = mmap(self.descriptor, size)
        self.fence = SharedMoment(boot_clock, self.memory)

    def of_child(self, number: int) -> "list[Seat]":
        first = number * self.per_child
        starts = (SharedMoment.SIZE + (first + each) * _Layout.SIZE for each in range(self.per_child))
        return [Seat(self.memory, start) for start in starts]


def begun_in(data: bytes) -> set[UUID]:
    """The jobs that were begun lately, of all seats in a file."""
    begun = set()
    for seat in range(SharedMoment.SIZE, len(data), _Layout.SIZE):
        start = seat + _Layout.BEGUN
        ids = (data[at : at + 16] for at in range(start, start + 16 * MOST_REMEMBERED, 16))
        begun |= {UUID(bytes=each) for each in ids if len(each) == 16 and any(each)}
    return begun


class _Layout:
    JOB, SINCE, DEADLINE, CPU_DEADLINE, CLOSED, COUNT, BEGUN = 0, 16, 24, 32, 40, 48, 56
    SIZE = BEGUN + 16 * MOST_REMEMBERED


class Seat:
    """What the function is that runs here; written by the child alone."""

    def __init__(self, memory: mmap, offset: int) -> None:
        self._memory, self._offset = memory, offset
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
        self._remember(job_id)
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
        self._memory[self._offset : self._offset + _Layout.COUNT] = bytes(_Layout.COUNT)

    def _remember(self, job_id: UUID) -> None:
        (count,) = _COUNT.unpack_from(self._memory, self._offset + _Layout.COUNT)
        at = self._offset + _Layout.BEGUN + 16 * (count % MOST_REMEMBERED)
        self._memory[at : at + 16] = job_id.bytes
        _COUNT.pack_into(self._memory, self._offset + _Layout.COUNT, count + 1)
