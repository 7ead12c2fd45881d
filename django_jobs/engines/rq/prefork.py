"""The worker that runs jobs in long-lived children: it takes, claims, hands out, gathers, and reports many at
once.

One thread does all of that, and never waits for a job, nor for who holds a job's row. Beside it the threads
of the life signs see to what a child cannot see to itself.
"""

import gc
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import UUID

from django.db import Error, connections, reset_queries, router
from redis import RedisError
from rq.defaults import DEFAULT_LOGGING_DATE_FORMAT, DEFAULT_LOGGING_FORMAT
from rq.utils import now
from rq.worker import WorkerStatus
from rq.worker.base import DequeueStrategy

from ... import executor, reports, rlimits, spool
from ...fences import Fence
from ...models import Job, Queue, Worker
from ...patience import patience
from ...pool.child import LimitsOfTime
from ...pool.children import Child
from ...pool.holdings import PATIENCE_SECONDS, Held
from ...pool.nursery import Nursery
from ...pool.wrecks import Wrecks
from ...supervision import Supervision
from .handing import SHARE_EVERY_SECONDS
from .hearing import HearingWorker
from .horses import asked_of
from .taking import Arrivals, Taking
from .trampoline import time_limit, time_limit_error
from .worker import LOCK_PATIENCE_SECONDS, OVERTIME_SECONDS

TICK_SECONDS = 1
TELL_RQ_EVERY_SECONDS = 10
SWITCH_SECONDS = 0.0005
"""How long the threads of the life signs may keep the loop waiting in Python, each time; by default it would
be 5 ms, several times for each job that arrives then."""
AGAIN_SECONDS = 1
"""A second signal to stop counts after so long: process managers and terminals may send the first one
twice."""

LIMITS = LimitsOfTime(time_limit, time_limit_error)

logger = logging.getLogger(__name__)


class PreforkWorker(HearingWorker):
    """RQ's worker but for its loop. What it is set to before `work()`:"""

    processes = 0
    """How many children; 0 for one on each core."""
    max_jobs_per_child: int | None = None
    max_memory_per_child_bytes: int | None = None
    grace_seconds: float | None = None
    """How long what runs may go on after the worker was told to stop; None for as long as it takes."""
    supervision = Supervision()
    """Is told when it takes jobs, that it lives, and when it stops."""

    connection_timeout = 3  # RQ asks for more, as it waits for jobs on this connection.
    """How many seconds Redis may take to answer."""

    def _begin_anew(self) -> None:
        super()._begin_anew()
        self._wrecks = Wrecks()
        self._looked_at = self._told_rq_at = 0.0
        self._wants_fresh_code = False
        self._cut_at: float | None = None
        """When what still runs is cut; None for never."""
        self._is_cutting = False
        self._told_to_stop_at = 0.0
        self._is_told_twice = self._has_noted_stop = False
        self._ending_of_all = "its process was ended with the worker"

    # Its life

    def bootstrap(self, *args: Any, **kwargs: Any) -> None:
        self._stop_requested = False
        self._begin_anew()
        gc.collect()
        gc.freeze()  # Who collects garbage later must not copy what it shares with those that it forks.
        self._nursery = Nursery(  # First, as it forks.
            self.name,
            self.processes or _cores(),
            partial(spool.new_running_file, self._signs.worker.pk),
            LIMITS,
            async_concurrency=self.async_concurrency,
            max_jobs=self.max_jobs_per_child,
            max_memory_bytes=self.max_memory_per_child_bytes,
        )
        self._signs.fence = Fence(self._nursery.seats.fence)
        self._signs.worker.slots = self.processes or _cores()
        super().bootstrap(*args, **kwargs)
        self._taking = Taking(self.connection, self.queues, self.name, self.key)
        self._arrivals = Arrivals(self.connection, self.queues)
        self._woken, self._waking = socket.socketpair()
        for end in (self._woken, self._waking):
            end.setblocking(False)

    def work(
        self,
        burst: bool = False,
        logging_level: str | None = None,
        date_format: str = DEFAULT_LOGGING_DATE_FORMAT,
        log_format: str = DEFAULT_LOGGING_FORMAT,
        max_jobs: int | None = None,
        max_idle_time: int | None = None,
        with_scheduler: bool = False,
        dequeue_strategy: DequeueStrategy = DequeueStrategy.DEFAULT,
    ) -> bool:
        # RQ would refuse an unknown one when a job is taken, which then would be lost.
        self._dequeue_strategy = DequeueStrategy(dequeue_strategy or DequeueStrategy.DEFAULT)
        self.bootstrap(logging_level, date_format, log_format)
        if with_scheduler:
            self._start_scheduler(burst, logging_level, date_format, log_format)
        self._install_signal_handlers()
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            self._look_around()
            if not burst:
                self._nursery.fill()
            self.supervision.ready()
            self.set_state(WorkerStatus.IDLE)
            self._work(burst, max_jobs, max_idle_time)
        finally:
            self.teardown()
        if self._is_told_twice:  # As RQ ends then.
            raise SystemExit
        return self._begun > 0

    def _work(self, burst: bool, max_jobs: int | None, max_idle_time: int | None) -> None:
        idle_since = time.monotonic()
        self._is_burst = burst
        while True:
            left = None if max_jobs is None else max_jobs - self._begun
            try:
                self._pass(left)
            except Exception:  # noqa: BLE001
                self._note_error()
            if self._has_stopped():
                return
            if not self._is_empty():
                idle_since = time.monotonic()
            elif left is not None and left <= 0:
                logger.info("Worker %s: finished executing %d jobs, quitting", self.name, self._begun)
                return
            elif burst and (self._is_suspended or self._is_quiet or not self._may_be_more):
                logger.info("Worker %s: done, quitting", self.name)
                return
            elif max_idle_time is not None and time.monotonic() - idle_since >= max_idle_time:
                logger.info("Worker %s: idle for %d seconds, quitting", self.name, max_idle_time)
                return
            try:
                self._wait(left)
            except Exception:  # noqa: BLE001
                self._note_error()

    def _note_error(self) -> None:
        """Whatever it is, what runs must be looked after."""
        logger.exception("Worker %s goes on after an error.", self.name)
        self._rest()
        time.sleep(0.1)

    def _pass(self, left: int | None) -> None:
        """See to all that there is to see to; `left` is how many jobs may begin, None for any number."""
        self._look_around()
        self._hear()
        self._ask(left)
        self._record()  # Meanwhile, as both servers have work to do.
        if self._stop_requested or self._is_quiet or self._is_void:
            self._give_all_back()
        self._may_be_more |= self._is_quiet  # By the time it takes something again.
        self._begin(self._taken())
        self._hand_out()
        self._share()
        is_busy = bool(self._holdings or self._horses)
        state = Worker.State.BUSY if is_busy else Worker.State.IDLE
        self._signs.worker.state = Worker.State.QUIET if self._is_quiet else state

    def _is_empty(self) -> bool:
        return not (
            self._holdings or self._horses or self._asked or self._ends or self._later or self._outbox
        )

    def _has_stopped(self) -> bool:
        if self._is_cutting:  # Reports that find no database are in files.
            return not (self._horses or any(child.handed for child in self._nursery.children))
        return self._stop_requested and self._is_empty()

    def _install_signal_handlers(self) -> None:
        signal.set_wakeup_fd(self._waking.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.request_stop)
        signal.signal(signal.SIGHUP, self._request_fresh_code)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # It wakes the loop.

    def request_stop(self, signum: int, frame: Any) -> None:
        """Take nothing more, and end when what runs has ended, or its grace is over, or when told again."""
        if not self._stop_requested:
            self._stop_requested = True
            self._told_to_stop_at = time.monotonic()
            self._shutdown_requested_date = now()
            self._ending_of_all = "its process was ended with the worker, which stopped"
            if self.grace_seconds is not None:
                self._cut_at = time.monotonic() + self.grace_seconds
                self._ending_of_all += f" after a grace of {self.grace_seconds:g} s"
            self.supervision.stopping()
            self.handle_warm_shutdown_request()
        elif time.monotonic() - self._told_to_stop_at >= AGAIN_SECONDS:
            self._cut_at = 0
            self._is_told_twice = True
            self._ending_of_all = "its process was ended with the worker, which was told twice to stop"

    def _request_fresh_code(self, signum: int, frame: Any) -> None:
        self._wants_fresh_code = True

    def teardown(self) -> None:
        self.supervision.stopping()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # It is about to end; impatience must not cut this.
        signal.set_wakeup_fd(-1)
        try:
            self._end_children()
        finally:
            self._outbox.keep(list(self._holdings.held))
            self._arrivals.forget()
            for end in (self._woken, self._waking):
                end.close()
            super().teardown()
            if self._is_empty():
                spool.remove_running_file(self._signs.worker.pk)

    def _end_children(self) -> None:
        """Let those end that have nothing to do, kill the others, and tell what became of their jobs."""
        self._stop_requested = True
        self._nursery.stop_filling()
        self.kill_all_horses(self._ending_of_all)
        for child in self._nursery.children:
            if child.handed:
                child.kill(self._ending_of_all)
            else:
                child.retire()
        deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
        while (self._nursery.children or not self._is_empty()) and time.monotonic() < deadline:
            self._hear()
            self._record()
            self._give_all_back()
            self._ask(None)
            self._begin(self._taken())
            if self._nursery.children or not self._is_empty():
                self._select([], SHARE_EVERY_SECONDS)
        self._nursery.close()

    # Once a second

    def _look_around(self) -> None:
        at = time.monotonic()
        if self._cut_at is not None and at >= self._cut_at and not self._is_cutting:
            self._is_cutting = True
            logger.warning("Worker %s: what still runs is cut.", self.name)
            self.kill_all_horses(self._ending_of_all)
            for child in self._nursery.children:
                if child.handed:
                    child.kill(self._ending_of_all)
        if self._stop_requested and not self._has_noted_stop:  # Here, as a signal may come amid a command.
            self._has_noted_stop = True
            self.set_shutdown_requested_date()
        if at - self._looked_at < TICK_SECONDS:
            return
        self._looked_at = at
        reset_queries()  # With DEBUG, Django keeps every statement.
        self.supervision.alive()
        if self._maintainer and not self._stop_requested:
            self._maintainer.revive()
        if self._wants_fresh_code and not self._stop_requested:
            self._wants_fresh_code = False
            self._nursery.load_fresh_code()
        self._reclaim(self._nursery.replace())
        self.look_after_horses()
        if at - self._told_rq_at > TELL_RQ_EVERY_SECONDS:
            self._told_rq_at = at
            try:
                self.heartbeat()
                self._taking.say_they_run([held.ticket for held in self._holdings.held.values()])
            except RedisError as error:
                logger.info("Worker %s: RQ's record of it is not complete: %s", self.name, error)
        if not self._stop_requested:
            if self.should_run_maintenance_tasks:
                self.run_maintenance_tasks()
            self._see_what_is_paused()

    def _see_what_is_paused(self) -> None:
        try:
            with patience(router.db_for_write(Queue), PATIENCE_SECONDS):
                paused = Queue.objects.filter(name__in=self.queue_names(), paused=True)
                before, self._paused = self._paused, set(paused.values_list("name", flat=True))
        except Error:
            connections.close_all()
        else:
            self._may_be_more |= bool(before - self._paused)

    # Waiting

    def _wait(self, left: int | None) -> None:
        """Until something has happened that this worker sees to."""
        at = time.monotonic()
        timeouts: list[float] = [TICK_SECONDS]
        if (seconds := self._outbox.seconds_to_wait()) is not None:
            timeouts.append(seconds)
        timeouts += [again_at - at for again_at, _ in self._later.values()]
        if self._progress:
            timeouts.append(self._progress_at - at)
        has_more = any(child.in_turn > 1 for child in self._nursery.children)
        if self._backlog or self._holdings.has_lost or has_more:
            timeouts.append(SHARE_EVERY_SECONDS)
        if self._ends:
            timeouts.append(self._rests_until - at)
        arrivals: list[Any] = []
        if self._may_take() and any(self._room(left)):
            if at < self._rests_until:
                timeouts.append(self._rests_until - at)
            elif self._may_be_more:
                timeouts.append(0)
            elif not self._is_burst:
                arrivals = self._ask_for_arrivals()
        self._select(arrivals, max(0, min(timeouts)), unheard=self._supplied())

    def _ask_for_arrivals(self) -> list[Any]:
        try:
            self._arrivals.ask(self._paused)
        except (RedisError, OSError) as error:
            self._do_without(error, (), 0)
            return []
        return list(self._arrivals.sockets())

    def _select(
        self, arrivals: Sequence[Any], timeout: float, *, unheard: Collection[Child] = frozenset()
    ) -> None:
        watched = [each for each in self._nursery.watched() if each not in unheard]
        readable, _, _ = select.select([self._woken, *watched, *arrivals], [], [], timeout)
        if self._woken in readable:
            with suppress(BlockingIOError):
                self._woken.recv(1000)
        if heard := [each for each in readable if each in arrivals]:
            try:
                self._may_be_more |= self._arrivals.heard(heard)
            except (RedisError, OSError) as error:
                self._do_without(error, (), 0)

    # What the threads of the life signs call

    def _witness(self, worker_id: UUID) -> None:
        self._outbox.keep_old()  # Here, where no database is waited for.
        super()._witness(worker_id)

    def _surely_holds(self) -> bool:
        held = list(self._holdings.held.values())
        return all(executor.is_surely_held(each.claimed.job_id, each.claim_id) for each in held)

    def _end_behind_fence(self) -> None:
        """Others may hold what this worker holds: what its children do ends, and what they have not begun is
        given back as far as it is still held."""
        self._is_void = True
        for child in list(self._nursery.children):
            if child.handed:
                child.kill("it reached neither the database nor Redis, and its process was ended")

    def handle_payload(self, message: Any) -> None:
        if asked_of(message, "kill-horse"):
            logger.info("Worker %s: told to kill what it runs.", self.name)
            self.kill_all_horses("its process was ended on request")
            for child in list(self._nursery.children):
                if child.begun():
                    child.kill("its process was ended on request")
        else:
            super().handle_payload(message)

    def _look_after_child(self) -> None:
        for child in list(self._nursery.children):
            for seat in child.seats:
                over, job_id = seat.deadline.seconds_over(), seat.job_id
                if over > OVERTIME_SECONDS and job_id:
                    child.kill_if_it_runs(job_id, f"its function ran on {over:.0f} s after its time limit")
                over = rlimits.cpu_seconds_over(child.pid, seat.cpu_deadline)
                if over > OVERTIME_SECONDS and job_id:
                    why = f"its function used {over:.0f} s of CPU time more than its limit"
                    child.kill_if_it_runs(job_id, why)
        self._end_what_is_void()
        reports.deliver_kept()  # First: what has a report has begun.
        self._wrecks.settle()
        self._end_orphans()

    def _end_what_is_void(self) -> None:
        for child in list(self._nursery.children):
            for job_id in child.begun():
                held = self._holdings.held.get(job_id)
                if held and child.runs(job_id) and executor.was_taken(job_id, held.claim_id):
                    self._stop_child(held, child, "was ended by others")

    def _stop_held_job(self, job_id: UUID) -> None:
        held = self._holdings.held.get(job_id)
        if held and held.child:
            self._stop_child(held, held.child, "was canceled")

    def _stop_child(self, held: Held, child: Child, why: str) -> None:
        if child.stop(held.claimed.job_id, "its process was ended on request"):
            logger.info("Worker %s: stopping job %s, which %s.", self.name, held.claimed.job_id, why)

    def _end_orphans(self) -> None:
        self._holdings.give_back_orphans()
        observed = Job.objects.started().observed().filter(worker=self._signs.worker)
        executions = [UUID(execution_id) for execution_id in list(self.executions)]
        # Their ends were not recorded. RQ knows how they ended; the observer follows what nobody holds.
        observed.exclude(claim_id__in=executions).update(worker=None)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
