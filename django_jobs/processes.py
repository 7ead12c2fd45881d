"""Processes: kept running, dying with their parent, told apart, and forked without shared connections."""

import ctypes
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from mmap import mmap
from pathlib import Path
from struct import Struct
from typing import Any

from django.db import connections

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def boot_clock() -> float:
    """Seconds, which go on while the machine sleeps where the system can tell that."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class SharedMoment:
    """A moment of a clock that is one for all processes, seen by this process and those it forks.

    In `memory`, which may be shared with other processes too, it takes `SIZE` bytes from `offset`.
    """

    SIZE = 8

    def __init__(self, clock: Callable[[], float], memory: mmap | None = None, offset: int = 0) -> None:
        self._clock = clock
        self._memory = mmap(-1, self.SIZE) if memory is None else memory
        self._offset = offset

    def get(self) -> float:
        """The moment, 0 while none is set."""
        moment: float = _MOMENT.unpack_from(self._memory, self._offset)[0]
        return moment

    def set(self, moment: float) -> None:
        _MOMENT.pack_into(self._memory, self._offset, moment)

    def set_in(self, seconds: float) -> None:
        self.set(self._clock() + seconds)

    def clear(self) -> None:
        self.set(0)

    def seconds_over(self) -> float:
        """Seconds since the moment; 0 before it, and while none is set."""
        moment = self.get()
        return max(0, self._clock() - moment) if moment else 0


_MOMENT = Struct("d")


def memory_file() -> int:
    """The descriptor of a new file that other processes can be handed and that has no name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("django-jobs")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def die_with_parent(parent_pid: int) -> None:
    """Have this process killed as soon as `parent_pid`, which forked it, is gone, however that died.

    On Linux the kernel does it when the thread that forked ends, so fork from the main thread;
    elsewhere a thread of this process looks once a second.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=[parent_pid], daemon=True).start()
    if os.getppid() != parent_pid:  # It died before we asked.
        os.kill(os.getpid(), signal.SIGKILL)


class KeptProcess:
    """A process beside this one, forked and kept running until `stop()`.

    `run` is called in it with this process's pid. Forking happens in the thread that calls, which should be
    the main one, and under `lock`, while which no thread may open a database connection.
    """

    def __init__(self, name: str, run: Callable[[int], None], *, lock: AbstractContextManager[Any]) -> None:
        self._name = name
        self._run = run
        self._lock = lock
        self._pid = 0
        self._is_stopped = False
        self._start()

    def revive(self) -> None:
        """Start another one if it has ended. If the system has no room for it now, the next call tries
        again."""
        if self._is_stopped or (self._pid and not _has_ended(self._pid)):
            return
        if self._pid:
            logger.warning("The %s (pid %s) ended; starting another.", self._name, self._pid)
        self._pid = 0  # It may be another process's from now on.
        try:
            self._start()
        except OSError as error:
            logger.warning("The %s could not be started: %s", self._name, error)

    def stop(self, *, grace_seconds: float = 3) -> None:
        """End it with SIGTERM, with SIGKILL when it has not ended after the grace."""
        self._is_stopped = True
        pid, self._pid = self._pid, 0
        if not pid:
            return
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + grace_seconds
            while not _has_ended(pid):
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.02)

    def _start(self) -> None:
        parent_pid = os.getpid()
        with self._lock:
            disconnect_databases()
            self._pid = os.fork()
            if self._pid == 0:
                try:
                    self._run(parent_pid)
                finally:
                    os._exit(0)


def _has_ended(pid: int) -> bool:
    """True if this child has ended; then its pid is free for other processes."""
    try:
        return os.waitpid(pid, os.WNOHANG) != (0, 0)
    except ChildProcessError:  # It has been waited for.
        return True


def how_it_ended(status: int, memory_kb: int) -> str:
    """What a process's status tells, with the most memory that it used: reads on from "Worker w1:"."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        memory = f", having used up to {memory_kb // 1024} MB of memory" if memory_kb else ""
        return f"its process was ended by signal {number} ({signal.strsignal(number)}){memory}"
    return f"its process ended with exit code {os.waitstatus_to_exitcode(status)}"


def kill_this_group() -> None:
    """End this process, and what it has started if it leads a group of its own, at once."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def disconnect_databases() -> None:
    """Close this thread's database connections and the pools of all threads, as must be before a fork:
    a connection that two processes share gives one the answers to the other."""
    for connection in connections.all(initialized_only=True):
        connection.close()
        close_pool = getattr(connection, "close_pool", None)  # PostgreSQL's, if the project uses one.
        if close_pool:
            close_pool()


def identity(pid: int) -> str | None:
    """What tells the process with this pid from every other one that has or had it; None if it has ended.

    Where the system does not tell when a process started, all that is alive under this pid counts as it.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # It lives, as another user's.
    try:
        # Fields 3 and 22 of proc_pid_stat(5); field 2 is a name in brackets, which may hold anything.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "unknown"
    return None if state in "ZX" else fields[18]


class Footprint:
    """What a process and all those use that it has started; None where the system does not tell."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before: tuple[float, float] | None = None  # (when, CPU seconds)

    def measure(self) -> tuple[int | None, float | None]:
        """The memory in use, in bytes, and the percentage of one core since the last call.

        Memory that processes share, as after a fork, counts for each of them.
        """
        told = [each for pid in _family(self._pid) if (each := _usage(pid))]
        if not told:
            return None, None
        at, cpu_seconds = time.monotonic(), sum(seconds for _, seconds in told)
        before, self._before = self._before, (at, cpu_seconds)
        memory = sum(size for size, _ in told)
        if before is None or at <= before[0]:
            return memory, None
        # Less than before: one has ended that nobody of them has waited for.
        return memory, max(0.0, 100 * (cpu_seconds - before[1]) / (at - before[0]))


def _family(pid: int) -> list[int]:
    """This process and those that it has started, with theirs."""
    family = [pid]
    for each in family:  # It grows meanwhile.
        family += _children(each)
    return family


def _children(pid: int) -> list[int]:
    children: list[int] = []
    with suppress(OSError):  # It may end at any point.
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                children += map(int, (thread / "children").read_text().split())
    return children


def _usage(pid: int) -> tuple[int, float] | None:
    """The memory of a process in bytes; the CPU seconds of it and of those that it has waited for."""
    try:
        # Fields 3 to 24 of proc_pid_stat(5); field 2 is a name in brackets, which may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks = sum(int(field) for field in fields[11:15])
        return int(fields[21]) * os.sysconf("SC_PAGESIZE"), ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return None


def _watch(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)
