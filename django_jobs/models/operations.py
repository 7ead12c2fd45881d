"""What somebody asked to be done to many jobs, and how far that is. See `django_jobs.operations`."""

from typing import Self

from django.conf import settings
from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _
from uuid6 import uuid7

from .primary import PrimaryManager


class OperationQuerySet(models.QuerySet["Operation"]):
    def unfinished(self) -> Self:
        return self.filter(finished_at__isnull=True)


class Operation(models.Model):
    """A verb for all jobs that match, done in the background a chunk after the other."""

    class Verb(models.TextChoices):
        REQUEUE = "requeue", _("requeue")
        CANCEL = "cancel", _("cancel")
        STOP = "stop", _("stop")
        RUN_NOW = "run_now", _("run now")
        MARK_FAILED = "mark_failed", _("mark as failed")
        MOVE = "move", _("move to another queue")
        DELETE = "delete", _("delete")

    class State(models.TextChoices):
        WAITING = "waiting", _("waiting")
        RUNNING = "running", _("running")
        DONE = "done", _("done")
        ABORTED = "aborted", _("aborted")
        FAILED = "failed", _("failed")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    verb = models.CharField(max_length=20, choices=Verb.choices)
    options = models.JSONField(default=dict, blank=True, help_text=_("Such as the queue to move to."))
    search = models.TextField(default="", blank=True, help_text=_("Which jobs, as one searches for them."))
    by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, db_index=False, related_name="+"
    )
    state = models.CharField(max_length=10, choices=State.choices, default=State.WAITING)
    matched = models.PositiveIntegerField(
        null=True, help_text=_("How many jobs matched at the start, counted up to a limit.")
    )
    newest = models.UUIDField(
        null=True, help_text=_("The newest job that matched; later ones are left alone.")
    )
    cursor = models.UUIDField(null=True, help_text=_("The last job that was dealt with."))
    done = models.PositiveIntegerField(default=0)
    refused = models.JSONField(default=dict, help_text=_("How many were left alone, and why."))
    error = models.TextField(default="", blank=True)
    abort_requested_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    objects = PrimaryManager.from_queryset(OperationQuerySet)()

    class Meta:
        verbose_name = _("operation")
        verbose_name_plural = _("operations")
        default_permissions = ("view",)
        permissions = [("abort_operation", "Can abort an operation that somebody else started")]
        base_manager_name = "objects"
        ordering = ["-id"]
        indexes = [
            models.Index(
                fields=["id"],
                condition=models.Q(finished_at__isnull=True),
                name="django_jobs_operations_open",
            )
        ]

    def __str__(self) -> str:
        return f"{self.verb} {self.pk}"  # Not the search, which may tell of arguments.
