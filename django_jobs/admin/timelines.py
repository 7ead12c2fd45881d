"""The life of a job as segments of a timeline: what is known, what goes on, and what is planned."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from django.utils.translation import gettext

from ..models import Attempt, Job
from ..retries import interval_seconds
from ..states import SCHEDULED, STARTED
from .scales import duration_text
from .timeline_chart import Kind, Segment

MOST_GHOSTS = 5
"""Upcoming attempts that are drawn."""


def segments(job: Job, attempts: Sequence[Attempt], now: datetime) -> list[Segment]:
    """`attempts` are the newest ones, oldest first; what was before the first of them is left out."""
    drawn: list[Segment] = []
    at = job.created_at if not attempts or attempts[0].number == 1 else None
    last: Attempt | None = None
    for attempt in attempts:
        if at:
            before = _before_awaited if attempt.number == job.attempt else _between
            drawn += before(job, last, at, attempt.started_at)
        label = gettext("attempt {number}").format(number=attempt.number)
        drawn.append(
            Segment("running", attempt.started_at, attempt.finished_at, label, outcome=attempt.outcome)
        )
        at, last = attempt.finished_at, attempt
    if not job.has_ended:
        return drawn + _present(job, last, at or job.created_at, now)
    if at and job.finished_at and (last is None or last.number < job.attempt):
        drawn += _unrecorded(job, last, at, job.finished_at)
    return drawn


def _unrecorded(job: Job, last: Attempt | None, at: datetime, end: datetime) -> list[Segment]:
    """The end of a job whose last attempt has no row: it never began, or ran where it is only observed."""
    if job.started_at is None or job.started_at < at:
        return _before_awaited(job, last, at, end)
    label = gettext("attempt {number}").format(number=job.attempt)
    running = Segment("running", job.started_at, end, label, outcome=job.status)
    return [*_before_awaited(job, last, at, job.started_at), running]


def _present(job: Job, last: Attempt | None, at: datetime, now: datetime) -> list[Segment]:
    """What goes on now, and what is planned after it."""
    label = gettext("attempt {number}").format(number=job.attempt)
    if job.status == STARTED and job.started_at:
        kind = "elsewhere" if job.elsewhere_until else ""
        running = Segment("running", max(at, job.started_at), None, label, outcome=kind)
        return [*_before_awaited(job, last, at, job.started_at), running, *_ghosts(job, job.attempt, now)]
    if job.status == SCHEDULED and job.scheduled_for and job.scheduled_for > now:
        due = job.scheduled_for
        upcoming = Segment("upcoming", due, None, str(job.attempt))
        return [*_before_awaited(job, last, at, due), upcoming, *_ghosts(job, job.attempt, due)]
    return [*_before_awaited(job, last, at, None), *_ghosts(job, job.attempt, now)]


def _before_awaited(job: Job, last: Attempt | None, start: datetime, end: datetime | None) -> list[Segment]:
    """Before the job's newest attempt, of which it is known when it was queued."""
    if job.attempt == 1:
        return _stretch("waiting", start, end)
    # What is older than its due time is when an attempt before it was queued.
    queued = max((at for at in (job.scheduled_for, job.queued_at) if at), default=start)
    waiting = _stretch("waiting", max(start, queued), end)
    if last and _backs_off_after(job, last):
        return [*_stretch("backing_off", start, min(queued, end or queued)), *waiting]
    return waiting


def _between(job: Job, last: Attempt | None, start: datetime, end: datetime) -> list[Segment]:
    """Before an older attempt. While the job had ended, until somebody requeued it, nothing is drawn."""
    if last is None:
        return _stretch("waiting", start, end)
    if _backs_off_after(job, last):
        return _stretch("backing_off", start, end)
    is_run_again = last.outcome == Attempt.Outcome.LOST and job.idempotent
    return _stretch("waiting", start, end) if is_run_again or _is_retried(job, last) else []


def _backs_off_after(job: Job, last: Attempt) -> bool:
    if last.outcome == Attempt.Outcome.RETRIED:  # By its task, which told how long.
        return True
    return _is_retried(job, last) and interval_seconds(job.retry_intervals, last.number) > 0


def _is_retried(job: Job, last: Attempt) -> bool:
    is_failure = last.outcome in (Attempt.Outcome.FAILED, Attempt.Outcome.LOST)
    return is_failure and last.number < job.max_attempts


def _stretch(kind: Kind, start: datetime, end: datetime | None) -> list[Segment]:
    """Without an end it goes on."""
    if end is None:
        return [Segment(kind, start, None, gettext("waiting"))]
    return [Segment(kind, start, end, duration_text((end - start).total_seconds()))] if start < end else []


def _ghosts(job: Job, number: int, at: datetime) -> list[Segment]:
    """The attempts after `number` if each that comes fails, as planned; how long they run is not known."""
    ghosts = []
    for each in range(number + 1, min(job.max_attempts, number + MOST_GHOSTS) + 1):
        at += timedelta(seconds=max(1.0, interval_seconds(job.retry_intervals, each - 1)))
        ghosts.append(Segment("upcoming", at, None, str(each)))
    return ghosts
