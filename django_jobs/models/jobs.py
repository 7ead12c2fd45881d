"""A job: its row.

Times are the database's clock. Who may write `Job.status` is listed in docs/architecture.md.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Self
from uuid import UUID

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.validators import MaxValueValidator
from django.db import models, transaction
from django.db.models import F, Q
from django.db.models.base import ModelState
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _
from uuid6 import uuid7

from ..exceptions import JobDoesNotExist, WaitTimeout
from ..states import (
    FAILED,
    QUEUED,
    SCHEDULED,
    STARTED,
    TERMINAL,
    UNFINISHED,
    Status,
)
from .primary import PrimaryManager
from .querysets import JobQuerySet
from .tallies import tally

WORKER_LOST = "WorkerLost"
"""The error type of a job whose worker died while it ran."""


class Job(models.Model):
    """One enqueued run of a task."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    task = models.CharField(max_length=255, help_text=_("Its name: the function's path, or one given."))
    description = models.CharField(max_length=255, default="", blank=True)
    engine = models.CharField(max_length=32, default="rq")
    queue = models.CharField(max_length=100)
    at_front = models.BooleanField(default=False, help_text=_("Goes before the others of its queue."))
    args = models.JSONField(default=list, blank=True)
    kwargs = models.JSONField(default=dict, blank=True)
    timeout_seconds = models.PositiveIntegerField(null=True, help_text=_("Empty for no limit."))
    idempotent = models.BooleanField(default=False, help_text=_("Running it again does no harm."))

    status = models.CharField(max_length=10, choices=Status.choices, default=QUEUED)
    attempt = models.PositiveIntegerField(default=1, help_text=_("The attempt awaited or running, from 1."))
    max_attempts = models.PositiveIntegerField(default=1)
    retry_intervals = models.JSONField(default=list, blank=True, help_text=_("Seconds before each retry."))
    retry_jitter = models.FloatField(
        default=0, help_text=_("Part of an interval, from 0 to 1, by which it is changed at random.")
    )
    losses = models.PositiveIntegerField(default=0, help_text=_("Attempts cut because their worker died."))
    cancel_requested_at = models.DateTimeField(null=True)

    delivery = models.PositiveIntegerField(default=0, help_text=_("Counts the deliveries of one attempt."))
    delivered_at = models.DateTimeField(null=True)
    delivered_epoch = models.CharField(max_length=64, default="", blank=True)
    worker = models.ForeignKey(
        "django_jobs.Worker",
        on_delete=models.DO_NOTHING,
        null=True,
        db_constraint=False,  # Rows of gone workers are deleted; their jobs tell that by pointing nowhere.
        db_index=False,
        related_name="jobs",
    )
    claim_id = models.UUIDField(null=True, editable=False)
    elsewhere_until = models.DateTimeField(
        null=True, help_text=_("Its work goes on outside; lost if not reported by then.")
    )
    observed_id = models.CharField(
        max_length=255,
        default="",
        blank=True,
        help_text=_("Its id in the engine, for a job that other code enqueued there."),
    )

    keep_result_seconds = models.FloatField(null=True, help_text=_("Empty: as long as the row."))
    result_expires_at = models.DateTimeField(null=True)
    result = models.JSONField(null=True)
    result_error = models.TextField(default="", blank=True, help_text=_("Why the result is not stored."))
    error_type = models.CharField(max_length=255, default="", blank=True)
    error_message = models.TextField(default="", blank=True)
    traceback = models.TextField(default="", blank=True)
    fingerprint = models.CharField(
        max_length=32, default="", blank=True, help_text=_("Of the error; alike for errors of one kind.")
    )

    progress = models.PositiveSmallIntegerField(default=0, validators=[MaxValueValidator(100)])
    progress_message = models.TextField(default="", blank=True)
    stage = models.CharField(max_length=100, default="", blank=True)
    stages = models.JSONField(default=dict, blank=True)
    stage_names = models.JSONField(
        default=list,
        blank=True,
        help_text=_("The stages in their order, which PostgreSQL's JSON does not keep."),
    )
    live_log = models.TextField(
        default="", blank=True, help_text=_("The end of what the attempt that runs has logged so far.")
    )

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, db_index=False, related_name="+"
    )
    subject = models.CharField(max_length=255, default="", blank=True, help_text=_("For example file:42."))
    tags = models.JSONField(default=list, blank=True)
    meta = models.JSONField(default=dict, blank=True)
    unique_key = models.CharField(max_length=255, null=True)  # noqa: DJ001 - NULLs are distinct, '' is not.
    requeued_from = models.ForeignKey(
        "self", on_delete=models.SET_NULL, null=True, db_index=False, related_name="requeued_to"
    )
    parent = models.ForeignKey(
        "self",
        on_delete=models.DO_NOTHING,
        null=True,
        db_constraint=False,  # One that was deleted costs its children no write.
        db_index=False,
        related_name="children",
        help_text=_("The job that enqueued this one."),
    )

    created_at = models.DateTimeField(db_default=Now(), editable=False)
    scheduled_for = models.DateTimeField(null=True, help_text=_("When the awaited attempt is due."))
    queued_at = models.DateTimeField(null=True, db_default=Now(), editable=False)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    objects = PrimaryManager.from_queryset(JobQuerySet)()

    class Meta:
        verbose_name = _("job")
        verbose_name_plural = _("jobs")
        default_permissions = ("view", "delete")
        ordering = ["-id"]
        base_manager_name = "objects"
        permissions = [
            ("view_job_arguments", "Can see arguments, results and logs of jobs"),
            ("enqueue_job", "Can enqueue jobs"),
            ("edit_job_arguments", "Can requeue a job with other arguments"),
            ("bulk_job", "Can act on all jobs that match"),
            ("cancel_job", "Can cancel job"),
            ("stop_job", "Can stop a running job"),
            ("requeue_job", "Can requeue job"),
            ("run_job", "Can run a job before its time"),
            ("fail_job", "Can mark a job as failed"),
            ("move_job", "Can move a job to another queue"),
            ("report_job", "Can report progress and end of a job from elsewhere"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["unique_key"],
                condition=Q(status__in=sorted(UNFINISHED), unique_key__isnull=False),
                name="django_jobs_one_unfinished_per_key",
            )
        ]
        indexes = [
            # What the relay and the reconciler ask, every second: few rows of a large table.
            models.Index(
                fields=["scheduled_for", "id"], condition=Q(status=SCHEDULED), name="django_jobs_due"
            ),
            models.Index(
                fields=["queue", "delivered_epoch", "id"],
                condition=Q(status=QUEUED),
                name="django_jobs_undelivered",
            ),
            models.Index(fields=["worker"], condition=Q(status=STARTED), name="django_jobs_running"),
            # For how long the first of a queue has waited.
            models.Index(
                fields=["queue", "queued_at"], condition=Q(status=QUEUED), name="django_jobs_waiting"
            ),
            # What people ask: the newest of a state, of a queue, of a task, about a subject, of an owner.
            models.Index(fields=["status", "id"], name="django_jobs_status"),
            models.Index(fields=["queue", "status", "id"], name="django_jobs_queue_status"),
            models.Index(fields=["task", "status", "id"], name="django_jobs_task_status"),
            models.Index(fields=["subject", "id"], condition=~Q(subject=""), name="django_jobs_subject"),
            models.Index(fields=["owner", "id"], condition=Q(owner__isnull=False), name="django_jobs_owner"),
            models.Index(
                fields=["requeued_from"],
                condition=Q(requeued_from__isnull=False),
                name="django_jobs_requeued_from",
            ),
            models.Index(
                fields=["parent", "id"], condition=Q(parent__isnull=False), name="django_jobs_parent"
            ),
            # What has failed last, whenever it was enqueued.
            models.Index(
                fields=["status", "finished_at"], condition=Q(status=FAILED), name="django_jobs_failed"
            ),
            # What retention asks.
            models.Index(
                fields=["finished_at"], condition=Q(finished_at__isnull=False), name="django_jobs_ended"
            ),
            models.Index(
                fields=["result_expires_at"],
                condition=Q(result_expires_at__isnull=False, result__isnull=False),
                name="django_jobs_result_expires",
            ),
            # What the observer asks: how far the engine's own jobs are.
            models.Index(
                fields=["queue", "id"],
                condition=Q(status__in=sorted(UNFINISHED)) & ~Q(observed_id=""),
                name="django_jobs_observed",
            ),
            # Last: of indexes that seem equally good SQLite takes the newest.
            models.Index(
                fields=["fingerprint", "id"], condition=Q(status=FAILED), name="django_jobs_fingerprint"
            ),
        ]

    deduplicated = False
    """True for what enqueue() returns when an unfinished job held its unique key: that job."""

    def __str__(self) -> str:
        return f"{self.task} {self.pk}"

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        """Delete the row and what belongs to it; nothing that runs is told. See `control.delete`."""
        with transaction.atomic(using=self._state.db):
            counted = Job.objects.select_for_update().filter(pk=self.pk).values_list("queue", "status")
            tally(dict.fromkeys(counted, -1))
            return super().delete(*args, **kwargs)

    @property
    def call(self) -> str:
        """The call as Python code: `documents.tasks.process_file(42, force=True)`.

        The arguments of a job that was only observed are not known: `mail.send(…)`.
        """
        if self.observed_id:
            return f"{self.task}(…)"
        arguments = [*map(repr, self.args), *(f"{name}={value!r}" for name, value in self.kwargs.items())]
        return f"{self.task}({', '.join(arguments)})"

    @property
    def has_ended(self) -> bool:
        return self.status in TERMINAL

    @property
    def is_interrupted(self) -> bool:
        """True for a job that failed because its worker died and nobody knows how far it got."""
        return self.status == FAILED and self.error_type == WORKER_LOST

    @property
    def is_canceling(self) -> bool:
        """True while a started job was asked to stop and its worker has not confirmed it yet."""
        return self.status == STARTED and self.cancel_requested_at is not None

    @property
    def ordered_stages(self) -> dict[str, dict[str, Any]]:
        """`stages` in the order in which they were announced."""
        order = {name: position for position, name in enumerate(self.stage_names)}
        return dict(sorted(self.stages.items(), key=lambda stage: order.get(stage[0], len(order))))

    @property
    def will_retry_at(self) -> datetime | None:
        """When the attempt after a failed or lost one is due; None if none is awaited."""
        return self.scheduled_for if self.status == SCHEDULED and self.attempt > 1 else None

    @property
    def duration(self) -> timedelta | None:
        """How long the last attempt ran, by the database's clock; None while it has not ended."""
        return self.finished_at - self.started_at if self.finished_at and self.started_at else None

    def wait(self, timeout: float | None = None) -> Self:
        """Wait until the job has ended, at most `timeout` seconds, and return it as it is then.

        Raises `WaitTimeout` when it has not, `JobDoesNotExist` when it was deleted, and `RuntimeError` inside
        `atomic()`, where it would wait for ever. How it ended is in `status`; a failed job raises nothing.
        """
        for pause in self._pauses(timeout):
            if self._ended_now():
                break
            time.sleep(pause)
        return self

    async def await_result(self, timeout: float | None = None) -> Self:
        """`wait` for async code; the event loop goes on meanwhile."""
        for pause in self._pauses(timeout):
            if await sync_to_async(self._ended_now)():
                break
            await asyncio.sleep(pause)
        return self

    def _pauses(self, timeout: float | None) -> Iterator[float]:
        """How long to sleep before each further look; raises `WaitTimeout` in the end."""
        began, pause = time.monotonic(), 0.01
        while True:
            is_last = timeout is not None and time.monotonic() - began > timeout
            yield 0 if is_last else pause
            if is_last:
                raise WaitTimeout(f"Job {self.pk} is still {self.status} after {timeout:g} s.")
            pause = min(pause * 1.5, 0.5)

    def _ended_now(self) -> bool:
        try:
            self.refresh_from_db()
        except Job.DoesNotExist:
            raise JobDoesNotExist(f"There is no job {self.pk} any more; it was deleted.") from None
        if not self.has_ended and transaction.get_connection(self._state.db).in_atomic_block:
            raise RuntimeError(
                "job.wait() inside a transaction would wait for ever: the job is enqueued when it commits. "
                "Call it after the atomic() block."
            )
        return self.has_ended

    # The verbs import control inside: models are below it and may not import it at their top.

    def cancel(self, by: Any = None) -> bool:
        """See `control.cancel`."""
        from .. import control

        return bool(control.cancel(self, by=by))

    def requeue(self, by: Any = None) -> "Job":
        """See `control.requeue`."""
        from .. import control

        return control.requeue(self, by=by)

    # A template that names one of these must not call it.
    cancel.alters_data = True  # type: ignore[attr-defined]
    requeue.alters_data = True  # type: ignore[attr-defined]
    wait.alters_data = True  # type: ignore[attr-defined]


def get_job(job_id: str | UUID) -> Job:
    """The job with this id; raises `JobDoesNotExist` when there is none."""
    try:
        job: Job = Job.objects.get(pk=UUID(str(job_id)))
    except ValueError as error:
        raise JobDoesNotExist(f"{job_id!r} is not the id of a job; an id looks like {uuid7()}.") from error
    except Job.DoesNotExist as error:
        raise JobDoesNotExist(f"There is no job {job_id}; it may have been deleted.") from error
    return job


def new_job(**columns: Any) -> Job:
    """`Job(**columns)` in a tenth of its time, without signals. Times that the database sets are read when
    asked for."""
    fixed, made = _defaults()
    job = Job.__new__(Job)  # As Django itself does when it unpickles a row.
    job._state = ModelState()
    vars(job).update(fixed, **{name: make() for name, make in made if name not in columns}, **columns)
    return job


@cache
def _defaults() -> tuple[dict[str, Any], list[tuple[str, Callable[[], Any]]]]:
    """The default of each column, and of those whose default is made for each row what makes it."""
    fields = [field for field in Job._meta.concrete_fields if not field.has_db_default()]
    made = {
        field.attname: field.default for field in fields if field.has_default() and callable(field.default)
    }
    fixed = {field.attname: field.get_default() for field in fields if field.attname not in made}
    return fixed, list(made.items())


NEXT_DELIVERY = {"delivery": F("delivery") + 1, "delivered_at": None, "delivered_epoch": ""}
"""Update of a queued row after which the relay delivers it anew."""

BACK = {"status": QUEUED, "worker": None, "claim_id": None, "started_at": None, **NEXT_DELIVERY}
"""Update of a started row of which nothing has run: others may run it, as the same attempt."""
