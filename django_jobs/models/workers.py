"""What runs the jobs: workers and their life signs, queues, and this installation itself."""

from collections.abc import Callable
from functools import cache
from typing import Any, Self
from uuid import UUID

from django.conf import settings
from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _
from uuid6 import uuid7

from .jobs import Job
from .primary import PrimaryManager
from .querysets import JobQuerySet

MOST_COUNTED = 10_000
"""Counts go no further; one that says so may mean any number from there."""
MOST_WORKERS = 1_000
"""Counts of workers go no further."""


class WorkerQuerySet(models.QuerySet["Worker"]):
    def alive(self) -> Self:
        return self.filter(leased_until__gte=Now())

    def silent(self) -> Self:
        """Workers that went without saying so."""
        return self.filter(leased_until__lt=Now())


class Worker(models.Model):
    """The life sign of one worker and its children. A new row at every start, deleted at its end."""

    class State(models.TextChoices):
        IDLE = "idle"
        BUSY = "busy"
        QUIET = "quiet"  # Asked to take nothing more.

    class Order(models.TextChoices):
        """What somebody asks of a worker; it hears of that with its next sign of life."""

        NONE = ""
        QUIET = "quiet"
        STOP = "stop"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=255)
    engine = models.CharField(max_length=32)
    hostname = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    process = models.CharField(
        max_length=50, default="", blank=True, help_text=_("Tells processes of one pid apart.")
    )
    queues = models.JSONField(default=list)
    state = models.CharField(max_length=10, choices=State.choices, default=State.IDLE)
    started_at = models.DateTimeField(db_default=Now())
    seen_at = models.DateTimeField(db_default=Now(), help_text=_("When it last renewed its lease."))
    leased_until = models.DateTimeField(help_text=_("Counts as lost after this."))
    finished_count = models.PositiveIntegerField(default=0, help_text=_("Attempts that finished here."))
    failed_count = models.PositiveIntegerField(default=0, help_text=_("Attempts that failed here."))
    busy_seconds = models.FloatField(default=0, help_text=_("Time spent on attempts that have ended."))
    order = models.CharField(max_length=10, choices=Order.choices, default=Order.NONE, blank=True)
    memory_bytes = models.PositiveBigIntegerField(null=True, help_text=_("Of all its processes."))
    cpu_percent = models.FloatField(null=True, help_text=_("Of one core, since its last sign of life."))
    slots = models.PositiveIntegerField(
        default=1, help_text=_("How many jobs it runs at a time, not counting those that it awaits.")
    )

    objects = PrimaryManager.from_queryset(WorkerQuerySet)()

    class Meta:
        default_permissions = ("view",)
        base_manager_name = "objects"
        ordering = ["name"]
        permissions = [("manage_worker", "Can quiet and stop a worker")]
        indexes = [models.Index(fields=["leased_until"], name="django_jobs_worker_lease")]

    def __str__(self) -> str:
        return self.name


class Queue(models.Model):
    """What we know of a queue beyond its name. A queue without a row is not paused."""

    name = models.CharField(primary_key=True, max_length=100)
    paused = models.BooleanField(default=False)

    objects = PrimaryManager()

    class Meta:
        default_permissions = ("view",)
        ordering = ["name"]
        permissions = [
            ("manage_queue", "Can pause, resume and empty a queue"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def jobs(self) -> JobQuerySet:
        """Its jobs, in whatever state, newest first."""
        return Job.objects.on_queue(self.name)

    @property
    def count(self) -> int:
        """How many jobs are queued on it, counted up to `MOST_COUNTED`."""
        return self.jobs.queued().order_by()[:MOST_COUNTED].count()

    # These import what is above the models inside, as the verbs of a job do.

    def enqueue(self, function: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Job:
        """`django_jobs.enqueue` on this queue: all further arguments are the function's own."""
        from ..tasks import task_of

        return task_of(function).using(queue=self.name).enqueue(*args, **kwargs)

    def pause(self, by: Any = None) -> bool:
        """See `control.pause`."""
        from .. import control

        changed = control.pause(self, by=by)
        self.paused = True
        return changed

    def resume(self, by: Any = None) -> bool:
        """See `control.resume`."""
        from .. import control

        changed = control.resume(self, by=by)
        self.paused = False
        return changed

    def empty(self, by: Any = None) -> int:
        """See `control.empty`."""
        from .. import control

        return control.empty(self, by=by)

    # A template that names one of these must not call it.
    pause.alters_data = True  # type: ignore[attr-defined]
    resume.alters_data = True  # type: ignore[attr-defined]
    empty.alters_data = True  # type: ignore[attr-defined]


class QueueEvent(models.Model):
    """One fact about steering of a queue, or of a job of it whose row is gone."""

    class Kind(models.TextChoices):
        PAUSED = "paused"
        RESUMED = "resumed"
        EMPTIED = "emptied"
        JOB_DELETED = "job_deleted"

    queue = models.CharField(max_length=100)
    kind = models.CharField(max_length=20, choices=Kind.choices)
    by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, db_index=False, related_name="+"
    )
    message = models.TextField(default="", blank=True)
    at = models.DateTimeField(db_default=Now())

    objects = PrimaryManager()

    class Meta:
        default_permissions = ()
        ordering = ["id"]
        indexes = [models.Index(fields=["queue", "kind", "id"], name="django_jobs_queue_events")]

    def __str__(self) -> str:
        return f"{self.kind} {self.queue}"


class Installation(models.Model):
    """This database's identity, carried by every delivery, so that no worker runs another's jobs."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    singleton = models.BooleanField(default=True, unique=True, editable=False)
    namespace = models.CharField(
        max_length=255, default="", blank=True, help_text=_("What its keys in Redis begin with.")
    )

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.id)


@cache
def installation_id() -> UUID:
    """The id of this installation, made at its first use."""
    return Installation.objects.get_or_create(singleton=True)[0].id


class Lease(models.Model):
    """Who of several equal processes does a chore now; whoever finds it expired takes it."""

    name = models.CharField(primary_key=True, max_length=100)
    holder = models.CharField(max_length=255)
    expires_at = models.DateTimeField()

    objects = PrimaryManager()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.name}: {self.holder}"
