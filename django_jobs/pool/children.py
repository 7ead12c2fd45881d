"""The worker's view of a child: what it was handed, what it runs, how it ended."""

import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from uuid import UUID

from .. import registry
from ..batches import Claimed, Report
from . import lines
from .child import Options
from .forker import Forker
from .seats import Seats

STOPPING_SECONDS = 0.2
"""How long a process may take to stand still."""
_PIECE_BYTES = 1_000_000

logger = logging.getLogger(__name__)


class Child:
    """A process that was asked for. What it is handed before it is there waits on its line."""

    def __init__(
        self, forker: Forker, seats: Seats, number: int, worker_name: str, async_concurrency: int
    ) -> None:
        self.number, self.forker = number, forker
        self.concurrency = async_concurrency
        """How many async jobs it runs at the same time; with 1 they run as any other, one after another."""
        self.pid = 0
        self.handed: dict[UUID, Claimed] = {}
        """What it has and has not told the end of, in the order in which it begins."""
        self._beside: set[UUID] = set()  # Those of them that run at the same time as others.
        self.ran = 0
        self.is_retiring = False
        self.ending = ""
        """Why it was killed, if it was."""
        self.since = time.monotonic()
        self.seats = seats.of_child(number)
        for seat in self.seats:
            seat.leave()
        self._jobs, self._jobs_behind = lines.job_line()
        self._told, told_there = lines.report_line()
        self._notes, notes_there = lines.job_line()
        for end in (self._jobs, self._jobs_behind, self._told, self._notes):
            end.setblocking(False)
        self._reports = lines.Reports()
        self._unsent: deque[UUID] = deque()  # Notes of what is recorded: a child may be slow to hear them.
        self._is_told_to_end = False
        try:
            # Its end of the line of jobs stays open here too, so that they can be taken back.
            options = asdict(Options(number, worker_name, async_concurrency))
            forker.fork(options, self._jobs_behind, told_there, notes_there)
        finally:
            told_there.close()
            notes_there.close()

    @property
    def is_idle(self) -> bool:
        return not self.handed

    @property
    def in_turn(self) -> int:
        """How many jobs it has that run one after another."""
        return len(self.handed) - len(self._beside)

    @property
    def queued_up(self) -> int:
        """How many jobs it has, without the async ones that it can run at the same time."""
        return self.in_turn + max(0, len(self._beside) - self.concurrency)

    @property
    def has_more_in_turn(self) -> bool:
        """True if it has more than it runs, and runs nothing beside it."""
        return 1 < self.in_turn == len(self.handed)

    @property
    def free_beside(self) -> int:
        """How many async jobs it can begin besides."""
        return self.concurrency - len(self._beside) if self.concurrency > 1 else 0

    @property
    def has_a_turn(self) -> bool:
        """True if what runs in turn would begin at once. Where async jobs run besides, a child comes to what
        it is handed only while it has room for one more of them."""
        return not self.in_turn and (self.concurrency == 1 or self.free_beside > 0)

    def has_free_hands(self, claimed: Claimed) -> bool:
        """True if it would begin this at once, as far as is known."""
        return self.free_beside > 0 if self.runs_beside(claimed) else self.has_a_turn

    def in_turn_of(self) -> Iterator[Claimed]:
        """What it has that runs one after another."""
        return (claimed for job_id, claimed in self.handed.items() if job_id not in self._beside)

    def runs_beside(self, claimed: Claimed) -> bool:
        """True for an async job, if several run at the same time."""
        return self.concurrency > 1 and registry.is_async(claimed.task)

    def ran_seconds(self) -> float:
        """For how long what holds up the next job has run."""
        if self.seats[0].runs:
            return self.seats[0].ran_seconds
        if self.concurrency == 1 or self.free_beside > 0:
            return 0.0
        return min(seat.ran_seconds for seat in self.seats[1:])

    @property
    def begins_no_more(self) -> bool:
        """True if it will only end what it has begun."""
        return self.seats[0].is_closed

    def begun(self) -> set[UUID]:
        """The jobs whose functions have begun and whose reports are not sent."""
        return {job_id for seat in self.seats if (job_id := seat.job_id)}

    def makes_wait(self, longest_seconds: float) -> bool:
        """True if something that it was handed waits behind functions that have run for so long."""
        if self.ran_seconds() <= longest_seconds:
            return False
        return len(self.handed) > sum(seat.runs for seat in self.seats)

    def fileno(self) -> int:
        """Readable when it has told something or ended."""
        return self._told.fileno()

    def hand(self, claimed: Claimed) -> bool:
        """Have it run this after all that it has; False if its line is full."""
        try:
            lines.send_job(self._jobs, claimed)
        except BlockingIOError:
            return False
        self.handed[claimed.job_id] = claimed
        if self.runs_beside(claimed):
            self._beside.add(claimed.job_id)
        return True

    def take_back(self) -> list[Claimed]:
        """All that it has not begun, in order; it never will."""
        returned = []
        while taken := self._take_one_back():
            returned.append(self.handed.pop(taken))
            self._beside.discard(taken)
        if self.is_retiring:
            self.retire()
        return returned

    def _take_one_back(self) -> UUID | None:
        try:
            message, descriptors, _, _ = socket.recv_fds(self._jobs_behind, lines.LARGEST_ROW + 16, 1)
        except BlockingIOError:
            return None
        for descriptor in descriptors:
            os.close(descriptor)
        if message:
            return UUID(bytes=message[:16])
        self._is_told_to_end = False  # That was taken back, too.
        return None

    def heard(self) -> tuple[list[Report], dict[UUID, str], bool]:
        """The reports, and the newest progress of each job, that it has told since; and whether it still
        lives."""
        self._send_notes()
        told, progress, lives = list[Report](), dict[UUID, str](), True
        while True:
            try:
                piece = self._told.recv(_PIECE_BYTES)
            except BlockingIOError:
                break
            except ConnectionError:
                piece = b""
            if not piece:
                lives = False
                break
            for job_id, each in self._reports.feed(piece):
                if isinstance(each, str):
                    progress[job_id] = each
                elif self.handed.pop(job_id, None):
                    self._beside.discard(job_id)
                    told.append(each)
                    self.ran += 1
        return told, progress, lives

    def note_recorded(self, job_id: UUID) -> None:
        self._unsent.append(job_id)
        self._send_notes()

    def _send_notes(self) -> None:
        while self._unsent and lines.send_note(self._notes, lines.RECORDED, self._unsent[0]):
            self._unsent.popleft()

    def runs(self, job_id: UUID) -> bool:
        """True while the function of this job runs there."""
        return any(seat.runs and seat.job_id == job_id for seat in self.seats)

    def stop(self, job_id: UUID, why: str) -> bool:
        """End this job: what it awaits is canceled if others run beside it, else its process is killed. False
        if it does not run there."""
        if self.runs(job_id) and not (self.seats[0].runs and self.seats[0].job_id == job_id):
            lines.send_note(self._notes, lines.STOP, job_id)
            return True
        return self.kill_if_it_runs(job_id, why)

    def kill(self, why: str) -> None:
        """kill -9 of it and of what its job has started."""
        self.ending = self.ending or why
        _signal_group(self.pid, signal.SIGKILL)

    def kill_if_it_runs(self, job_id: UUID, why: str) -> bool:
        """Kill it unless it has come to another job meanwhile; False then."""
        if not self.pid or not self.runs(job_id):
            return False
        _signal_group(self.pid, signal.SIGSTOP)
        try:
            _wait_until_it_stands(self.pid)
            if self.runs(job_id):
                self.kill(why)
                return True
            return False
        finally:
            _signal_group(self.pid, signal.SIGCONT)

    def retire(self) -> None:
        """Have it end when it has done what it has; to be called again until it has ended."""
        self.is_retiring = True
        if not self._is_told_to_end:
            with suppress(BlockingIOError, ConnectionError):
                self._jobs.send(b"")
                self._is_told_to_end = True

    def close(self) -> None:
        for each in (self._jobs, self._jobs_behind, self._told, self._notes):
            each.close()

    def memory_bytes(self) -> int:
        """What it uses now; 0 if the system does not tell."""
        with suppress(OSError, IndexError, ValueError):
            pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
            return int(pages) * os.sysconf("SC_PAGESIZE")
        return 0


def _signal_group(pid: int, number: signal.Signals) -> None:
    if not pid:
        return
    with suppress(ProcessLookupError):
        try:
            os.killpg(pid, number)
        except ProcessLookupError:  # It has not made its group yet.
            os.kill(pid, number)


def _wait_until_it_stands(pid: int) -> None:
    deadline = time.monotonic() + STOPPING_SECONDS
    for _ in _looks(deadline):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            return  # It has ended, or the system does not tell.
        if state in "TtZX":
            return


def _looks(deadline: float) -> Iterator[None]:
    while time.monotonic() < deadline:
        yield
        time.sleep(0.0005)
