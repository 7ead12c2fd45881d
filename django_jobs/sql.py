"""The raw SQL of django_jobs, for PostgreSQL and SQLite, where the ORM has no words for it."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.db import connections, router

from .models import Job, Queue
from .states import QUEUED, STARTED

# What clock_timestamp() is to PostgreSQL: the database's clock, in the form Django stores on SQLite.
_NOW = {"postgresql": "clock_timestamp()", "sqlite": "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now')"}

_CLAIM = """
UPDATE {job} SET status = '{started}', worker_id = %s, claim_id = %s, started_at = {now},
       progress = 0, progress_message = '', stage = '', stages = '{{}}', stage_names = '[]'
WHERE id IN (
    SELECT id FROM {job}
    WHERE (id, attempt) IN (VALUES {wanted}) AND status = '{queued}' AND observed_id = ''
      AND NOT EXISTS (SELECT 1 FROM {queue} WHERE {queue}.name = {job}.queue AND {queue}.paused)
    ORDER BY id {lock}
)
RETURNING *
"""

_MARK_DELIVERED = """
UPDATE {job} SET delivered_at = {now}, delivered_epoch = %s
WHERE (id, attempt, delivery) IN (VALUES {wanted}) AND status = '{queued}'
"""


def claim(wanted: Sequence[tuple[UUID, int]], worker_id: UUID, claim_id: UUID) -> list[Job]:
    """Start those of the wanted (job id, attempt) that await just that attempt, and return them.

    A row that another transaction holds locked is passed over, as is one of a paused queue.
    """
    alias = router.db_for_write(Job)
    statement = _fill(_CLAIM, alias, wanted)
    params = [_uuid(worker_id, alias), _uuid(claim_id, alias), *_flat(wanted, alias)]
    return list(Job.objects.using(alias).raw(statement, params))


def mark_delivered(deliveries: Sequence[tuple[UUID, int, int]], epoch: str) -> None:
    """Note that the (job id, attempt, delivery) were handed to a server in this epoch.

    Rows that have moved on meanwhile are left alone.
    """
    alias = router.db_for_write(Job)
    with connections[alias].cursor() as cursor:
        cursor.execute(_fill(_MARK_DELIVERED, alias, deliveries), [epoch, *_flat(deliveries, alias)])


def _fill(template: str, alias: str, wanted: Sequence[tuple[Any, ...]]) -> str:
    connection = connections[alias]
    quote = connection.ops.quote_name
    id_cast = "%s::uuid" if connection.vendor == "postgresql" else "%s"
    row = f"({', '.join([id_cast, *['%s'] * (len(wanted[0]) - 1)])})"
    return template.format(
        job=quote(Job._meta.db_table),
        queue=quote(Queue._meta.db_table),
        now=_NOW[connection.vendor],
        lock="FOR UPDATE SKIP LOCKED" if connection.features.has_select_for_update_skip_locked else "",
        wanted=", ".join([row] * len(wanted)),
        queued=QUEUED.value,
        started=STARTED.value,
    )


def _flat(rows: Sequence[tuple[Any, ...]], alias: str) -> list[Any]:
    return [value for job_id, *numbers in rows for value in (_uuid(job_id, alias), *numbers)]


def _uuid(value: UUID, alias: str) -> Any:
    return Job._meta.pk.get_db_prep_value(value, connections[alias], prepared=False)
