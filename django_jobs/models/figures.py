"""How many attempts ended how, and how long they waited and ran: for each minute, hour and day.

Whoever ends attempts adds to the figures in the same transaction; the maintainer folds the additions. What
cannot be added up, as how many jobs wait, it counts once a minute. See `django_jobs.figures`.
"""

from bisect import bisect_right
from datetime import UTC, datetime
from typing import Any

from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from .history import Attempt
from .jobs import Job
from .primary import PrimaryManager

BOUNDS = (0.005, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 180, 600, 1800, 3600, 10_800, 43_200, 86_400)
"""Where the buckets of all histograms end, in seconds. The last bucket has no end."""


class FigureDelta(models.Model):
    """An addition: so many attempts of this task on this queue, by this worker, ended so.

    One whose work went on elsewhere is added when that has ended.
    """

    at = models.DateTimeField(db_default=Now())
    queue = models.CharField(max_length=100)
    task = models.CharField(max_length=255)
    worker_name = models.CharField(max_length=255, default="", blank=True)
    outcome = models.CharField(max_length=10, choices=Attempt.Outcome.choices)
    fingerprint = models.CharField(max_length=32, default="", blank=True)
    sample = models.UUIDField(null=True, help_text=_("One of the jobs, where the attempts failed."))
    wait_bucket = models.PositiveSmallIntegerField(null=True)
    run_bucket = models.PositiveSmallIntegerField(null=True)
    amount = models.IntegerField()
    wait_seconds = models.FloatField(default=0, help_text=_("Of all of them together."))
    run_seconds = models.FloatField(default=0, help_text=_("Of all of them together."))

    objects = PrimaryManager()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.queue} {self.task} {self.outcome} {self.amount:+}"


class Rollup(models.Model):
    """All attempts of a period that ended on this queue, or of this task, or, with neither, at all.

    `waits` and `runs` are histograms: how many fell into each bucket of `BOUNDS`.
    """

    class Period(models.TextChoices):
        MINUTE = "minute"
        HOUR = "hour"
        DAY = "day"  # in UTC

    period = models.CharField(max_length=6, choices=Period.choices)
    start = models.DateTimeField()
    queue = models.CharField(max_length=100, default="", blank=True)
    task = models.CharField(max_length=255, default="", blank=True)
    finished = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0, help_text=_("With those whose worker was lost."))
    lost = models.PositiveIntegerField(default=0)
    retried = models.PositiveIntegerField(default=0, help_text=_("Asked for another attempt themselves."))
    canceled = models.PositiveIntegerField(default=0)
    wait_seconds = models.FloatField(default=0)
    run_seconds = models.FloatField(default=0)
    waits = models.JSONField(default=list)
    runs = models.JSONField(default=list)

    objects = PrimaryManager()

    class Meta:
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(
                fields=["period", "queue", "task", "start"], name="django_jobs_one_rollup"
            )
        ]
        indexes = [models.Index(fields=["period", "start"], name="django_jobs_rollup_start")]

    def __str__(self) -> str:
        return f"{self.period} {self.start:%Y-%m-%d %H:%M} {self.queue or self.task}".rstrip()


class Census(models.Model):
    """How many jobs ran and waited, and how many workers lived, at one moment of a minute.

    Jobs are counted up to `MOST_COUNTED`, workers up to `MOST_WORKERS`. Where nobody counted there is no row.
    """

    start = models.DateTimeField(primary_key=True, help_text=_("When that minute began."))
    running = models.PositiveIntegerField()
    waiting = models.PositiveIntegerField()
    workers = models.PositiveIntegerField()

    objects = PrimaryManager()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%d %H:%M} {self.running} {self.waiting} {self.workers}"


class Dashboard(Rollup):
    """The page that shows the figures: a model of its own, so that the admin's index leads there."""

    class Meta:
        proxy = True
        default_permissions = ()
        verbose_name = _("dashboard")
        verbose_name_plural = _("Dashboard")


def bucket(seconds: float) -> int:
    """Which bucket of `BOUNDS` this duration falls into, from 0."""
    return bisect_right(BOUNDS, max(0.0, seconds))


def start_of(period: str, moment: datetime) -> datetime:
    """When the minute, the hour or the day (of UTC) began in which this moment lies."""
    minute = moment.astimezone(UTC).replace(second=0, microsecond=0)
    if period == Rollup.Period.MINUTE:
        return minute
    return minute.replace(minute=0) if period == Rollup.Period.HOUR else minute.replace(hour=0, minute=0)


def seconds_waited(job: Job) -> float | None:
    """How long this attempt waited in its queue before it started; None if that is not known."""
    if job.started_at is None or job.queued_at is None:
        return None
    return max(0.0, (job.started_at - job.queued_at).total_seconds())


def add_attempt(
    job: Job,
    outcome: str,
    *,
    at: Any = None,
    worker_name: str = "",
    fingerprint: str = "",
    waited_seconds: float | None = None,
    ran_seconds: float | None = None,
    amount: int = 1,
) -> None:
    """Add to the figures an attempt that ended so, now or `at` another time; with `amount=-1` take it back.

    To be called once for each attempt, in the transaction that stores it. None stands for what is not known.
    """
    FigureDelta.objects.create(
        at=at or Now(),
        queue=job.queue,
        task=job.task,
        worker_name=worker_name,
        outcome=outcome,
        fingerprint=fingerprint,
        sample=job.pk if fingerprint else None,
        wait_bucket=None if waited_seconds is None else bucket(waited_seconds),
        run_bucket=None if ran_seconds is None else bucket(ran_seconds),
        amount=amount,
        wait_seconds=amount * (waited_seconds or 0),
        run_seconds=amount * (ran_seconds or 0),
    )
