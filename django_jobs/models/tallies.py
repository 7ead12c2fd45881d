"""How many jobs of each queue have ended how, without counting rows.

Whoever changes a status adds what that changes, in the same transaction; the maintainer folds the additions.
"""

from collections import Counter
from collections.abc import Mapping

from django.db import models, router, transaction
from django.db.models import Sum

from ..states import TERMINAL
from .primary import PrimaryManager

MOST_FOLDED = 5_000


class Tally(models.Model):
    """An addition to the number of jobs of this queue that stand in this terminal state."""

    queue = models.CharField(max_length=100)
    status = models.CharField(max_length=10)
    amount = models.IntegerField()

    objects = PrimaryManager()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.queue} {self.status} {self.amount:+}"


def tally(changes: Mapping[tuple[str, str], int]) -> None:
    """Add to the number of jobs in (queue, status). States that are not terminal are passed over."""
    Tally.objects.bulk_create(
        Tally(queue=queue, status=status, amount=amount)
        for (queue, status), amount in changes.items()
        if status in TERMINAL and amount
    )


def totals(*queues: str) -> dict[tuple[str, str], int]:
    """The number of jobs in each (queue, terminal status) that has any, of all queues if none is named."""
    rows = Tally.objects.filter(queue__in=queues) if queues else Tally.objects.all()
    summed = rows.order_by().values_list("queue", "status").annotate(total=Sum("amount"))
    return {(queue, status): total for queue, status, total in summed if total}


def fold() -> int:
    """Put the additions of each (queue, status) together; how many rows that saved."""
    alias = router.db_for_write(Tally)
    with transaction.atomic(using=alias):
        rows = list(Tally.objects.order_by("pk")[:MOST_FOLDED])
        summed: Counter[tuple[str, str]] = Counter()
        for row in rows:
            summed[row.queue, row.status] += row.amount
        summed = Counter({key: amount for key, amount in summed.items() if amount})
        if len(rows) == len(summed):
            return 0
        deleted, _ = Tally.objects.filter(pk__in=[row.pk for row in rows]).delete()
        if deleted != len(rows):  # Another process folded the same.
            transaction.set_rollback(True, using=alias)
            return 0
        tally(summed)
    return len(rows) - len(summed)
