"""How does one process run several async jobs at the same time? Each has a thread, all share one loop.

What a job does that blocks, above all each query of the ORM, it does in its own thread, on that thread's
connections and in its own transactions. A database needs to let in as many connections, and once more as
many if the jobs tell their progress.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from functools import partial
from queue import SimpleQueue
from uuid import UUID

from django.db import close_old_connections, connections

from . import executor, logs
from .exceptions import JobCanceled
from .executor import TimeLimit
from .loops import Interruption
from .models import Job
from .outcomes import Outcome
from .values import error_fields

Run = Callable[[Job, TimeLimit], tuple[Outcome, BaseException | None]]
Done = Callable[[Job, Outcome, BaseException | None], None]

logger = logging.getLogger(__name__)


class AsyncJobs:
    """Runs up to `limit` jobs at a time, which others have claimed and will report.

    `done` is called in a job's thread when it has ended, with what `run` returned; until `done` returns, the
    job counts as running. `timeout_error` makes what is raised when a job's time limit, of so many seconds,
    is over.

    Only coroutines can be interrupted, and only where they await. A plain function runs here as well, but
    neither its time limit nor `stop` ends it. One that blocks the loop holds up all jobs on it; whether that
    has happened `loops.left_behind` tells once it was to be stopped. Limits of CPU time and memory are not
    enforced.
    """

    def __init__(
        self,
        limit: int,
        *,
        done: Done,
        timeout_error: Callable[[int], BaseException],
        run: Run = executor.run,
    ) -> None:
        self._limit = limit
        self._run = run
        self._done = done
        self._timeout_error = timeout_error
        self._running: dict[UUID, _Running] = {}
        self._changed = threading.Condition()
        self._started: SimpleQueue[_Running | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def start(self, job: Job) -> bool:
        """Run this job, and return True; False when there is no room, or an attempt of it still runs here."""
        with self._changed:
            if len(self._running) >= self._limit or job.pk in self._running:
                return False
            if len(self._running) == len(self._threads):
                name = f"django-jobs-{len(self._threads) + 1}"
                thread = threading.Thread(target=self._work, name=name, daemon=True)
                thread.start()
                self._threads.append(thread)
            running = self._running[job.pk] = _Running(job)
        self._started.put(running)
        return True

    def stop(self, job_id: UUID, error: BaseException | None = None) -> bool:
        """Cancel what this job awaits, so that it ends as canceled, or with the error given; False if it does
        not run. It may finish before it notices, and then is finished.
        """
        with self._changed:
            running = self._running.get(job_id)
            if running is None or running.has_ended:
                return False
        running.interruption.strike(error or JobCanceled(f"Job {job_id} was canceled while it ran."))
        return True

    def running(self) -> set[UUID]:
        """The ids of the jobs that run, or have ended and are not done with."""
        with self._changed:
            return set(self._running)

    def wait_for_room(self, timeout_seconds: float | None = None) -> bool:
        """Wait until another job can be started; False if none could be in that time."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._running) < self._limit, timeout_seconds)

    def end(self, timeout_seconds: float = threading.TIMEOUT_MAX) -> bool:
        """Let the threads end when what was started is done with; True if they have in that time.

        They close their connections. Nothing can be started afterwards.
        """
        with self._changed:
            self._limit = 0
            threads = self._threads
        for _ in threads:
            self._started.put(None)
        deadline = time.monotonic() + timeout_seconds
        for thread in threads:
            thread.join(max(0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _work(self) -> None:
        try:
            while running := self._started.get():
                # What a job sets in its context, such as a language, is not for the next one.
                Context().run(self._see_through, running)
                del running
        finally:
            connections.close_all()

    def _see_through(self, running: "_Running") -> None:
        job = running.job
        try:
            with logs.telling(job):  # Also what is logged of its end.
                self._run_and_tell(running, job)
        finally:
            with self._changed:
                del self._running[job.pk]
                self._changed.notify_all()

    def _run_and_tell(self, running: "_Running", job: Job) -> None:
        try:
            close_old_connections()  # Since the last job they may have become too old.
            outcome, raised = self._run(job, partial(self._time_limit, running))
        except BaseException as error:  # noqa: BLE001 - The job's own are in its outcome; the thread goes on.
            outcome, raised = Outcome.failed(**error_fields(error)), error
        running.has_ended = True
        try:
            self._done(job, outcome, raised)
        except BaseException:
            logger.exception("What follows the end of job %s failed.", job.pk)

    @contextmanager
    def _time_limit(self, running: "_Running", seconds: int | None) -> Iterator[Interruption]:
        if seconds is None:
            yield running.interruption
        else:
            with running.interruption.striking_after(seconds, partial(self._timeout_error, seconds)):
                yield running.interruption


class _Running:
    def __init__(self, job: Job) -> None:
        self.job = job
        self.interruption = Interruption()
        self.has_ended = False
