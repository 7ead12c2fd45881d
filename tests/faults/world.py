"""What the steps of the state machine are made of: both stores, and what belongs to processes and to time.

Jobs are enqueued, delivered, claimed, reported and healed by real code. A worker is its row, its witness and
what it holds; that it dies or is cut off and that hours pass is written into both stores, as nobody can wait.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from unittest.mock import patch
from uuid import uuid4

import redis
from django.db import connection, transaction
from django.db.models.functions import Now

from django_jobs import executor, relay
from django_jobs.engines import get_engine
from django_jobs.engines.base import Delivery, parse_delivery_id
from django_jobs.engines.rq.engine import EPOCH_KEY, RQEngine
from django_jobs.exceptions import EngineUnavailable
from django_jobs.models import (
    Attempt,
    ErrorCount,
    ErrorGroup,
    FigureDelta,
    Job,
    JobEvent,
    QueueEvent,
    Rollup,
    Tally,
    Worker,
)
from django_jobs.outcomes import Outcome, lose
from django_jobs.reconciler import Reconciler
from django_jobs.reports import report
from django_jobs.retries import Retry
from tests import tasks
from tests.conftest import make_worker
from tests.faults.promises import MOST_RETRIES_ASKED, Execution, Record, Wanted

QUEUE = "file_processing"
LIST = f"rq:queue:{QUEUE}"
WITNESSES = "rq:django_jobs:witness:"
LEASE = timedelta(hours=1)
"""Long, so that none ends by itself in a run; a delivery counts as settled after as long."""
LONG = 30 * LEASE
"""Much more than a lease, less than the day after which rows of workers are forgotten."""

OUTCOMES = {
    "finished": Outcome.finished(result=1),
    "failed": Outcome.failed("ValueError", "broken", ""),
    "retry": Outcome.retried(Retry(max=MOST_RETRIES_ASKED), "", "", ""),
}


@dataclass(eq=False)
class Process:
    """A worker's process, and which stores it reaches: while it is paused or without network, neither."""

    worker: Worker
    reaches_database: bool = True
    reaches_redis: bool = True

    def show_life(self) -> None:
        """As its life signs do, which also write a row anew that was deleted."""
        if self.reaches_database:
            lease = {"leased_until": Now() + LEASE}
            if not Worker.objects.filter(pk=self.worker.pk).update(**lease):
                self.worker.save(force_insert=True)
        if self.reaches_redis:
            get_engine("rq").witness(QUEUE, self.worker.pk)


class World:
    def __init__(self, valkey: redis.Redis) -> None:
        _empty_tables()
        valkey.flushall()
        self.valkey = valkey
        self.record = Record()
        self.healer = Reconciler()
        self.processes: list[Process] = []
        for name in ("w1", "w2", "w3"):
            self.start_process(name)
        self.known: list[str] = []  # Deliveries that were ever popped, and of jobs that were rolled back.

    # Delivering

    def enqueue(
        self, idempotent: bool, attempts: int, delay: int | None = None, *, rolls_back: bool = False
    ) -> None:
        task = tasks.add.using(idempotent=idempotent, retry=Retry(max=attempts - 1), delay=delay)
        with transaction.atomic():
            job = task.enqueue(1)
            if rolls_back:
                self.known.append(Delivery.of(job).id)
                transaction.set_rollback(True)
            else:
                self.record.wanted[job.pk] = Wanted()
                Job.objects.filter(pk=job.pk).scheduled().update(scheduled_for=Now() - LEASE)

    def deliver(self) -> None:
        """Passes of the relay that nothing disturbs; the first is for what was never delivered, if any."""
        relay.run_once()
        relay.run_once()
        for job in Job.objects.queued():
            if not self.valkey.exists(f"rq:job:{Delivery.of(job).id}"):
                self.record.fail(f"the relay left the server without the delivery of {job.pk}")

    @contextmanager
    def pushing(self, push: str) -> Iterator[None]:
        """Within this block, pushes to Redis go like this."""
        really_push = RQEngine.push

        def do(engine, deliveries):
            if push == "is lost":
                raise EngineUnavailable("Redis is away.")
            epoch = really_push(engine, deliveries)
            if push == "loses its reply":
                raise EngineUnavailable("Redis went away.")
            if push == "is outrun by a worker":
                self.work_off("failed")
            return epoch

        with patch.object(RQEngine, "push", do):
            yield
        relay._resting_until.clear()

    def pop(self) -> list[str]:
        """The next delivery of the queue, in a list; none if it is empty."""
        popped = [item.decode() for item in self.valkey.lpop(LIST, 1) or ()]
        self.known += popped
        return popped

    # Working

    def start_process(self, name: str) -> Process:
        process = Process(make_worker(name=name))
        process.show_life()
        self.processes.append(process)
        return process

    def idle(self) -> list[Process]:
        busy = [execution.worker for execution in self.record.running()]
        return [process for process in self.processes if process.worker not in busy]

    def busy(self) -> list[Process]:
        return [process for process in self.processes if self.held_by(process)]

    def held_by(self, process: Process) -> list[Execution]:
        return [execution for execution in self.record.running() if execution.worker == process.worker]

    def claim(self, delivery: str, process: Process, *, reply_lost: bool = False) -> Execution | None:
        """Claim what a delivery asks for; the execution, None if that is not to be had."""
        job_id, attempt = parse_delivery_id(delivery)
        claim_id = uuid4()
        job = executor.claim(job_id, attempt, worker=process.worker, claim_id=claim_id)
        if job is None:
            return None
        if reply_lost:
            job = executor.claim(job_id, attempt, worker=process.worker, claim_id=claim_id)
            if job is None:
                self.record.fail("a worker was refused what it holds")
        is_cut_off = not (process.reaches_database or process.reaches_redis)
        execution = Execution(job, process.worker, is_cut_off=is_cut_off)
        self.record.executions.append(execution)
        return execution

    def tell(self, execution: Execution, outcome: str) -> None:
        execution.is_running, execution.told = False, OUTCOMES[outcome]
        report(execution.job, execution.told, worker_name=execution.worker.name)

    def work_off(self, outcome: str) -> None:
        """Workers run what is in the queue, and report this; or they "run on"."""
        while deliveries := self.pop():
            idle = [process for process in self.idle() if process.reaches_database and process.reaches_redis]
            execution = self.claim(deliveries[0], idle[0] if idle else self.start_process("more"))
            if execution and outcome != "run on":
                self.tell(execution, outcome)

    def orphans_of(self, worker: Worker) -> list[Job]:
        """What is started in a worker's name and runs in no child of it."""
        held = [execution.job.claim_id for execution in self.record.running()]
        return list(Job.objects.started().filter(worker=worker).exclude(claim_id__in=held))

    def end_orphan(self, orphan: Job) -> None:
        lose(orphan, "Its process ended without a report.")

    # Being silent

    def kill(self, process: Process) -> None:
        for execution in self.held_by(process):
            execution.is_running = False
        self.processes.remove(process)
        self.start_process("anew")
        self.end_lease(process)
        self.end_witness(process)

    def cut_off(self, process: Process, *, database: bool, redis: bool) -> None:
        """For longer than its lease; what it holds runs on."""
        if database:
            process.reaches_database = False
            self.end_lease(process)
        if redis:
            process.reaches_redis = False
            self.end_witness(process)
        if not (process.reaches_database or process.reaches_redis):
            for execution in self.held_by(process):
                execution.is_cut_off = True

    def bring_back(self) -> None:
        """All workers reach both stores again; what was not taken from them meanwhile is still theirs."""
        for process in self.processes:
            process.reaches_database = process.reaches_redis = True
            process.show_life()
        for execution in self.record.running():
            held = Job.objects.started().filter(pk=execution.job.pk, claim_id=execution.job.claim_id)
            execution.is_cut_off = not held.exists()

    def end_lease(self, process: Process) -> None:
        Worker.objects.filter(pk=process.worker.pk).update(leased_until=Now() - LEASE / 2)

    def end_witness(self, process: Process) -> None:
        self.valkey.delete(f"{WITNESSES}{process.worker.pk.hex}")

    # Time and healing

    def let_hours_pass(self) -> None:
        """Nobody but the workers who reach a store does anything meanwhile."""
        Job.objects.queued().filter(delivered_at__isnull=False).update(delivered_at=Now() - LONG)
        Job.objects.started().update(started_at=Now() - LONG)
        Worker.objects.silent().update(leased_until=Now() - LONG)
        for key in self.valkey.keys(f"{WITNESSES}*"):
            self.valkey.delete(key)
        self._let_epoch_grow_old()
        for process in self.processes:
            process.show_life()

    def _let_epoch_grow_old(self) -> None:
        epoch = get_engine("rq").epoch(QUEUE)
        begun, _, seconds = epoch.rpartition(":")
        older = f"{begun}:{int(seconds) - int(LONG.total_seconds())}"
        self.valkey.set(EPOCH_KEY, older)
        Job.objects.filter(delivered_epoch=epoch).update(delivered_epoch=older)

    def heal(self, *, redis_answers: bool = True) -> None:
        """A pass of a reconciler that has been in contact with the database for long."""
        self.healer._contact_since = float("-inf")
        with ExitStack() as stack:
            for name in () if redis_answers else ("absent", "witnessed"):
                away = EngineUnavailable("Redis is away.")
                stack.enter_context(patch.object(RQEngine, name, side_effect=away))
            self.healer.run_once()

    def pump(self) -> None:
        """A round of all that goes on by itself: deliver, run, end what is orphaned, heal."""
        self.deliver()
        self.work_off("finished")
        for process in self.processes:
            for orphan in self.orphans_of(process.worker):
                self.end_orphan(orphan)
        self.let_hours_pass()
        self.heal()


_COUNTS = (Tally, FigureDelta, Rollup, ErrorCount, ErrorGroup)


def _empty_tables() -> None:
    with connection.cursor() as cursor:
        for model in (*_COUNTS, Attempt, JobEvent, QueueEvent, Worker, Job):
            cursor.execute(f"DELETE FROM {model._meta.db_table}")
