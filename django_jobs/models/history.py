"""What happened to a job: its attempts, and the traces of steering and rescue."""

from datetime import timedelta

from django.conf import settings
from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from .jobs import Job
from .primary import PrimaryManager


class Attempt(models.Model):
    """One execution of a job that has ended; its number counts from 1."""

    class Outcome(models.TextChoices):
        FINISHED = "finished", _("Finished")
        FAILED = "failed", _("Failed")
        # The task itself asked for another attempt.
        RETRIED = "retried", _("Retried")
        # The task handed its work over; how that ended is not reported yet.
        ELSEWHERE = "elsewhere", _("Elsewhere")
        CANCELED = "canceled", _("Canceled")
        LOST = "lost", _("Lost")

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="attempts", db_index=False)
    number = models.PositiveIntegerField(_("number"))
    claim_id = models.UUIDField(editable=False)
    worker_name = models.CharField(_("worker"), max_length=255)
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(db_default=Now())
    outcome = models.CharField(_("outcome"), max_length=10, choices=Outcome.choices)
    error_type = models.CharField(max_length=255, default="", blank=True)
    error_message = models.TextField(default="", blank=True)
    traceback = models.TextField(default="", blank=True)
    log = models.TextField(default="", blank=True)

    objects = PrimaryManager()

    class Meta:
        verbose_name = _("attempt")
        verbose_name_plural = _("attempts")
        default_permissions = ("view",)
        ordering = ["job", "number"]
        constraints = [
            models.UniqueConstraint(fields=["job", "number"], name="django_jobs_one_attempt_per_number")
        ]

    def __str__(self) -> str:
        return gettext("attempt {number} of {job}").format(number=self.number, job=self.job_id)

    @property
    def duration(self) -> timedelta:
        return self.finished_at - self.started_at


class JobEvent(models.Model):
    """One fact about steering or rescue of a job: who canceled, what was rescued on what evidence."""

    class Kind(models.TextChoices):
        ENQUEUED = "enqueued"  # By a person; what code enqueues leaves no event.
        CANCEL_REQUESTED = "cancel_requested"
        CANCELED = "canceled"
        REQUEUED = "requeued"
        RUN_NOW = "run_now"
        MARKED_FAILED = "marked_failed"
        MOVED = "moved"
        REPORTED = "reported"
        WORKER_LOST = "worker_lost"
        REDELIVERED = "redelivered"
        LATE_REPORT = "late_report"

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="events")
    kind = models.CharField(max_length=20, choices=Kind.choices)
    attempt = models.PositiveIntegerField()
    by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    message = models.TextField(default="", blank=True)
    at = models.DateTimeField(db_default=Now())

    objects = PrimaryManager()

    class Meta:
        default_permissions = ()
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.kind} {self.job_id}"
