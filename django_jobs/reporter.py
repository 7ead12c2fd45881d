"""What a running job tells: its progress and its log, written while it runs and kept for the report.

A thread sends them, to the worker or to the database on a connection of its own, so that they are seen while
the job is inside a transaction and never rolled back with it; the newest state wins, at most twice a second.
"""

import logging
import os
import threading
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

from django.db import connections

from . import logs
from .models import Job
from .stages import Stages, check_percent
from .states import STARTED
from .values import kept

FLUSH_INTERVAL_SECONDS = 0.5
LOG_LIMIT = 64_000  # characters kept of an attempt's log: its end
LIVE_LOG_LIMIT = 16_000  # the same of one that runs, as they are written again and again

T = TypeVar("T")

logger = logging.getLogger(__name__)

_current: ContextVar["Reporter | None"] = ContextVar("django_jobs_reporter", default=None)


class Progress:
    """How a job tells how far it is. Outside a job every call does nothing, so tasks stay plain functions."""

    def declare(self, *stages: str) -> None:
        """Announce the stages to come, all pending at 0 %. The job's progress is the mean of its stages."""
        if reporter := _current.get():
            reporter.declare(stages)

    def update(self, percent: float, *, message: str | None = None, stage: str | None = None) -> None:
        """Tell that the job, or one stage of it, is `percent` (0 to 100) done; 100 completes the stage.

        Cheap to call often. Raises `ValueError` for anything but a number from 0 to 100.
        """
        check_percent(percent)
        if reporter := _current.get():
            reporter.update(percent, message, stage)

    def track(
        self,
        items: Iterable[T] | AsyncIterable[T],
        *,
        stage: str | None = None,
        total: int | None = None,
        message: str | None = None,
    ) -> "Tracked[T]":
        """Iterate over `items` and tell after each how many of them are done: `for x in progress.track(xs)`.

        `total` is their number, `len(items)` unless given; where neither is known, progress stays at 0 until
        they are through. Takes asynchronous iterables too: `async for x in progress.track(xs)`.
        """
        return Tracked(items, stage, total, message)


class Tracked(Generic[T]):
    """Iterates over what it was given, once or more, and tells the progress."""

    def __init__(
        self,
        items: Iterable[T] | AsyncIterable[T],
        stage: str | None,
        total: int | None,
        message: str | None,
    ) -> None:
        if total is None and isinstance(items, Sized):
            total = len(items)
        self._items = items
        self._total = total
        self._stage = stage
        self._message = message

    def __iter__(self) -> Iterator[T]:
        if not isinstance(self._items, Iterable):
            raise TypeError(f"{self._items!r} is asynchronous; iterate with `async for`.")
        self._tell(0)
        for done, item in enumerate(self._items, 1):
            yield item
            self._tell(done)
        progress.update(100, stage=self._stage)

    async def __aiter__(self) -> AsyncIterator[T]:
        self._tell(0)
        done = 0
        if isinstance(self._items, AsyncIterable):
            async for item in self._items:
                yield item
                done += 1
                self._tell(done)
        else:
            for item in self._items:
                yield item
                done += 1
                self._tell(done)
        progress.update(100, stage=self._stage)

    def _tell(self, done: int) -> None:
        percent = 100 * min(done, self._total) / self._total if self._total else 0
        progress.update(percent, message=self._message, stage=self._stage)


progress = Progress()


def progress_callback(percent: float, step: str | None = None) -> None:
    """`progress.update` for code that takes a callable: `convert(path, on_progress=progress_callback)`.

    `step` is what is being done, shown as the job's message.
    """
    progress.update(percent, message=step)


Tell = Callable[[Job, dict[str, Any]], None]
"""Brings the progress and the log of a running job to its row, at once or soon."""


def write(job: Job, fields: dict[str, Any]) -> None:
    """Write what a started job tells, if it is still the attempt that was claimed."""
    Job.objects.filter(pk=job.pk, attempt=job.attempt, claim_id=job.claim_id, status=STARTED).update(**fields)


class Reporter:
    """Gathers what one attempt tells; `fields()` is its progress for the row. If `live`, that and the end of
    its log are told while it runs."""

    def __init__(self, job: Job, *, live: bool = True, tell: Tell = write) -> None:
        self._job, self._tell = job, tell
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._live = live
        self._stages = Stages()
        self._log: LogCapture | None = None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Direct `progress` and the log records of this job here: those made in its context and, as long as
        this process runs no other job, those of threads that know of no context."""
        token = _current.set(self)
        _distributor.add(self)
        try:
            yield
        finally:
            _distributor.remove(self)
            _current.reset(token)
            self._close()

    def declare(self, stages: tuple[str, ...]) -> None:
        with self._lock:
            self._stages.declare(stages)
        self._wake()

    def update(self, percent: float, message: str | None, stage: str | None) -> None:
        with self._lock:
            self._stages.update(percent, message, stage)
        self._wake()

    def fields(self) -> dict[str, Any]:
        with self._lock:
            return self._stages.fields()

    def note(self, record: logging.LogRecord) -> None:
        with self._lock:
            log = self._log = self._log or LogCapture()
        log.handle(record)
        self._wake()

    def log_text(self) -> str:
        return self._log.text() if self._log else ""

    def _wake(self) -> None:
        if self._changed.is_set():  # The cheap way for what is called thousands of times a second.
            return
        self._changed.set()
        if self._live and self._thread is None:
            thread = threading.Thread(target=self._write_loop, name="django-jobs-reporter", daemon=True)
            try:
                thread.start()
            except (RuntimeError, MemoryError):  # The job has left no memory for one.
                logger.warning("Progress and log cannot be written before the end of the job.", exc_info=True)
            else:
                self._thread = thread

    def _close(self) -> None:
        self._closing.set()
        self._changed.set()
        if self._thread:
            # A write that hangs must not hold up the report, which carries the same state.
            self._thread.join(timeout=2)

    def _write_loop(self) -> None:
        try:
            while True:
                self._changed.wait()
                if self._closing.wait(FLUSH_INTERVAL_SECONDS):  # Most jobs end before, and tell it then.
                    return
                self._changed.clear()
                self._write()
        finally:
            connections.close_all()

    def _write(self) -> None:
        try:
            self._tell(self._job, {**self.fields(), "live_log": self._log.end() if self._log else ""})
        except Exception:
            logger.warning("Progress could not be written; trying again.", exc_info=True)
            self._changed.set()
            connections.close_all()


class _Distributor(logging.Handler):
    """Gives each log record of this process to the job that it is about.

    One handler for all jobs: while one handler is removed from a logger, records miss another.
    """

    def __init__(self) -> None:
        super().__init__()
        self._reporters: list[Reporter] = []
        self._changing = threading.Lock()

    def add(self, reporter: Reporter) -> None:
        with self._changing:
            self._reporters = [*self._reporters, reporter]
            logging.getLogger().addHandler(self)

    def remove(self, reporter: Reporter) -> None:
        with self._changing:
            self._reporters = [each for each in self._reporters if each is not reporter]
            if not self._reporters:
                logging.getLogger().removeHandler(self)

    def handle(self, record: logging.LogRecord) -> bool:
        reporters, reporter = self._reporters, _current.get()
        if reporter is None and len(reporters) == 1 and not logs.is_told():
            reporter = reporters[0]
        if reporter:
            reporter.note(record)
        return True

    def renew_lock(self) -> None:
        self._changing = threading.Lock()


_distributor = _Distributor()
os.register_at_fork(after_in_child=_distributor.renew_lock)


class LogCapture(logging.Handler):
    """Keeps the last `LOG_LIMIT` characters of what was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._lines: deque[str] = deque()
        self._size = 0
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = kept(self.format(record), LOG_LIMIT)
        except Exception:  # noqa: BLE001 - As every handler: a bad record must not break the job.
            self.handleError(record)
            return
        self._lines.append(line)
        self._size += len(line) + 1
        while self._size > LOG_LIMIT and len(self._lines) > 1:
            self._size -= len(self._lines.popleft()) + 1
            self._dropped += 1

    def text(self) -> str:
        self.acquire()  # A thread that the job left behind may still log.
        try:
            return _with_head(self._dropped, self._lines)
        finally:
            self.release()

    def end(self) -> str:
        """The last lines, of `LIVE_LOG_LIMIT` characters at most or one line."""
        self.acquire()
        try:
            size, lines = 0, deque[str]()
            for line in reversed(self._lines):
                size += len(line) + 1
                if size > LIVE_LOG_LIMIT and lines:
                    break
                lines.appendleft(line)
            return _with_head(self._dropped + len(self._lines) - len(lines), lines)
        finally:
            self.release()


def _with_head(dropped: int, lines: Iterable[str]) -> str:
    head = [f"… {dropped} earlier records cut …"] if dropped else []
    return "\n".join([*head, *lines])
