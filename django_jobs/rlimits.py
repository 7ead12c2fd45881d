"""What stops a job that takes too much of the machine? Limits of its CPU time and of its memory.

A task declares its own with `@task(cpu_seconds=…, memory_mb=…)`; what it leaves open its queue says, by the
setting QUEUE_LIMITS. They surround the function alone and count what the process of the job takes meanwhile,
with all its threads. What the function starts as processes of their own is not counted; these get the limit
of memory for themselves.

A limit of CPU time strikes the main thread as an exception, when that runs Python code: what computes in C is
struck once it returns, and what heeds no exception can be ended from outside, see `cpu_seconds_over`. The
limit of memory is the kernel's, so only Linux has it. Both are of a process, and so for jobs that run one at
a time, in the main thread; in other threads they are not enforced.
"""

import errno
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .conf import LIMITS, is_limit, settings
from .exceptions import CpuLimitExceeded, MemoryLimitExceeded
from .processes import SharedMoment

LOOK_EVERY_SECONDS = 0.01
"""How often at most the CPU time of a job is looked at, when it is about to be over its limit."""

_MB = 1024 * 1024

logger = logging.getLogger(__name__)

_declared: dict[str, tuple[Callable[..., Any], dict[str, float]]] = {}  # {name of a task: its own limits}


def checked(**limits: float | None) -> dict[str, float]:
    """These limits without those that are None. Raises `TypeError` and `ValueError` for what is no limit."""
    given = {name: value for name, value in limits.items() if value is not None}
    for name, value in given.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise TypeError(f"{name}={value!r} is of type {type(value).__name__}; give a number.")
        if not is_limit(name, value):
            low, high = LIMITS[name]
            raise ValueError(f"{name}={value!r}: from {low} to {high:,}, or None for its queue's.")
    return given


def declare(name: str, function: Callable[..., Any], limits: dict[str, float]) -> None:
    """Note the limits that a task has of its own."""
    _declared[name] = function, limits


def limits_of(
    task: str, function: Callable[..., Any], queue: str, cpu_deadline: SharedMoment | None = None
) -> "Limits":
    """The limits of a job of this task on this queue, to be enforced once.

    While they are, `cpu_deadline` tells the CPU time of this process at which the job is over its limit.
    """
    if task in _declared:
        own = _declared[task][1]
    else:  # None is declared, or its task has another name by now.
        own = next((limits for declared, limits in _declared.values() if declared is function), {})
    limits: dict[str, _Limit] = {}
    for name, amount in {**settings.QUEUE_LIMITS.get(queue, {}), **own}.items():
        if name in own:
            limits[name] = _Limit(amount, "of the task", f"@task({name}=…)")
        else:
            remedy = f'DJANGO_JOBS["QUEUE_LIMITS"]["{queue}"]["{name}"]'
            limits[name] = _Limit(amount, f'of the queue "{queue}"', remedy)
    return Limits(task, limits, cpu_deadline)


def cpu_seconds_used(pid: int) -> float | None:
    """The CPU time that this process has used, all its threads' and none of its children's, as
    `time.process_time` tells it there. None if it has ended, or the system does not tell."""
    try:
        # Fields 14 and 15 of proc_pid_stat(5); field 2 is a name in brackets, which may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_seconds_over(pid: int, deadline: SharedMoment) -> float:
    """How much CPU time the job of this process has used beyond its limit; 0 while it is within or has none.

    `deadline` is what that process gave to `executor.run`.
    """
    used, moment = cpu_seconds_used(pid), deadline.get()
    return max(0, used - moment) if used and moment else 0


@dataclass(frozen=True, slots=True)
class _Limit:
    amount: float
    whose: str
    remedy: str


class Limits:
    """Enforced from `__enter__` to `__exit__`. That may be cut short by an exception that a signal raises, so
    call `close()` where none can strike any more."""

    def __init__(
        self,
        task: str = "",
        limits: Mapping[str, _Limit] | None = None,
        cpu_deadline: SharedMoment | None = None,
    ) -> None:
        self._task = task
        self._limits = limits or {}
        self._cpu_deadline = cpu_deadline
        self._watch: _CpuWatch | None = None
        self._data_limits: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        if not self._limits:
            return self
        if threading.current_thread() is not threading.main_thread():
            _warn_once(f"The limits of {self._task} are not enforced: its process runs others beside it.")
            return self
        if limit := self._limits.get("cpu_seconds"):
            self._limit_cpu(limit)
        if limit := self._limits.get("memory_mb"):
            self._limit_memory(limit)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        is_limited = self._data_limits is not None
        self.close()
        if is_limited and error and _is_for_want_of_memory(error):
            raise MemoryLimitExceeded(self._message("memory_mb", "MB of memory")) from error

    def close(self) -> None:
        """Lift what is still enforced."""
        if self._watch:
            self._watch.end()
            self._watch = None
        if self._cpu_deadline:
            self._cpu_deadline.clear()
        if self._data_limits:
            resource.setrlimit(resource.RLIMIT_DATA, self._data_limits)
            self._data_limits = None

    def _limit_cpu(self, limit: _Limit) -> None:
        deadline = time.process_time() + limit.amount
        if self._cpu_deadline:
            self._cpu_deadline.set(deadline)
        error = CpuLimitExceeded(self._message("cpu_seconds", "seconds of CPU time"))
        self._watch = _CpuWatch(deadline, error)
        self._watch.begin()

    def _limit_memory(self, limit: _Limit) -> None:
        if (has := _data_bytes()) is None:
            _warn_once("Limits of memory are not enforced on this system; only Linux has them.")
            return
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = has + int(limit.amount * _MB)
        if any(other != resource.RLIM_INFINITY and other <= wanted for other in (soft, hard)):
            return  # The process has a lower one already.
        self._data_limits = soft, hard
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))

    def _message(self, name: str, what: str) -> str:
        limit = self._limits[name]
        return (
            f"{self._task} used more than {limit.amount:g} {what}, the limit {limit.whose}; "
            f"have it do less at a time, or raise {limit.remedy}."
        )


class _CpuWatch:
    """A thread that raises an error in the main thread once the process has used so much CPU time.

    The system's own timers send their signal to the thread that computes. That would not wake the main one
    where it waits for that thread.
    """

    def __init__(self, deadline: float, error: Exception) -> None:
        self._deadline = deadline
        self._error = error
        self._ended = threading.Event()
        self._is_over = False
        self._former: Any = None
        self._thread = threading.Thread(target=self._look, name="django-jobs-cpu-limit", daemon=True)

    def begin(self) -> None:
        """Called in the main thread."""
        self._former = signal.signal(signal.SIGXCPU, self._strike)
        self._thread.start()

    def end(self) -> None:
        """Raise nothing from now on. May be repeated, if another exception struck meanwhile."""
        self._ended.set()
        if self._thread.ident:
            self._thread.join()  # So that no signal is on its way when it gets back its default, which kills.
        if self._former is not None:
            signal.signal(signal.SIGXCPU, self._former)

    def _look(self) -> None:
        while (remaining := self._deadline - time.process_time()) > 0:
            # So long even all processors need at least for it.
            if self._ended.wait(max(remaining / (os.cpu_count() or 1), LOOK_EVERY_SECONDS)):
                return
        self._is_over = True
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGXCPU)

    def _strike(self, number: int, frame: object) -> None:
        if self._is_over and not self._ended.is_set():
            self._is_over = False
            raise self._error


def _data_bytes() -> int | None:
    """What RLIMIT_DATA counts of this process: what it has allocated, used or not."""
    if sys.platform != "linux":
        return None
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return int(status.partition("VmData:")[2].split()[0]) * 1024


def _is_for_want_of_memory(error: BaseException) -> bool:
    # Each thread needs memory for its stack; Python tells no more of why it got none.
    no_thread = isinstance(error, RuntimeError) and str(error).startswith("can't start new thread")
    return isinstance(error, MemoryError) or no_thread or getattr(error, "errno", None) == errno.ENOMEM


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)
