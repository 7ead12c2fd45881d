"""What a child does: run the jobs it is handed, one after another, and tell how each ended."""

import json
import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from django.conf import settings as django_settings
from django.db import close_old_connections, connections, reset_queries, router

from .. import batches, executor, logs, loops, registry, reports
from ..batches import Report
from ..concurrency import AsyncJobs
from ..executor import TimeLimit
from ..fences import Fence
from ..models import Job
from ..outcomes import Outcome
from ..patience import limit_connecting
from ..signals import job_finished, job_started
from . import lines
from .seats import Seat, Seats

IDLE_SECONDS = 1
"""After which a child looks at its connections before a job; before that, it has just done so."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LimitsOfTime:
    """How the engine ends what takes too long."""

    surrounding: TimeLimit
    """For what runs in the main thread."""
    error: Callable[[int], BaseException]
    """What is raised in an async job that has run for so many seconds."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the worker asks of a child; goes to it as JSON."""

    number: int
    """Which child it is, from 0; it has the seats of this number."""
    worker_name: str
    async_concurrency: int = 1
    """How many async jobs run at the same time; with 1 each runs in the main thread as any job."""


def serve(
    options: Options,
    seats: Seats,
    limits: LimitsOfTime,
    jobs: socket.socket,
    told: socket.socket,
    notes: socket.socket,
) -> None:
    """Run the jobs that come on the first line until it is closed; tell on the second how they ended. The
    third brings notes: which of them are recorded, or to be stopped."""
    random.seed()
    limit_connecting(router.db_for_write(Job))
    jobs.setblocking(False)
    for line in (told, notes):
        line.setblocking(True)
    child = _Child(options, seats, limits, told)
    threading.Thread(target=child.listen, args=[notes], name="django-jobs-notes", daemon=True).start()
    while child.has_room() and (received := lines.receive_job(jobs)):
        child.run(batches.job_of(received[1]))
        if loops.left_behind():
            break  # What cannot be stopped ends with this process.
    child.end()


class _Child:
    def __init__(self, options: Options, seats: Seats, limits: LimitsOfTime, told: socket.socket) -> None:
        self._options, self._limits = options, limits
        self._seats = seats.of_child(options.number)
        for seat in self._seats:
            seat.leave()
        self._free = self._seats[1:]  # for async jobs
        self._fence = Fence(seats.fence)
        threading.Thread(
            target=self._fence.watch, args=[self._runs], name="django-jobs-fence", daemon=True
        ).start()
        self._telling = _Telling(told, options.worker_name)
        self._async_jobs = None
        if options.async_concurrency > 1:
            self._async_jobs = AsyncJobs(
                options.async_concurrency,
                run=self._run_async,
                done=self._note_async_end,
                timeout_error=limits.error,
            )
        self._seat_of: dict[tuple[UUID, int], Seat] = {}  # {(job, attempt): where it runs}
        self._ran_at = 0.0  # When the last one in the main thread ended.

    def has_room(self) -> bool:
        """Wait until one more job can begin."""
        return self._async_jobs is None or self._async_jobs.wait_for_room()

    def run(self, job: Job) -> None:
        """Run this job to its end, or only begin it if it is async and others may run beside it."""
        if self._async_jobs and registry.is_async(job.task):
            seat = self._seat_of[job.pk, job.attempt] = self._free.pop()
            if self._async_jobs.start(job):
                return
            del self._seat_of[job.pk, job.attempt]
            self._free.append(seat)
        if django_settings.DEBUG:
            reset_queries()  # Django keeps every statement.
        # What a job sets in its context, such as a language, is not for the next one.
        Context().run(self._run_here, job)

    def end(self) -> None:
        """Begin nothing more, and return when all that has begun is told."""
        self._seats[0].close()
        if self._async_jobs:
            self._async_jobs.end()
        connections.close_all()

    def listen(self, notes: socket.socket) -> None:
        """Heed what the worker says of jobs, until it is gone."""
        while note := lines.receive_note(notes):
            what, job_id = note
            if what == lines.RECORDED:
                self._telling.tell_receivers(job_id)
            elif self._async_jobs:
                self._async_jobs.stop(job_id)

    def _runs(self) -> bool:
        return any(seat.runs for seat in self._seats)

    def _run_here(self, job: Job) -> None:
        if time.monotonic() - self._ran_at > IDLE_SECONDS:
            close_old_connections()  # Since the last job they may have become too old.
        seat = self._seats[0]
        with logs.telling(job):
            job_started.send_robust(Job, job=job)
            limits = partial(self._surrounding, job, seat, self._limits.surrounding)
            cpu_deadline, tell = seat.cpu_deadline, self._telling.progress
            outcome, raised = executor.run(job, limits, tell=tell, cpu_deadline=cpu_deadline)
            self._telling.report(job, outcome, raised)
        seat.leave()
        self._ran_at = time.monotonic()

    def _run_async(self, job: Job, limits: TimeLimit) -> tuple[Outcome, BaseException | None]:
        job_started.send_robust(Job, job=job)
        surrounding = partial(self._surrounding, job, self._seat_of[job.pk, job.attempt], limits)
        return executor.run(job, surrounding, tell=self._telling.progress)

    def _note_async_end(self, job: Job, outcome: Outcome, raised: BaseException | None) -> None:
        self._telling.report(job, outcome, raised)
        seat = self._seat_of.pop((job.pk, job.attempt))
        seat.leave()
        self._free.append(seat)

    @contextmanager
    def _surrounding(self, job: Job, seat: Seat, limits: TimeLimit, seconds: int | None) -> Iterator[Any]:
        self._fence.wait_until_open()
        with seat.running(job.pk, seconds), limits(seconds) as interruption:
            yield interruption


class _Telling:
    """The way to the worker. What receivers of `job_finished` do waits until the worker has recorded the
    end."""

    def __init__(self, told: socket.socket, worker_name: str) -> None:
        self._told, self._worker_name = told, worker_name
        self._lock = threading.Lock()
        self._unrecorded: dict[UUID, tuple[Job, str]] = {}

    def progress(self, job: Job, fields: dict[str, Any]) -> None:
        self._send(lines.pack_progress(job.pk, json.dumps(reports.progress_document(job, fields))))

    def report(self, job: Job, outcome: Outcome, raised: BaseException | None) -> None:
        if raised is not None:
            logger.error("Attempt %s of job %s failed.", job.attempt, job, exc_info=raised)
        others_want_to_know = len(job_finished.receivers) > 1  # Besides the one that logs.
        told = reports.document(job, outcome, self._worker_name)
        report = Report(
            job.pk,
            job.queue,
            told["outcome"],
            told["status"],
            told["ran_seconds"],
            json.dumps(told),
            others_want_to_know,
        )
        if others_want_to_know:
            self._unrecorded[job.pk] = job, report.outcome
        self._send(lines.pack_report(report))
        if not others_want_to_know:
            job_finished.send_robust(Job, job=job, outcome=report.outcome)

    def tell_receivers(self, job_id: UUID) -> None:
        """The end of this job is recorded."""
        job, outcome = self._unrecorded.pop(job_id, (None, ""))
        if job:
            with logs.telling(job):
                job_finished.send_robust(Job, job=job, outcome=outcome)
            close_old_connections()

    def _send(self, frame: bytes) -> None:
        with self._lock:
            self._told.sendall(frame)
