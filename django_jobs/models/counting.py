"""Counts that end: no further than `MOST_COUNTED`, however many rows there are."""

from collections.abc import Hashable, Mapping
from typing import Any, TypeVar

from django.db.models import DateTimeField, F, IntegerField, JSONField, QuerySet, Subquery

from .jobs import Job
from .workers import MOST_COUNTED

Key = TypeVar("Key", bound=Hashable)

_MOST_SELECTED = 400  # in one statement; PostgreSQL selects no more than 1,664 values.


def bounded_count(jobs: QuerySet[Job]) -> int:
    """How many these are, up to `MOST_COUNTED`."""
    return jobs.order_by()[:MOST_COUNTED].count()


def bounded_counts(querysets: Mapping[Key, QuerySet[Job]]) -> dict[Key, int]:
    """How many rows each has, up to `MOST_COUNTED`, in one statement for hundreds of them.

    They are read in the order that they ask for, which helps where it is that of an index.
    """
    counts = selected({key: CountOf(jobs) for key, jobs in querysets.items()})
    return {key: count or 0 for key, count in counts.items()}


def selected(expressions: Mapping[Key, Any], alias: str | None = None) -> dict[Key, Any]:
    """The values of these, in one statement for hundreds of them; all None where there is no job at all."""
    any_jobs = Job.objects.using(alias) if alias else Job.objects
    values: dict[Key, Any] = {}
    all_keys = list(expressions)
    for start in range(0, len(all_keys), _MOST_SELECTED):
        keys = all_keys[start : start + _MOST_SELECTED]
        # Beside any one job, as a statement needs a table.
        row = any_jobs.values_list(*(expressions[key] for key in keys)).first()
        values |= zip(keys, row or [None] * len(keys), strict=True)
    return values


class CountOf(Subquery):
    """How many these are, up to `most` or `MOST_COUNTED`, as an expression."""

    template = "(SELECT COUNT(*) FROM (%(subquery)s) counted)"
    output_field = IntegerField()

    def __init__(self, jobs: QuerySet[Job], most: int | None = None) -> None:
        ordered = jobs if jobs.query.order_by else jobs.order_by()
        super().__init__(ordered.values("pk")[: most or MOST_COUNTED])


class EarliestOf(Subquery):
    """Since when the first of these is queued, among the `most` foremost in their order, as an expression."""

    template = "(SELECT MIN(queued_at) FROM (%(subquery)s) foremost)"
    output_field = DateTimeField()

    def __init__(self, jobs: QuerySet[Job], most: int) -> None:
        super().__init__(jobs.values("queued_at")[:most])


class IdsOf(Subquery):
    """The ids of these, a list of texts, as an expression; None for none. To be sliced before."""

    template = "(SELECT jsonb_agg(found_id) FROM (%(subquery)s) found)"
    output_field = JSONField()

    def __init__(self, jobs: QuerySet[Job]) -> None:
        super().__init__(jobs.values(found_id=F("pk")))

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = self.template.replace("jsonb_agg", "json_group_array")
        return self.as_sql(compiler, connection, template=template, **context)
