"""How attempts end, in the database: reported by the worker that ran them, from outside, or lost.

Every write is guarded by the claim, so the first end of an attempt wins. Only here does a started job's
status change.
"""

import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Self

from django.db import router, transaction
from django.db.models import F
from django.db.models.functions import Now

from .fingerprints import fingerprint
from .models import Attempt, Job, JobEvent, JobQuerySet, Worker
from .models.figures import add_attempt, seconds_waited
from .models.jobs import BACK, WORKER_LOST
from .models.tallies import tally
from .retries import Retry, interval_seconds
from .states import CANCELED, FAILED, FINISHED, QUEUED, SCHEDULED, STARTED, Status
from .values import error_message, short

MOST_LOSSES = 3
"""How often an idempotent job without attempts left is run again after it lost its worker."""

WENT_WELL = frozenset({Attempt.Outcome.FINISHED, Attempt.Outcome.RETRIED, Attempt.Outcome.ELSEWHERE})
"""The outcomes of attempts that a worker counts as finished."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended. Texts and values are such that every database takes them."""

    kind: Attempt.Outcome
    error: dict[str, str]  # error_type, error_message, traceback
    log: str = ""
    progress: dict[str, Any] | None = None  # the fields that Reporter.fields() tells
    result: Any = None
    result_error: str = ""
    retry: Retry | None = None
    elsewhere_seconds: float = 0
    ran_seconds: float = 0

    @property
    def told(self) -> dict[str, Any]:
        """What the attempt told, as fields of the row."""
        return {**self.error, "fingerprint": self.fingerprint, **(self.progress or {})}

    @property
    def fingerprint(self) -> str:
        """Of its error, empty if there is none."""
        return fingerprint(**self.error) if self.error["error_type"] else ""

    @classmethod
    def finished(cls, **told: Any) -> Self:
        return cls(Attempt.Outcome.FINISHED, _error(), **told)

    @classmethod
    def failed(cls, error_type: str, error_message: str, traceback: str, **told: Any) -> Self:
        return cls(Attempt.Outcome.FAILED, _error(error_type, error_message, traceback), **told)

    @classmethod
    def retried(cls, retry: Retry, error_type: str, error_message: str, traceback: str, **told: Any) -> Self:
        """The task itself asked for another attempt."""
        error = _error(error_type, error_message, traceback)
        return cls(Attempt.Outcome.RETRIED, error, retry=retry, **told)

    @classmethod
    def canceled(cls) -> Self:
        return cls(Attempt.Outcome.CANCELED, _error())

    @classmethod
    def elsewhere(cls, seconds: float, **told: Any) -> Self:
        """The task handed its work over; its end is to be reported within so many seconds."""
        return cls(Attempt.Outcome.ELSEWHERE, _error(), elsewhere_seconds=seconds, **told)


def record(job: Job, outcome: Outcome, worker_name: str) -> Outcome:
    """Write how a claimed attempt ended, and what comes next for its job, in one transaction.

    Returns as what it counts. Changes no state when the attempt was superseded meanwhile.
    See `reports.report`, which waits for a database that is away.
    """
    outcome = as_counted(job, outcome)
    with transaction.atomic(using=router.db_for_write(Job)):
        update = _next_state(job, outcome) | outcome.told
        if status := _end_attempt(job, update, if_canceled=outcome.told):
            if status == CANCELED and outcome.kind == Attempt.Outcome.ELSEWHERE:
                outcome = replace(outcome, kind=Attempt.Outcome.CANCELED)  # Nobody will report its end.
            _store_attempt(job, outcome, worker_name)
            _count_for_worker(job, outcome)
        elif not (_is_recorded(job) or _replace_interrupted(job, outcome, update, worker_name)):
            _note_late_report(job, outcome, worker_name)
    return outcome


def as_counted(job: Job, outcome: Outcome) -> Outcome:
    """As what it counts: a task that asks for one attempt more than it may has failed."""
    if outcome.retry and job.attempt > outcome.retry.max:
        return replace(outcome, kind=Attempt.Outcome.FAILED)
    return outcome


def after_failure(job: Job, outcome: Outcome) -> tuple[Status, float]:
    """What comes after a failed attempt, or one whose task asked for another: the status, and if that awaits
    an attempt, in how many seconds."""
    if outcome.retry and job.attempt <= outcome.retry.max:
        seconds = outcome.retry.seconds_after(job.attempt)
    elif job.attempt < job.max_attempts and not outcome.retry:
        seconds = interval_seconds(job.retry_intervals, job.attempt, job.retry_jitter)
    else:
        return FAILED, 0
    return (SCHEDULED if seconds > 0 else QUEUED), seconds


def end_from_outside(job: Job, outcome: Outcome, *, final: bool) -> Status | None:
    """End a job that has not ended, as somebody outside tells; the status that it has then, None if it had
    ended. `final`: no attempt follows a failed one.

    A job that is started is taken from its worker, which notices that at its next sign of life.
    """
    with transaction.atomic(using=router.db_for_write(Job)):
        # Locked, so that it neither starts nor ends meanwhile. SQLite locks the whole database at the write.
        for current in Job.objects.unfinished().select_for_update().filter(pk=job.pk):
            if current.status == STARTED:
                update = _next_state(current, outcome, final=final) | outcome.told
                if status := _end_attempt(current, update, if_canceled=outcome.told):
                    _store_attempt(current, replace(outcome, log=current.live_log), "")
                    return status
            else:
                update = _next_state(current, outcome, final=True) | outcome.told
                if Job.objects.filter(pk=current.pk, status=current.status).update(**update):
                    tally({(current.queue, update["status"]): 1})
                    return Status(update["status"])
    return None


def fail_untold(job: Job, why: str, worker_name: str) -> bool:
    """End a held attempt as failed of which nothing else can be recorded; False if it is not held."""
    outcome = Outcome.failed("NotRecorded", error_message(why), "")
    failed = {"status": FAILED, "finished_at": Now(), **outcome.told}
    with transaction.atomic(using=router.db_for_write(Job)):
        log = _log_so_far(job)
        if _end_attempt(job, failed, if_canceled={}) is None:
            return False
        _store_attempt(job, replace(outcome, log=log), worker_name)
    return True


def lose(job: Job, evidence: str) -> bool:
    """End the attempt of a started job that nobody runs any more; False if it ended otherwise meanwhile.

    Asked to cancel: canceled. Attempts left: retried. Else idempotent: run again, up to `MOST_LOSSES`
    times. Else failed as interrupted, for a person to decide.
    """
    if job.attempt < job.max_attempts:
        pause = interval_seconds(job.retry_intervals, job.attempt, job.retry_jitter)
        update, verdict = _next_attempt(job, pause), "it will be retried"
    elif job.idempotent and job.losses < MOST_LOSSES:
        update, verdict = _next_attempt(job, 0), "it is idempotent and will run again"
    else:
        update, verdict = {"status": FAILED, "finished_at": Now()}, "nobody knows how far it got"
    error = _error(WORKER_LOST, short(evidence, 2000))
    with transaction.atomic(using=router.db_for_write(Job)):
        log = _log_so_far(job)
        lost = {**update, **error, "fingerprint": fingerprint(**error), "losses": F("losses") + 1}
        status = _end_attempt(job, lost, if_canceled={})
        if status is None:
            return False
        if status == CANCELED:
            kind, event, verdict = Attempt.Outcome.CANCELED, JobEvent.Kind.CANCELED, "it was to be canceled"
            error = _error(error_message=error["error_message"])
        else:
            kind, event = Attempt.Outcome.LOST, JobEvent.Kind.WORKER_LOST
        worker = Worker.objects.filter(pk=job.worker_id).first() if job.worker_id else None
        _store_attempt(job, Outcome(kind, error, log), worker.name if worker else "")
        message = f"{error['error_message']} Attempt {job.attempt} was cut; {verdict}."
        JobEvent.objects.create(job=job, kind=event, attempt=job.attempt, message=message)
    logger.warning("Job %s: %s", job.pk, message)
    return True


def lose_unless_locked(job: Job, evidence: str, *, still: JobQuerySet | None = None) -> bool:
    """`lose`, but without waiting for a transaction that holds the row, and only if the job is `still` among
    these. A later pass sees to it."""
    jobs = Job.objects.all() if still is None else still
    with transaction.atomic(using=router.db_for_write(Job)):
        free = jobs.filter(pk=job.pk).select_for_update(skip_locked=True, of=("self",))
        return free.first() is not None and lose(job, evidence)


def give_back(job: Job) -> None:
    """Have an attempt of which nothing has run delivered anew, as the same attempt."""
    if _claimed(job).started().update(**BACK):
        logger.info("Attempt %s of job %s is given back before it began.", job.attempt, job.pk)


def _error(error_type: str = "", error_message: str = "", traceback: str = "") -> dict[str, str]:
    return {"error_type": error_type, "error_message": error_message, "traceback": traceback}


def _next_state(job: Job, outcome: Outcome, *, final: bool = False) -> dict[str, Any]:
    """What comes after this outcome of the awaited attempt."""
    if outcome.kind == Attempt.Outcome.FINISHED:
        return {"status": FINISHED, "finished_at": Now(), **_result(job, outcome)}
    if outcome.kind == Attempt.Outcome.ELSEWHERE:
        until = Now() + timedelta(seconds=outcome.elsewhere_seconds)
        return {"status": STARTED, "elsewhere_until": until, "worker": None}
    if outcome.kind == Attempt.Outcome.CANCELED:
        return {"status": CANCELED, "finished_at": Now()}
    status, seconds = (FAILED, 0) if final else after_failure(job, outcome)
    return {"status": FAILED, "finished_at": Now()} if status == FAILED else _next_attempt(job, seconds)


def _result(job: Job, outcome: Outcome) -> dict[str, Any]:
    kept = {"result": outcome.result, "result_error": outcome.result_error}
    if job.keep_result_seconds is None:
        return kept
    return {**kept, "result_expires_at": Now() + timedelta(seconds=job.keep_result_seconds)}


def _end_attempt(job: Job, update: dict[str, Any], *, if_canceled: dict[str, Any]) -> Status | None:
    """Write the end of a held attempt and return the status written, None if it is not held any more.

    A job that was asked to cancel gets no further attempt, but what finished stays finished.
    """
    # Once its work is handed over, its worker has nothing more to say.
    held = _claimed(job).started().filter(elsewhere_until__isnull=job.elsewhere_until is None)
    update = {"elsewhere_until": None, "live_log": "", **update}
    going_on = held if update["status"] == FINISHED else held.filter(cancel_requested_at__isnull=True)
    if going_on.update(**update):
        written = Status(update["status"])
    elif held.update(**if_canceled, status=CANCELED, finished_at=Now(), elsewhere_until=None, live_log=""):
        written = CANCELED
    else:
        return None
    tally({(job.queue, written): 1})
    return written


def _is_recorded(job: Job) -> bool:
    """True if this attempt's report is stored: our own, repeated because its reply was lost.

    What was told from outside is stored without a worker's name.
    """
    stored = job.attempts.filter(number=job.attempt, claim_id=job.claim_id)  # type: ignore[misc]
    stored = stored.exclude(worker_name="")
    return stored.exclude(outcome__in=[Attempt.Outcome.LOST, Attempt.Outcome.CANCELED]).exists()


def _replace_interrupted(job: Job, outcome: Outcome, update: dict[str, Any], worker_name: str) -> bool:
    """Work that was done is not left failed because its worker was taken for lost."""
    interrupted = _claimed(job).failed().filter(error_type=WORKER_LOST)
    if outcome.kind != Attempt.Outcome.FINISHED or not interrupted.update(**update):
        return False
    tally({(job.queue, FAILED): -1, (job.queue, FINISHED): 1})
    stored = job.attempts.filter(number=job.attempt)
    for lost in stored:
        told = fingerprint(lost.error_type, lost.error_message, lost.traceback)
        add_attempt(
            job,
            lost.outcome,
            at=lost.finished_at,
            worker_name=lost.worker_name,
            fingerprint=told,
            waited_seconds=seconds_waited(job),
            amount=-1,
        )
    stored.update(
        worker_name=worker_name, outcome=outcome.kind, log=outcome.log, finished_at=Now(), **outcome.error
    )
    _count(job, outcome, worker_name)
    return True


def _note_late_report(job: Job, outcome: Outcome, worker_name: str) -> None:
    ended = job.attempts.filter(number=job.attempt).first()
    was = "taken for lost" if ended is None or ended.outcome == Attempt.Outcome.LOST else "ended otherwise"
    message = f"{worker_name} reported attempt {job.attempt} as {outcome.kind} after it was {was}."
    logger.warning("Job %s: %s", job.pk, message)
    if Job.objects.select_for_update().filter(pk=job.pk).first():  # Locked: it stays until the commit.
        kind = JobEvent.Kind.LATE_REPORT
        JobEvent.objects.create(job=job, kind=kind, attempt=job.attempt, message=message)


def _log_so_far(job: Job) -> str:
    """What a held attempt has logged, for one whose process cannot tell any more."""
    return _claimed(job).values_list("live_log", flat=True).first() or ""


def _claimed(job: Job) -> JobQuerySet:
    return Job.objects.filter(pk=job.pk, attempt=job.attempt, claim_id=job.claim_id)


def _store_attempt(job: Job, outcome: Outcome, worker_name: str) -> None:
    if job.elsewhere_until:  # Stored when its work was handed over, with its log.
        handed_over = job.attempts.filter(number=job.attempt)
        if handed_over.update(outcome=outcome.kind, finished_at=Now(), **outcome.error):
            _count(job, outcome, worker_name)
            return
    stored = job.attempts.create(
        number=job.attempt,
        claim_id=job.claim_id,  # type: ignore[misc] # A claimed job has one.
        worker_name=worker_name,
        started_at=job.started_at,
        outcome=outcome.kind,
        log=outcome.log,
        **outcome.error,
    )
    _count(job, outcome, worker_name, at=stored.finished_at)


def _count(job: Job, outcome: Outcome, worker_name: str, at: datetime | None = None) -> None:
    if outcome.kind != Attempt.Outcome.ELSEWHERE:  # That is counted when it ends.
        add_attempt(
            job,
            outcome.kind,
            at=at,
            worker_name=worker_name,
            fingerprint=outcome.fingerprint,
            waited_seconds=seconds_waited(job),
            ran_seconds=outcome.ran_seconds or None,
        )


def _count_for_worker(job: Job, outcome: Outcome) -> None:
    ended = "finished_count" if outcome.kind in WENT_WELL else "failed_count"
    counts = {ended: F(ended) + 1, "busy_seconds": F("busy_seconds") + outcome.ran_seconds}
    Worker.objects.filter(pk=job.worker_id).update(**counts)


def _next_attempt(job: Job, seconds: float) -> dict[str, Any]:
    if seconds > 0:
        waits = {"status": SCHEDULED, "scheduled_for": Now() + timedelta(seconds=seconds)}
    else:
        waits = {"status": QUEUED, "scheduled_for": None, "queued_at": Now()}
    return {
        **waits,
        "attempt": job.attempt + 1,
        "delivery": 0,
        "delivered_at": None,
        "delivered_epoch": "",
        "worker": None,
        "claim_id": None,
        "started_at": None,
    }
