"""RQ's fork-per-job worker, with life signs, a maintainer beside it, and an end for every attempt whose
process died."""

import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from django.db import Error, connections
from django_rq.jobs import get_job_class
from django_rq.queues import get_queues
from django_rq.workers import get_exception_handlers
from redis import RedisError
from rq import Worker as RQWorker
from rq.defaults import RQ_KEY_PREFIX
from rq.serializers import JSONSerializer

from ...exceptions import UnknownQueue
from ...lifesigns import LifeSigns
from ...models import Installation, Job, Worker
from ...models.workers import installation_id
from ...outcomes import lose
from ...processes import die_with_parent
from ..base import parse_delivery_id
from . import trampoline
from .connections import impatient_client, masked_url
from .engine import RQEngine

LONGEST_BLOCK_SECONDS = 5
"""How long an idle worker blocks in Redis before it looks after its maintainer."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Held:
    """What the child that runs now claims."""

    job_id: UUID
    claim_id: UUID


class JobsWorker(RQWorker):
    """RQ's `Worker`. Plain jobs run as in RQ; deliveries of ours are claimed and reported by the child.

    `run_maintainer` is called in a child process with this process's pid; None for no maintainer.
    """

    run_maintainer: Callable[[int], None] | None = None
    log_result_lifespan = False  # The result is in the row; RQ's copy says nothing.

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._held: Held | None = None
        self._ending = ""
        self._own_pid = os.getpid()
        self._maintainer_pid = 0
        self._signs = LifeSigns(
            self.name,
            engine="rq",
            queues=self.queue_names(),
            on_cancel=self._stop_held_job,
            on_renewal=self._end_orphans,
        )

    def bootstrap(self, *args: Any, **kwargs: Any) -> None:
        self._start_maintainer()  # First: the process has one thread and no connection yet.
        self._start_life_signs()
        super().bootstrap(*args, **kwargs)

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self._stop_maintainer()
            self._signs.stop()
            connections.close_all()

    @property
    def dequeue_timeout(self) -> int:
        return min(super().dequeue_timeout, LONGEST_BLOCK_SECONDS)

    def heartbeat(self, *args: Any, **kwargs: Any) -> None:
        super().heartbeat(*args, **kwargs)
        if not self.is_horse:
            self._revive_maintainer()

    def execute_job(self, job: Any, queue: Any) -> None:
        asked = parse_delivery_id(job.id)
        self._held = Held(asked[0], uuid4()) if asked else None
        self._ending = ""
        self._signs.worker.state = Worker.State.BUSY
        try:
            super().execute_job(job, queue)
        finally:
            self._held = None
            self._signs.worker.state = Worker.State.IDLE
            if self._ending:
                self._end_orphans_now()

    def fork_work_horse(self, job: Any, queue: Any) -> None:
        with self._signs.lock:
            connections.close_all()
            super().fork_work_horse(job, queue)

    def main_work_horse(self, job: Any, queue: Any) -> None:
        die_with_parent(self._own_pid)
        if self._held:
            trampoline.claimant.set(trampoline.Claimant(self._signs.worker, self._held.claim_id))
        super().main_work_horse(job, queue)

    def wait_for_horse(self) -> Any:
        ended = super().wait_for_horse()
        _, status, usage = ended
        if status:
            self._ending = _how_it_ended(status, usage)
        return ended

    def _stop_held_job(self, job_id: UUID) -> None:
        """End the child that runs this job. RQ notes it as stopped, `_end_orphans` as canceled."""
        if self._held and self._held.job_id == job_id and self.horse_pid and self.execution:
            logger.info("Worker %s: stopping job %s, which was canceled.", self.name, job_id)
            self._stopped_job_id = self.execution.job_id
            self.kill_horse()

    def _end_orphans(self) -> None:
        """End the attempts that are started in this worker's name and run in no child of it.

        Called with the lock held, so that no child can claim meanwhile.
        """
        orphans = Job.objects.started().filter(worker=self._signs.worker)
        if self._held:
            orphans = orphans.exclude(claim_id=self._held.claim_id)
        for job in orphans:
            lose(job, f"Worker {self.name}: {self._ending or 'its process ended without a report'}.")

    def _end_orphans_now(self) -> None:
        with self._signs.lock:
            try:
                self._end_orphans()
            except Error as error:
                logger.warning("Worker %s: the next renewal ends what its child left: %s", self.name, error)
            finally:
                connections.close_all()

    def _start_life_signs(self) -> None:
        while True:
            try:
                self._signs.start()
                self._note_namespace()
                return
            except Error as error:
                logger.warning("Worker %s waits for the database: %s", self.name, error)
                time.sleep(2)
            finally:
                connections.close_all()

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

    def _start_maintainer(self) -> None:
        if self.run_maintainer is None:
            return
        with self._signs.lock:
            connections.close_all()
            pid = os.fork()
            if pid == 0:
                try:
                    self.run_maintainer(self._own_pid)
                finally:
                    os._exit(0)
        self._maintainer_pid = pid

    def _revive_maintainer(self) -> None:
        if not self._maintainer_pid or self._stop_requested:
            return
        if os.waitpid(self._maintainer_pid, os.WNOHANG) != (0, 0):
            logger.warning("Worker %s: its maintainer ended; starting another.", self.name)
            self._start_maintainer()

    def _stop_maintainer(self) -> None:
        if self._maintainer_pid:
            try:
                os.kill(self._maintainer_pid, signal.SIGTERM)
                os.waitpid(self._maintainer_pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass
            self._maintainer_pid = 0


class DeliveryMixin:
    """A job class of RQ that reads our deliveries as the JSON they are, whatever the worker's serializer."""

    def __init__(self, id: str | None = None, connection: Any = None, serializer: Any = None) -> None:  # noqa: A002
        if id is not None and parse_delivery_id(id):
            serializer = JSONSerializer
        super().__init__(id, connection, serializer)  # type: ignore[call-arg]


def make_worker(
    queue_names: Sequence[str], *, run_maintainer: Callable[[int], None] | None, **options: Any
) -> JobsWorker:
    """A worker for these queues, all declared ones if none is named.

    Takes the options of RQ's `Worker`, and classes as paths or None for the configured ones. Waits for
    the server of the queues; raises `UnknownQueue`, and `ValueError` for queues of several servers.
    """
    names = _on_one_server(queue_names)
    _wait_for_server(names[0])
    chosen = get_job_class(options.pop("job_class", None))
    job_class = type(chosen.__name__, (DeliveryMixin, chosen), {"__module__": __name__})
    queues = get_queues(*names, job_class=job_class, queue_class=options.pop("queue_class", None))
    worker = JobsWorker(
        queues,
        name=options.pop("name", None) or f"{socket.gethostname()}.{os.getpid()}.{uuid4().hex[:6]}",
        connection=queues[0].connection,
        exception_handlers=get_exception_handlers() or None,
        job_class=job_class,
        queue_class=type(queues[0]),
        **options,
    )
    worker.run_maintainer = run_maintainer
    return worker


def _on_one_server(queue_names: Sequence[str]) -> list[str]:
    engine = RQEngine()
    for name in queue_names:
        engine.check_queue(name)
    names = list(dict.fromkeys(queue_names)) or engine.queue_names()
    if not names:
        raise UnknownQueue("No queue is declared; add one to RQ_QUEUES.")
    servers = {server: queues for server, queues in engine.servers().items() if set(queues) & set(names)}
    if len(servers) > 1:
        told = "; ".join(f"{', '.join(queues)} on {server}" for server, queues in servers.items())
        raise ValueError(f"One worker works on queues of one server; start one for each: {told}.")
    return names


def _wait_for_server(queue: str) -> None:
    pause = 1.0
    while True:
        client = impatient_client(queue)
        try:
            client.ping()
            return
        except (RedisError, OSError) as error:
            logger.error(
                "Redis at %s is not reached (%s); trying again in %g s.", masked_url(client), error, pause
            )
            time.sleep(pause)
            pause = min(pause * 2, 30)


def _how_it_ended(status: int, usage: Any) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        memory = f", having used up to {usage.ru_maxrss // 1024} MB of memory" if usage else ""
        return f"its process was ended by signal {number} ({signal.strsignal(number)}){memory}"
    return f"its process ended with exit code {os.waitstatus_to_exitcode(status)}"
