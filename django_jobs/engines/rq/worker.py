"""The worker: RQ's, which forks for every job, with life signs, a maintainer beside it, and an end for every
attempt whose process died."""

import json
import logging
import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from django.db import Error, router
from rq.defaults import RQ_KEY_PREFIX
from rq.worker import WorkerStatus

from ... import executor, reports
from ...fences import LOOK_EVERY_SECONDS
from ...lifesigns import LifeSigns
from ...models import Installation, Job, Worker
from ...models.workers import installation_id
from ...outcomes import lose_unless_locked
from ...patience import patience
from ...processes import (
    KeptProcess,
    SharedMoment,
    die_with_parent,
    disconnect_databases,
    how_it_ended,
)
from .. import get_engine
from ..base import parse_delivery_id
from . import trampoline
from .observing import ObservingWorker
from .robust import LONGEST_BLOCK_SECONDS

OVERTIME_SECONDS = 10
"""How long after its time limit a job that does not heed it, say in C code, is killed."""

TOLD_ELSEWHERE = "Its error is told in the database."
NOT_OURS = "It is not of this installation, or somebody made it up; see the worker's log."
"""What RQ is told of deliveries that failed."""

LOCK_PATIENCE_SECONDS = 10
"""How long an ending worker waits for its life sign, which a database that hangs may hold up."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Held:
    """What the child that runs now claims."""

    delivery_id: str
    job_id: UUID
    claim_id: UUID

    def is_void(self) -> bool:
        return executor.was_taken(self.job_id, self.claim_id)


class JobsWorker(ObservingWorker):
    """Plain jobs of RQ run as in RQ, and are observed; deliveries are claimed and reported by the child.

    `run_maintainer` is what runs in a process beside it, called with the worker's pid; None for nothing.
    """

    run_maintainer: Callable[[int], None] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._held: Held | None = None
        self._deadline = SharedMoment(time.monotonic)
        self._maintainer: KeptProcess | None = None
        self._is_quiet = self._was_told_to_stop = False
        self._prepare_life_signs()

    def bootstrap(self, *args: Any, **kwargs: Any) -> None:
        if self.run_maintainer:
            self._maintainer = KeptProcess("maintainer", self.run_maintainer, lock=self._signs.lock)
        self._start_life_signs()
        super().bootstrap(*args, **kwargs)

    def teardown(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):  # It is about to end; impatience must not cut this.
            signal.signal(number, signal.SIG_IGN)
        if self.horse_pid:  # The loop ended on an error; nothing may run when our row is gone.
            self.kill_horse()
            self.wait_for_horse()
        try:
            super().teardown()
        finally:
            if self._maintainer:
                self._maintainer.stop()
            self._end_orphans_now()
            self._signs.stop()
            disconnect_databases()
            self._prepare_life_signs()  # RQ's work() may be called again.

    def heartbeat(self, *args: Any, **kwargs: Any) -> None:
        if self._maintainer and not self.is_horse and not self._stop_requested:
            self._maintainer.revive()
        super().heartbeat(*args, **kwargs)

    def dequeue_job_and_maintain_ttl(self, timeout: int | None, max_idle_time: int | None = None) -> Any:
        """As RQ's, in rounds, between which it may have become quiet."""
        idle_since = time.monotonic()
        while True:
            self._wait_while_quiet(is_burst=timeout is None)
            if timeout is None:
                return None if self._is_quiet else super().dequeue_job_and_maintain_ttl(None, max_idle_time)
            left: float = LONGEST_BLOCK_SECONDS
            if max_idle_time is not None:
                left = min(left, max_idle_time - (time.monotonic() - idle_since))
            if left <= 0:
                return None
            if taken := super().dequeue_job_and_maintain_ttl(timeout, math.ceil(left)):
                return taken

    def _wait_while_quiet(self, *, is_burst: bool) -> None:
        if not self._is_quiet or is_burst:
            return
        logger.info("Worker %s is quiet: it takes nothing until it is told otherwise.", self.name)
        self._signs.worker.state = Worker.State.QUIET
        self.set_state(WorkerStatus.SUSPENDED)
        told_at = time.monotonic()
        while self._is_quiet:  # A signal to stop raises in it.
            time.sleep(LOOK_EVERY_SECONDS)
            if time.monotonic() - told_at > LONGEST_BLOCK_SECONDS:
                told_at = time.monotonic()
                self.heartbeat()
        self._signs.worker.state = Worker.State.IDLE
        logger.info("Worker %s takes jobs again.", self.name)

    def _heed(self, order: str) -> None:
        """Obey what somebody told this worker in its row; called in the thread of its life signs."""
        self._is_quiet = order == Worker.Order.QUIET
        if order == Worker.Order.STOP and not self._was_told_to_stop:
            self._was_told_to_stop = True
            logger.info("Worker %s was told to stop.", self.name)
            os.kill(os.getpid(), signal.SIGTERM)

    def execute_job(self, job: Any, queue: Any) -> None:
        if asked := parse_delivery_id(job.id):
            self._held = Held(job.id, asked[0], uuid4())
            # RQ's limits surround claim and report, which may have to wait; ours surrounds the function.
            job.timeout = -1
        self._ending = ""
        self._signs.worker.state = Worker.State.BUSY
        try:
            if self._held:
                self._wait_at_fence()
            super().execute_job(job, queue)
        finally:
            self._held = None
            self._signs.worker.state = Worker.State.IDLE
            if self._ending:
                self._end_orphans_now()

    def _wait_at_fence(self) -> None:
        """After a sleep or an outage, begin nothing before this worker counts as alive again."""
        self._signs.renew_now()
        while self._signs.fence.has_closed():
            time.sleep(LOOK_EVERY_SECONDS)

    def fork_work_horse(self, job: Any, queue: Any) -> None:
        with self._signs.lock:
            disconnect_databases()
            self._deadline.clear()
            self._signs.fence.forget_guarded()
            self._own_pid = os.getpid()
            super().fork_work_horse(job, queue)

    def main_work_horse(self, job: Any, queue: Any) -> None:
        die_with_parent(self._own_pid)
        if self._held:
            trampoline.claimant.set(
                trampoline.Claimant(
                    self._signs.worker, self._held.claim_id, self._signs.fence, self._deadline
                )
            )
        super().main_work_horse(job, queue)

    def handle_job_failure(self, job: Any, *args: Any, **kwargs: Any) -> None:
        if parse_delivery_id(job.id) and "exc_string" in kwargs:
            is_refused = trampoline.ForeignDelivery.__name__ in kwargs["exc_string"]
            # Redis carries ids alone.
            kwargs["exc_string"] = NOT_OURS if is_refused else TOLD_ELSEWHERE
        super().handle_job_failure(job, *args, **kwargs)

    def request_force_stop(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().request_force_stop(*args, **kwargs)
        except SystemExit:
            self._ending = "its process was ended with the worker, which was told twice to stop"
            raise

    def wait_for_horse(self) -> Any:
        ended = super().wait_for_horse()
        _, status, usage = ended
        if status:
            self._ending = self._ending or how_it_ended(status, usage.ru_maxrss if usage else 0)
        return ended

    def handle_payload(self, message: Any) -> None:
        # For our deliveries the database says what is to be stopped; Redis only says that it is time to look.
        try:
            asked = json.loads(message["data"])
            is_ours = asked["command"].startswith("stop-") and parse_delivery_id(asked["job_id"])
        except (ValueError, TypeError, KeyError):
            logger.warning("Worker %s: not a command: %r", self.name, message)
            return
        if is_ours:
            self._signs.renew_now()
        else:
            super().handle_payload(message)

    def _witness(self, worker_id: UUID) -> None:
        get_engine("rq").witness(self.queue_names()[0], worker_id)

    def _surely_holds(self) -> bool:
        held = self._held
        return held is None or executor.is_surely_held(held.job_id, held.claim_id)

    def _end_behind_fence(self) -> None:
        """Kill the child, which may be unable to see for itself that the fence has closed. One that has not
        begun, or reports already, does no harm."""
        if self._held and self._signs.fence.guards():
            self._ending = "it reached neither the database nor Redis, and its process was ended"
            self.kill_horse()

    def _look_after_child(self) -> None:
        overtime = self._deadline.seconds_over()
        if overtime > OVERTIME_SECONDS:
            self._ending = f"its function ran on {overtime:.0f} s after its time limit"
            self.kill_horse()
        self._end_what_is_void()
        reports.deliver_kept()  # First: whose report is there is no orphan.
        self._end_orphans()

    def _end_what_is_void(self) -> None:
        """End the child whose attempt was taken from it: ended from outside, or its row deleted."""
        held = self._held
        # Only while its function runs: a report that comes too late is told, and does no harm.
        if held and self._signs.fence.guards() and held.is_void() and held is self._held:
            self._stop(held, "was ended by others")

    def _stop_held_job(self, job_id: UUID) -> None:
        """End the child that runs this job. RQ notes it as stopped, `_end_orphans` as canceled."""
        held = self._held
        if held and held.job_id == job_id:
            self._stop(held, "was canceled")

    def _stop(self, held: Held, why: str) -> None:
        logger.info("Worker %s: stopping job %s, which %s.", self.name, held.job_id, why)
        self._stopped_job_id = held.delivery_id
        self._ending = "its process was ended on request"
        self.kill_horse()

    def _end_orphans(self) -> None:
        """End the attempts that are started in this worker's name and run in no child of it.

        Called with the lock held, so that no child can claim meanwhile.
        """
        orphans = Job.objects.started().filter(worker=self._signs.worker)
        if held := self._held:
            orphans = orphans.exclude(claim_id=held.claim_id)
        for job in orphans:
            if not job.observed_id:
                evidence = f"Worker {self.name}: {self._ending or 'its process ended without a report'}."
                lose_unless_locked(job, evidence)
            elif job.claim_id not in [UUID(execution_id) for execution_id in list(self.executions)]:
                # Its end was not recorded. RQ knows how it ended; the observer follows what nobody holds.
                Job.objects.started().filter(pk=job.pk, claim_id=job.claim_id).update(worker=None)

    def _end_orphans_now(self) -> None:
        if not self._signs.lock.acquire(timeout=LOCK_PATIENCE_SECONDS):
            logger.warning("Worker %s: its life sign hangs, so the reconciler ends what is left.", self.name)
            return
        try:
            with patience(router.db_for_write(Job), LOCK_PATIENCE_SECONDS):
                reports.deliver_kept()
                self._end_orphans()
        except Error as error:
            logger.warning("Worker %s: the next renewal ends what its child left: %s", self.name, error)
        finally:
            disconnect_databases()
            self._signs.lock.release()

    def _prepare_life_signs(self) -> None:
        self._signs = LifeSigns(
            self.name,
            engine="rq",
            queues=self.queue_names(),
            witness=self._witness,
            on_cancel=self._stop_held_job,
            on_order=self._heed,
            on_renewal=self._look_after_child,
            holds=self._surely_holds,
            on_fence=self._end_behind_fence,
        )
        self._is_quiet = self._was_told_to_stop = False
        self.worker_id, self.fork_lock = self._signs.worker.pk, self._signs.lock

    def _start_life_signs(self) -> None:
        while True:
            try:
                self._note_namespace()
                self._signs.start()
                return
            except Error as error:
                logger.warning("Worker %s waits for the database: %s", self.name, error)
                time.sleep(2)
            finally:
                disconnect_databases()

    def _note_namespace(self) -> None:
        """Record how this installation's keys begin; web and workers must agree on it."""
        installation = Installation.objects.get(pk=installation_id())
        if installation.namespace not in ("", RQ_KEY_PREFIX):
            logger.warning(
                'Keys in Redis began with "%s", now with "%s": is RQ_KEY_PREFIX the same for all processes?',
                installation.namespace,
                RQ_KEY_PREFIX,
            )
        Installation.objects.filter(pk=installation.pk).update(namespace=RQ_KEY_PREFIX)
