"""How jobs are found, and deleted."""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from django.db import models, transaction
from django.db.models import BooleanField, Q, Subquery
from django.db.models.expressions import RawSQL
from django.db.models.functions import Now

from ..states import (
    CANCELED,
    DEFERRED,
    FAILED,
    FINISHED,
    QUEUED,
    SCHEDULED,
    STARTED,
    TERMINAL,
    UNFINISHED,
    Status,
)
from .tallies import tally

if TYPE_CHECKING:
    from .jobs import Job


class JobQuerySet(models.QuerySet["Job"]):
    def queued(self) -> Self:
        return self.filter(status=QUEUED)

    def literally_queued(self) -> Self:
        """`queued()` where no other table is read: SQLite takes a partial index only if it reads the
        condition in the statement itself."""
        # Without the table's name, which is another one in a subquery.
        return self.filter(RawSQL(f"\"status\" = '{QUEUED.value}'", (), BooleanField()))  # noqa: S611

    def scheduled(self) -> Self:
        return self.filter(status=SCHEDULED)

    def deferred(self) -> Self:
        return self.filter(status=DEFERRED)

    def started(self) -> Self:
        return self.filter(status=STARTED)

    def finished(self) -> Self:
        return self.filter(status=FINISHED)

    def failed(self) -> Self:
        return self.filter(status=FAILED)

    def canceled(self) -> Self:
        return self.filter(status=CANCELED)

    def unfinished(self) -> Self:
        return self.filter(status__in=sorted(UNFINISHED))

    def on_queue(self, *names: str) -> Self:
        return self.filter(queue__in=names)

    def by_wait(self) -> Self:
        """The queued ones, the first of which has waited longest."""
        return self.filter(status=literally(QUEUED)).order_by("queued_at")

    def by_failure(self) -> Self:
        """The failed ones, the last of which failed first."""
        return self.filter(status=literally(FAILED)).order_by("-finished_at")

    def held_by(self, workers: Iterable[UUID]) -> Self:
        """Those that run on these workers, in the order of their start."""
        return self.filter(status=literally(STARTED), worker__in=[*workers]).order_by("started_at")

    def failed_as(self, fingerprint: str) -> Self:
        """The failed ones of a group of errors."""
        return self.filter(status=literally(FAILED), fingerprint=fingerprint)

    def for_subject(self, subject: str) -> Self:
        """The jobs about `subject`, for example "file:42", oldest first."""
        jobs = self.filter(subject=subject).order_by("id")
        # What its index leaves out: SQLite takes a partial index only where its condition is asked for.
        return jobs.exclude(subject="") if subject else jobs

    def ended(self) -> Self:
        return self.filter(status__in=sorted(TERMINAL))

    def ours(self) -> Self:
        """The jobs that were enqueued here, not those that were only observed."""
        return self.filter(observed_id="")

    def observed(self) -> Self:
        """The jobs that other code enqueued with the plain library of an engine."""
        return self.exclude(observed_id="")

    def due(self) -> Self:
        due = self.scheduled().ours().filter(scheduled_for__lte=Now())
        return due.order_by("scheduled_for", "id")

    def undelivered(self, epoch: str) -> Self:
        """Queued jobs whose delivery is not known to a server in this `epoch`."""
        # Not `exclude(delivered_epoch=epoch)`: two ranges of an index instead of a walk through it.
        return self.queued().ours().filter(Q(delivered_epoch__lt=epoch) | Q(delivered_epoch__gt=epoch))

    def next_undelivered(self, queue: str, epoch: str, most: int, *columns: str) -> list[tuple[Any, ...]]:
        """These columns of the first undelivered jobs of a queue: of those never delivered, else of those of
        other epochs."""
        jobs = self.ours().literally_queued().filter(queue=queue).order_by("delivered_epoch", "id")
        # Each is a range of the index, in its order; both in one question would be sorted.
        rows = jobs.values_list(*columns)
        return list(rows.filter(delivered_epoch__lt=epoch)[:most]) or list(
            rows.filter(delivered_epoch__gt=epoch)[:most]
        )

    def same_delivery(self, job: "Job") -> Self:
        """The row of `job` as long as it awaits the same delivery of the same attempt."""
        return self.filter(pk=job.pk, attempt=job.attempt, delivery=job.delivery)

    def stages(self) -> dict[str, dict[str, Any]]:
        """How far these jobs are together: each stage as the newest job that has begun it tells.

        For example {"chunking": {"status": "completed", "progress": 100}, "storage": {"status": "pending",
        "progress": 0}}. With `for_subject("file:42")`: how far file 42 is.
        """
        merged: dict[str, dict[str, Any]] = {}
        for job in self.order_by("id").only("stages", "stage_names"):
            for name, stage in job.ordered_stages.items():
                if name not in merged or stage["status"] != "pending":
                    merged[name] = stage
        return merged

    def update_unless_locked(self, **values: Any) -> int:
        """Update those of these rows that no other transaction holds, without waiting for one; how many."""
        with transaction.atomic(using=self.db):
            free = self.order_by().select_for_update(skip_locked=True).values("pk")
            rows = self.model.objects.using(self.db).filter(pk__in=Subquery(free))
            return rows.update(**values)

    update_unless_locked.alters_data = True  # type: ignore[attr-defined]

    def delete(self) -> tuple[int, dict[str, int]]:
        """Delete these rows and what belongs to them; nothing that runs is told. See `control.delete`."""
        deleted: Counter[str] = Counter()
        with transaction.atomic(using=self.db):
            # Locked by their ids, as PostgreSQL locks no rows of joins and no distinct ones.
            jobs = self.model.objects.using(self.db).select_for_update()
            locked = list(jobs.filter(pk__in=self.order_by().values("pk")).values_list("pk", flat=True))
            for start in range(0, len(locked), 1000):
                # Asked again, as they change no more now: just those that are counted may be deleted.
                chosen = self.filter(pk__in=locked[start : start + 1000])
                rows = set(chosen.order_by().values_list("pk", "queue", "status"))
                counted = Counter((queue, status) for _, queue, status in rows)
                tally({key: -count for key, count in counted.items()})
                deleted.update(super(JobQuerySet, chosen).delete()[1])
        return deleted.total(), dict(deleted)

    delete.alters_data = True  # type: ignore[attr-defined]
    delete.queryset_only = True  # type: ignore[attr-defined]


def literally(status: Status) -> RawSQL:
    """A state that stands in the statement itself; else SQLite takes no index that is of this state only."""
    return RawSQL(f"'{status.value}'", (), models.CharField())  # noqa: S611
