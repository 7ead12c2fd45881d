"""Claims an attempt, runs its function, has its outcome reported; the same on every engine.

A claim is one guarded UPDATE that only one worker can win: a repeated, stale or forged delivery claims
nothing.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from inspect import iscoroutine
from typing import Any
from uuid import UUID, uuid4

from django.db import (
    InterfaceError,
    OperationalError,
    connections,
    router,
    transaction,
)
from django.db.models import Q

from . import logs, loops, registry, rlimits, sql
from .current import running
from .elsewhere import Elsewhere
from .exceptions import JobCanceled
from .models import Attempt, Job, Queue, Worker
from .models.jobs import NEXT_DELIVERY
from .outcomes import Outcome, give_back
from .patience import patience
from .processes import SharedMoment
from .reporter import Reporter, Tell, write
from .reports import report
from .retries import Retry
from .signals import job_started
from .states import QUEUED, STARTED
from .values import error_fields, result_error

CLAIM_PATIENCE_SECONDS = 10

TimeLimit = Callable[[int | None], AbstractContextManager[loops.Interruption | None]]
"""Called with a job's limit in seconds, None for none; surrounds the function alone. What it gives can
interrupt a coroutine where no signal can."""

logger = logging.getLogger(__name__)


def execute(
    job_id: UUID,
    attempt: int,
    *,
    worker: Worker,
    claim_id: UUID,
    time_limit: TimeLimit,
    may_begin: Callable[[], bool] = lambda: True,
) -> None:
    """Claim this attempt, run it, report it; then raise what its function raised.

    Does nothing when the attempt is not to be had: run already, canceled, superseded. Gives it back when the
    worker may not begin: others may take it for lost.
    """
    job = claim(job_id, attempt, worker=worker, claim_id=claim_id)
    if job is None:
        return
    if not may_begin():
        give_back(job)
        return
    with logs.telling(job):  # Also what is logged of its start and its end.
        job_started.send_robust(Job, job=job)
        outcome, raised = run(job, time_limit)
        report(job, outcome, worker_name=worker.name)
    if raised is not None:
        raise raised


def run_here(job: Job) -> BaseException | None:
    """Run the attempt that this job awaits in this process, and return what its function raised.

    For tests and for the setting IMMEDIATE: no time limit, no worker's row, progress written at the end. Does
    nothing when the attempt is not to be had. Afterwards `job` is as its row is then.
    """
    worker = Worker(name="this process", engine=job.engine)
    started = claim(job.pk, job.attempt, worker=worker, claim_id=uuid4())
    raised = None
    if started:
        job_started.send_robust(Job, job=started)
        with _sparing_transactions():
            outcome, raised = run(started, lambda _: nullcontext(), here=True)
        report(started, outcome, worker_name=worker.name)
    with suppress(Job.DoesNotExist):  # Deleted, or rolled back with a savepoint.
        job.refresh_from_db()
    if raised is not None and not isinstance(raised, Exception | SystemExit):
        raise raised  # Ctrl-C, and what test runners interrupt a test with.
    return raised


def claim(job_id: UUID, attempt: int, *, worker: Worker, claim_id: UUID) -> Job | None:
    """The job, started for this worker, or None when this attempt is not to be had.

    Raises the database's error when that is away for longer than `CLAIM_PATIENCE_SECONDS`.
    """
    alias, deadline = router.db_for_write(Job), time.monotonic() + CLAIM_PATIENCE_SECONDS
    while True:
        try:
            with patience(alias, CLAIM_PATIENCE_SECONDS):
                claimed, is_settled = _try_to_claim(job_id, attempt, worker, claim_id)
            if is_settled:
                return claimed
            if time.monotonic() > deadline:
                # Locked by somebody all the time; the reconciler has it delivered again.
                return None
            time.sleep(0.05)
        except (OperationalError, InterfaceError) as error:
            if time.monotonic() > deadline:
                raise
            logger.warning("Job %s could not be claimed; trying again: %s", job_id, error)
            connections.close_all()
            time.sleep(0.2)


def _try_to_claim(job_id: UUID, attempt: int, worker: Worker, claim_id: UUID) -> tuple[Job | None, bool]:
    """The job if it is claimed, and whether there is nothing more to try."""
    if claimed := sql.claim([(job_id, attempt)], worker.pk, claim_id):
        return claimed[0], True
    job = Job.objects.filter(pk=job_id, attempt=attempt).first()
    if job and job.status == STARTED and job.claim_id == claim_id:
        return job, True  # Our own claim, whose reply was lost.
    if not job or job.status != QUEUED:
        logger.info("Attempt %s of job %s is not awaited; its delivery is dropped.", attempt, job_id)
        return None, True
    if Queue.objects.filter(name=job.queue, paused=True).exists():
        # The relay delivers it when the queue is resumed.
        return None, bool(Job.objects.same_delivery(job).queued().update_unless_locked(**NEXT_DELIVERY))
    return None, False


def was_taken(job_id: UUID, claim_id: UUID) -> bool:
    """True if others have ended what was claimed under this id, or the job is deleted."""
    # What was ended from outside is stored without a worker's name.
    taken = Q(worker_name="") | Q(outcome=Attempt.Outcome.LOST)
    ended = Attempt.objects.filter(taken, job=job_id, claim_id=claim_id)
    return ended.exists() or not Job.objects.filter(pk=job_id).exists()


def is_surely_held(job_id: UUID, claim_id: UUID) -> bool:
    """True if what was, or will be, claimed under this id is taken by nobody, nor about to be."""
    try:
        with transaction.atomic(using=router.db_for_write(Job)):
            list(Job.objects.select_for_update(nowait=True).filter(pk=job_id))
            return not was_taken(job_id, claim_id)
    except OperationalError:
        return False


def run(
    job: Job,
    time_limit: TimeLimit,
    *,
    here: bool = False,
    tell: Tell = write,
    cpu_deadline: SharedMoment | None = None,
) -> tuple[Outcome, BaseException | None]:
    """Call the job's function; its outcome, and the exception if it raised one.

    `here`: in a process that is no worker, whose connections and memory are in use by others than the job.
    `tell` brings its progress to the row while it runs. `cpu_deadline` tells other processes when the
    function is over its limit of CPU time, see `rlimits`.
    """
    reporter = Reporter(job, live=not here, tell=tell)
    in_transaction = _aliases_in_transaction()
    raised: BaseException | None = None
    result: Any = None
    began = time.monotonic()
    with logs.telling(job), reporter.recording(), running(job):
        try:
            function = registry.load(job.task)
            limits = rlimits.Limits()
            if not here:
                limits = rlimits.limits_of(job.task, function, job.queue, cpu_deadline)
            # A time limit that strikes while they end does not keep them.
            with closing(limits), time_limit(job.timeout_seconds) as interruption, limits:
                result = function(*job.args, **job.kwargs)
                if iscoroutine(result):  # Not asked of the function, whose decorators may hide it.
                    result = loops.run(result, interruption=interruption)
        except BaseException as error:  # noqa: BLE001 - Even SystemExit ends the attempt, not the worker.
            raised = error
        finally:
            for connection in connections.all(initialized_only=True):
                if connection.in_atomic_block and connection.alias not in in_transaction:
                    # The report would become part of it and be lost with it.
                    alias = connection.alias
                    logger.warning("%s left a transaction on %s open; it is rolled back.", job.task, alias)
                    connection.close()
                    del connections[alias]
                elif not here:
                    connection.close_if_unusable_or_obsolete()
    told: dict[str, Any] = {
        "log": reporter.log_text(),
        "progress": reporter.fields(),
        "ran_seconds": time.monotonic() - began,
    }
    if isinstance(raised, JobCanceled):
        return replace(Outcome.canceled(), **told), raised
    if isinstance(raised, Retry):
        return Outcome.retried(raised, **error_fields(_reason(raised)), **told), None
    if raised is not None:
        return Outcome.failed(**error_fields(raised), **told), raised
    if isinstance(result, Retry):
        return Outcome.retried(result, **error_fields(result), **told), None
    if isinstance(result, Elsewhere):
        return Outcome.elsewhere(result.seconds, **told), None
    told["progress"]["progress"] = 100
    if problem := result_error(result):
        return Outcome.finished(result_error=problem, **told), None
    return Outcome.finished(result=result, **told), None


@contextmanager
def _sparing_transactions() -> Iterator[None]:
    """Keep the transactions that are open around a job usable, as those of tests are.

    A failed statement would break them for the report as well. What the job has done is then rolled back;
    without a transaction around it, each statement would have stood for itself.
    """
    around = [connections[alias] for alias in _aliases_in_transaction()]
    savepoints = [(connection, point) for connection in around if (point := connection.savepoint())]
    yield
    for connection, savepoint in savepoints:
        if connection.needs_rollback or not connection.is_usable():
            connection.set_rollback(False)
            connection.savepoint_rollback(savepoint)
        connection.savepoint_commit(savepoint)


def _aliases_in_transaction() -> set[str]:
    return {each.alias for each in connections.all(initialized_only=True) if each.in_atomic_block}


def _reason(retry: Retry) -> BaseException:
    """The error because of which a task asks for another attempt."""
    return retry.__cause__ or (None if retry.__suppress_context__ else retry.__context__) or retry
