"""Reads what the database tells of all jobs, for the check. To be imported when Django is set up."""

import time
from collections import Counter
from uuid import UUID

from django_jobs import figures
from django_jobs.models import Attempt, FigureDelta, Job, Rollup, tallies

from .effects import now
from .evidence import Loss, Record


def records() -> dict[UUID, Record]:
    """The rows of all jobs with their attempts and events."""
    found = {}
    for job in Job.objects.order_by("id").prefetch_related("attempts", "events"):
        told = [
            f"    row: {job.status}, attempt {job.attempt} of {job.max_attempts}, "
            f"{'' if job.idempotent else 'not '}idempotent, losses {job.losses}, delivery {job.delivery}, "
            f"args {job.args}, scheduled for {_time(job.scheduled_for)}, queued {_time(job.queued_at)}, "
            f"delivered {_time(job.delivered_at)} ({job.delivered_epoch}), started {_time(job.started_at)}, "
            f"finished {_time(job.finished_at)}, worker {job.worker_id}, "
            f"{job.error_type}: {job.error_message}"
        ]
        told += [
            f"    attempt {each.number}: {each.outcome} by {each.worker_name}, {_time(each.started_at)} … "
            f"{_time(each.finished_at)}, {each.error_type}: {each.error_message}"
            for each in job.attempts.all()
        ]
        told += [
            f"    event: {each.kind} at {_time(each.at)}, attempt {each.attempt}: {each.message}"
            for each in job.events.all()
        ]
        found[job.pk] = Record(
            id=job.pk,
            status=job.status,
            attempt=job.attempt,
            max_attempts=job.max_attempts,
            idempotent=job.idempotent,
            losses=job.losses,
            error_type=job.error_type,
            error_message=job.error_message,
            end=job.args[1],
            attempts={each.number: each.outcome for each in job.attempts.all()},
            events=[(each.kind, each.attempt) for each in job.events.all()],
            told="\n".join(told),
        )
    return found


def told_by_tallies() -> dict[str, int]:
    """{terminal status: number of jobs} as the tallies have counted them."""
    return {status: total for (_, status), total in tallies.totals("file_processing").items()}


def told_by_figures() -> dict[str, int]:
    """{outcome: number of attempts} as the figures have counted them, once nothing is left to fold."""
    while FigureDelta.objects.exists():
        figures.fold()  # Maintainers still do so as well.
    found: Counter[str] = Counter()
    for day in Rollup.objects.filter(period="day", queue="", task=""):
        found.update(finished=day.finished, failed=day.failed - day.lost, lost=day.lost)
        found.update(retried=day.retried, canceled=day.canceled)
    return dict(found)


def losses() -> list[Loss]:
    ahead = time.time() - now()
    return [
        Loss(
            lost.job_id,
            lost.number,
            int(lost.worker_name.split(".")[1]) if lost.worker_name else 0,
            lost.started_at.timestamp() - ahead,
            lost.finished_at.timestamp() - ahead,
        )
        for lost in Attempt.objects.filter(outcome="lost")
    ]


def _time(moment: object) -> str:
    return f"{moment:%H:%M:%S.%f}"[:-4] if moment else "never"
