"""The life of a job as segments of a timeline: what is known, what goes on, and what is planned."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from django.utils.translation import gettext

from ..models import Attempt, Job
from ..retries import interval_seconds
from ..states import SCHEDULED, STARTED
from .charts import Segment
from .scales import duration_text

MOST_GHOSTS = 5
"""Upcoming attempts that are drawn."""


def segments(job: Job, attempts: Sequence[Attempt], now: datetime) -> list[Segment]:
    """`attempts` are the newest ones, oldest first; what was before the first of them is left out."""
    drawn: list[Segment] = []
    at = job.created_at if not attempts or attempts[0].number == 1 else None
    for attempt in attempts:
        if at:
            drawn += _pause(at, attempt.started_at, attempt.number)
        label = gettext("attempt {number}").format(number=attempt.number)
        drawn.append(
            Segment("running", attempt.started_at, attempt.finished_at, label, outcome=attempt.outcome)
        )
        at = attempt.finished_at
    if not job.has_ended:
        return drawn + _present(job, at or job.created_at, now)
    if at and job.finished_at and (not attempts or attempts[-1].number < job.attempt):
        drawn += _unrecorded(job, at, job.finished_at)
    return drawn


def _unrecorded(job: Job, at: datetime, end: datetime) -> list[Segment]:
    """The end of a job whose last attempt has no row: it never began, or ran where it is only observed."""
    if job.started_at is None or job.started_at < at:
        return _pause(at, end, job.attempt)
    label = gettext("attempt {number}").format(number=job.attempt)
    running = Segment("running", job.started_at, end, label, outcome=job.status)
    return [*_pause(at, job.started_at, job.attempt), running]


def _present(job: Job, at: datetime, now: datetime) -> list[Segment]:
    """What goes on now, and what is planned after it."""
    label = gettext("attempt {number}").format(number=job.attempt)
    if job.status == STARTED and job.started_at:
        kind = "elsewhere" if job.elsewhere_until else ""
        running = Segment("running", max(at, job.started_at), None, label, outcome=kind)
        return [*_pause(at, job.started_at, job.attempt), running, *_ghosts(job, job.attempt, now)]
    if job.status == SCHEDULED and job.scheduled_for and job.scheduled_for > now:
        due = job.scheduled_for
        upcoming = Segment("upcoming", due, None, str(job.attempt))
        return [*_pause(at, due, job.attempt), upcoming, *_ghosts(job, job.attempt, due)]
    return [Segment("waiting", at, None, gettext("waiting")), *_ghosts(job, job.attempt, now)]


def _pause(start: datetime, end: datetime, number: int) -> list[Segment]:
    """Before the first attempt a job waits; before a later one it backs off."""
    if end <= start:
        return []
    label = duration_text((end - start).total_seconds())
    return [Segment("waiting" if number == 1 else "backing_off", start, end, label)]


def _ghosts(job: Job, number: int, at: datetime) -> list[Segment]:
    """The attempts after `number` if each that comes fails, as planned; how long they run is not known."""
    ghosts = []
    for each in range(number + 1, min(job.max_attempts, number + MOST_GHOSTS) + 1):
        at += timedelta(seconds=max(1.0, interval_seconds(job.retry_intervals, each - 1)))
        ghosts.append(Segment("upcoming", at, None, str(each)))
    return ghosts
