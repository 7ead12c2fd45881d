"""Failures grouped by what went wrong, whichever jobs it happened to. See `django_jobs.errors`."""

from typing import Self

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from .primary import PrimaryManager


class ErrorGroupQuerySet(models.QuerySet["ErrorGroup"]):
    def open(self) -> Self:
        """Those that somebody is to look at: not resolved, and not ignored for now."""
        return self.filter(Q(state=ErrorGroup.State.OPEN) | self._ignored_till_now())

    def resolved(self) -> Self:
        return self.filter(state=ErrorGroup.State.RESOLVED)

    def ignored(self) -> Self:
        return self.filter(state=ErrorGroup.State.IGNORED).exclude(self._ignored_till_now())

    @staticmethod
    def _ignored_till_now() -> Q:
        return Q(state=ErrorGroup.State.IGNORED, ignored_until__lte=Now())


class ErrorGroup(models.Model):
    """All failures with one fingerprint: the exception's class, the project's innermost frame, the message
    without what differs from job to job."""

    class State(models.TextChoices):
        OPEN = "open", _("open")
        RESOLVED = "resolved", _("resolved")
        IGNORED = "ignored", _("ignored")

    fingerprint = models.CharField(primary_key=True, max_length=32)
    error_type = models.CharField(max_length=255)
    frame = models.CharField(max_length=255, default="", blank=True)
    message = models.TextField(default="", blank=True, help_text=_("Of the newest one."))
    state = models.CharField(max_length=10, choices=State.choices, default=State.OPEN)
    ignored_until = models.DateTimeField(null=True, help_text=_("Empty: for ever."))
    reopened_at = models.DateTimeField(null=True, help_text=_("When it came back after it was resolved."))
    count = models.PositiveBigIntegerField(default=0, help_text=_("Attempts that failed so."))
    first_seen = models.DateTimeField()
    last_seen = models.DateTimeField()
    tasks = models.JSONField(default=dict, help_text=_("How many attempts of which tasks."))
    workers = models.JSONField(default=dict, help_text=_("How many attempts by which workers."))
    sample = models.UUIDField(null=True, help_text=_("The newest job that failed so."))
    changed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, db_index=False, related_name="+"
    )
    changed_at = models.DateTimeField(null=True)

    objects = PrimaryManager.from_queryset(ErrorGroupQuerySet)()

    class Meta:
        verbose_name = _("error group")
        verbose_name_plural = _("error groups")
        default_permissions = ("view",)
        base_manager_name = "objects"
        ordering = ["-last_seen"]
        permissions = [("resolve_errorgroup", "Can resolve, ignore and reopen groups of errors")]
        indexes = [models.Index(fields=["state", "last_seen"], name="django_jobs_errors_state")]

    def __str__(self) -> str:
        return f"{self.error_type} in {self.frame}" if self.frame else self.error_type


class ErrorCount(models.Model):
    """How many attempts of a group failed in the hour from `start`."""

    group = models.ForeignKey(ErrorGroup, on_delete=models.CASCADE, db_index=False, related_name="counts")
    start = models.DateTimeField()
    count = models.PositiveIntegerField(default=0)

    objects = PrimaryManager()

    class Meta:
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=["group", "start"], name="django_jobs_one_error_count")]
        indexes = [models.Index(fields=["start"], name="django_jobs_error_count_start")]

    def __str__(self) -> str:
        return f"{self.count} at {self.start:%Y-%m-%d %H:%M}"
