"""The raw SQL of django_jobs, for PostgreSQL and SQLite, where the ORM has no words for it or is too slow."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any
from uuid import UUID

from django.db import connections, models, router

from .models import Job, Queue, Worker
from .states import QUEUED, STARTED

# What clock_timestamp() is to PostgreSQL: the database's clock, in the form Django stores on SQLite.
NOW = {"postgresql": "clock_timestamp()", "sqlite": "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now')"}

_CLAIM = """
UPDATE {job} SET status = '{started}', worker_id = %s, claim_id = %s, started_at = {now},
       progress = 0, progress_message = '', stage = '', stages = '{{}}', stage_names = '[]', live_log = ''
WHERE id IN (
    SELECT id FROM {job}
    WHERE id IN ({ids}) AND (id, attempt) IN (VALUES {wanted}) AND status || '' = '{queued}'
      AND observed_id = ''
      AND NOT EXISTS (SELECT 1 FROM {queue} WHERE {queue}.name = {job}.queue AND {queue}.paused)
    ORDER BY id {lock}
)
RETURNING {returning}
"""

# From name to name along an index, where GROUP BY would read all that is queued.
_WAITING = """
WITH RECURSIVE waiting(queue) AS (
    SELECT (SELECT queue FROM {job} WHERE status = '{queued}' ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT {job}.queue FROM {job} WHERE {job}.status = '{queued}' AND {job}.queue > waiting.queue
            ORDER BY {job}.queue LIMIT 1)
    FROM waiting WHERE waiting.queue IS NOT NULL
)
SELECT queue, (SELECT {job}.{column} FROM {job}
               WHERE {job}.status = '{queued}' AND {job}.queue = waiting.queue AND {job}.queued_at IS NOT NULL
               ORDER BY {job}.queued_at LIMIT 1)
FROM waiting WHERE queue IS NOT NULL LIMIT {most}
"""

_TASKS = """
WITH RECURSIVE known(task) AS (
    SELECT (SELECT task FROM {job} WHERE task > '' ORDER BY task LIMIT 1)
    UNION ALL
    SELECT (SELECT {job}.task FROM {job} WHERE {job}.task > known.task ORDER BY {job}.task LIMIT 1)
    FROM known WHERE known.task IS NOT NULL
)
SELECT task FROM known WHERE task IS NOT NULL LIMIT {most}
"""

# Each worker's queues are a list of texts.
_LISTENING = {
    "postgresql": "jsonb_array_elements_text({worker}.queues) AS queue(value)",
    "sqlite": "json_each({worker}.queues) AS queue",
}

_INSERT = """
INSERT INTO {job} ({columns}) SELECT {values} FROM {rows} {on_conflict}
"""

# The columns that a new job tells, with PostgreSQL's types. They go as JSON, which costs a fifth of what a
# parameter for each column of each row does. All others get their defaults in the statement.
_TOLD = {
    "id": "uuid",
    "task": "text",
    "description": "text",
    "engine": "text",
    "queue": "text",
    "at_front": "boolean",
    "args": "jsonb",
    "kwargs": "jsonb",
    "timeout_seconds": "integer",
    "idempotent": "boolean",
    "status": "text",
    "max_attempts": "integer",
    "retry_intervals": "jsonb",
    "retry_jitter": "double precision",
    "keep_result_seconds": "double precision",
    "owner_id": "text",
    "subject": "text",
    "tags": "jsonb",
    "meta": "jsonb",
    "unique_key": "text",
    "parent_id": "uuid",
    "scheduled_for": "timestamptz",
}
_JSON = {name for name, kind in _TOLD.items() if kind == "jsonb"}

MOST_BYTES = 10_000_000  # of new jobs in one statement; PostgreSQL takes 256 MB


def insert(jobs: Sequence[Job], alias: str, *, ignore_conflicts: bool = False) -> set[UUID]:
    """Insert new jobs in one statement and return the ids of those inserted. Queued ones are queued now.

    With `ignore_conflicts` one whose unique key is held is left out, without an error. Jobs of more than
    `MOST_BYTES` together take several statements.
    """
    columns = dict(zip(_TOLD, zip(*map(attrgetter(*_TOLD), jobs), strict=True), strict=True))
    own = [name for name, values in columns.items() if not _are_alike(name, values)]
    columns |= {name: values[:1] for name, values in columns.items() if name not in own}
    if connections[alias].vendor == "sqlite":
        # There JSON is text, which lookups find only as the ORM writes it.
        columns |= {name: tuple(map(json.dumps, columns[name])) for name in _JSON}
    encoder = json.JSONEncoder(default=_as_json(alias))
    alike = encoder.encode({name: values[0] for name, values in columns.items() if name not in own})
    rows = (dict(zip(own, row, strict=True)) for row in zip(*(columns[name] for name in own), strict=True))
    statement = _insert_statement(alias, ignore_conflicts, tuple(own))
    inserted = set()
    with connections[alias].cursor() as cursor:
        for document in _documents(map(encoder.encode, rows)):
            cursor.execute(statement, [document, alike])
            if ignore_conflicts:
                inserted |= {UUID(str(job_id)) for (job_id,) in cursor.fetchall()}
    for job in jobs:
        job._state.adding, job._state.db = False, alias
    return inserted if ignore_conflicts else {job.pk for job in jobs}


def now(alias: str) -> datetime:
    """What time it is by the database's clock."""
    connection = connections[alias]
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {NOW[connection.vendor]}".replace("%%", "%"))
        (told,) = cursor.fetchone()
    return _moment(told)


def waiting_since(alias: str, most: int) -> dict[str, datetime | None]:
    """The queues where jobs are queued, `most` of them, each with the time since when its first one is."""
    return {queue: _moment(told) if told else None for queue, told in _waiting("queued_at", alias, most)}


def waiting_engines(alias: str, most: int) -> dict[str, str]:
    """The same queues, each with the engine of its first job."""
    return dict(_waiting("engine", alias, most))


def tasks(alias: str, most: int) -> list[str]:
    """The names of the tasks of all jobs, the first `most` of them."""
    with connections[alias].cursor() as cursor:
        cursor.execute(_TASKS.format(job=connections[alias].ops.quote_name(Job._meta.db_table), most=most))
        return [name for (name,) in cursor.fetchall()]


def listening(alias: str) -> dict[str, tuple[int, int]]:
    """{queue: how many live workers take from it, how many jobs these run at a time}; without those that were
    told to take nothing more."""
    connection = connections[alias]
    worker = connection.ops.quote_name(Worker._meta.db_table)
    statement = (
        f"SELECT queue.value, COUNT(*), SUM({worker}.slots) "  # noqa: S608 - Names of our own.
        f"FROM {worker}, {_LISTENING[connection.vendor].format(worker=worker)} "
        f"WHERE {worker}.leased_until >= {NOW[connection.vendor]} AND {worker}.state <> %s "
        f'AND {worker}."order" = %s GROUP BY queue.value'
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, [Worker.State.QUIET.value, Worker.Order.NONE.value])
        return {queue: (workers, slots) for queue, workers, slots in cursor.fetchall()}


def claim(wanted: Sequence[tuple[UUID, int]], worker_id: UUID, claim_id: UUID) -> list[Job]:
    """Start those of the wanted (job id, attempt) that await just that attempt, and return them.

    A row that another transaction holds locked is passed over, as is one of a paused queue.
    """
    alias = router.db_for_write(Job)
    return list(Job.objects.using(alias).raw(*claiming(wanted, worker_id, claim_id, returning="*")))


def claiming(
    wanted: Sequence[tuple[UUID, int]], worker_id: UUID, claim_id: UUID, *, returning: str
) -> tuple[str, list[Any]]:
    """The statement that claims, which returns these columns, and its parameters."""
    alias = router.db_for_write(Job)
    statement = _fill(_CLAIM, alias, wanted, returning)
    ids = [database_uuid(job_id, alias) for job_id, _ in wanted]
    names = [database_uuid(each, alias) for each in (worker_id, claim_id)]
    return statement, [*names, *ids, *_flat(wanted, alias)]


def _waiting(column: str, alias: str, most: int) -> list[tuple[str, Any]]:
    table = connections[alias].ops.quote_name(Job._meta.db_table)
    with connections[alias].cursor() as cursor:
        cursor.execute(_WAITING.format(column=column, job=table, queued=QUEUED.value, most=most))
        return list(cursor.fetchall())


def _moment(told: Any) -> datetime:
    moment: datetime = datetime.fromisoformat(told) if isinstance(told, str) else told
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _documents(rows: Iterable[str]) -> Iterator[str]:
    """The rows as JSON arrays, each of at most `MOST_BYTES` or one row. They are ASCII."""
    together: list[str] = []
    size = 0
    for row in rows:
        if together and size + len(row) > MOST_BYTES:
            yield f"[{','.join(together)}]"
            together, size = [], 0
        together.append(row)
        size += len(row)
    yield f"[{','.join(together)}]"


def _are_alike(name: str, values: Sequence[Any]) -> bool:
    """True if this column has one value in all rows, which is then told once. Of JSON only what is empty."""
    if name in _JSON:
        return not any(values)
    return name != "id" and values.count(values[0]) == len(values)


@lru_cache(maxsize=1000)
def _insert_statement(alias: str, ignore_conflicts: bool, own: tuple[str, ...]) -> str:
    """Takes the rows' own columns as a JSON array of objects, then those that are alike as one object."""
    connection = connections[alias]
    quote, now = connection.ops.quote_name, NOW[connection.vendor]
    if connection.vendor == "postgresql":
        kinds = {name: f"{quote(name)} {kind}" for name, kind in _TOLD.items()}
        rows = (
            f"jsonb_to_recordset(%s::jsonb) AS new({', '.join(kinds[name] for name in own)}), "
            f"jsonb_to_record(%s::jsonb) AS alike({', '.join(kinds.values())})"
        )
        told = {name: f"{'new' if name in own else 'alike'}.{quote(name)}" for name in _TOLD}
        told["owner_id"] += f"::{Job._meta.get_field('owner').db_type(connection)}"
    else:
        # WHERE, so that ON is not taken for that of a join.
        rows = "json_each(%s) AS new, (SELECT %s AS value) AS alike WHERE true"
        told = {
            name: f"json_extract({'new' if name in own else 'alike'}.value, '$.{name}')" for name in _TOLD
        }
    told["queued_at"] = f"CASE WHEN {told['status']} = '{QUEUED.value}' THEN {now} END"
    fields = [field for field in Job._meta.concrete_fields if not _is_set_by_database(field)]
    return _INSERT.format(
        job=quote(Job._meta.db_table),
        columns=", ".join(quote(field.attname) for field in fields),
        values=", ".join(told.get(field.attname) or _literal(field.get_default()) for field in fields),
        rows=rows,
        on_conflict="ON CONFLICT DO NOTHING RETURNING id" if ignore_conflicts else "",
    )


def _is_set_by_database(field: "models.Field[Any, Any]") -> bool:
    return field.has_db_default() and field.attname != "queued_at"


def _as_json(alias: str) -> Callable[[Any], Any]:
    """What json.dumps() asks for values that are no JSON: ids and times."""

    def tell(value: Any) -> Any:
        if isinstance(value, UUID):
            return str(database_uuid(value, alias))
        if isinstance(value, datetime):
            return str(connections[alias].ops.adapt_datetimefield_value(value))
        raise TypeError(f"{value!r} cannot be told as JSON.")

    return tell


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, int | float):
        return str(value)
    return f"'{value}'" if isinstance(value, str) else f"'{json.dumps(value)}'"


def _fill(template: str, alias: str, wanted: Sequence[tuple[Any, ...]], returning: str) -> str:
    connection = connections[alias]
    quote = connection.ops.quote_name
    id_cast = "%s::uuid" if connection.vendor == "postgresql" else "%s"
    row = f"({', '.join([id_cast, *['%s'] * (len(wanted[0]) - 1)])})"
    return template.format(
        job=quote(Job._meta.db_table),
        queue=quote(Queue._meta.db_table),
        now=NOW[connection.vendor],
        lock="FOR UPDATE SKIP LOCKED" if connection.features.has_select_for_update_skip_locked else "",
        # Rows are to be found by these ids, not by an index of what is queued: a planner whose figures are
        # from a time when little was queued would read all of it. Hence also the expression for the status.
        ids=", ".join([id_cast] * len(wanted)),
        wanted=", ".join([row] * len(wanted)),
        queued=QUEUED.value,
        started=STARTED.value,
        returning=returning,
    )


def _flat(rows: Sequence[tuple[Any, ...]], alias: str) -> list[Any]:
    return [value for job_id, *numbers in rows for value in (database_uuid(job_id, alias), *numbers)]


def database_uuid(value: UUID, alias: str) -> Any:
    """As this database takes it."""
    return Job._meta.pk.get_db_prep_value(value, connections[alias], prepared=False)
