"""Claims and reports of many attempts at once: the SQL that a worker with several children lives on.

What is told of a job passes through as JSON text: the process in the middle neither makes a model of a row
nor reads a result.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any
from uuid import UUID

from django.db import connections, models, router, transaction
from django.db.models import F
from django.db.models.base import ModelState

from . import sql
from .models import Attempt, FigureDelta, Job, Worker
from .models.tallies import Tally, tally
from .outcomes import WENT_WELL
from .states import FAILED, FINISHED, QUEUED, SCHEDULED, STARTED

_FRESH: dict[str, Any] = {"progress": 0, "progress_message": "", "stage": "", "live_log": ""}
_FRESH_JSON: dict[str, Any] = {"stages": dict, "stage_names": list}
"""What a claim sets, so it need not be told."""
_ENDS = {"result", "result_error", "error_type", "error_message", "traceback"}
"""What an attempt has of earlier ones, which may be large; read from the database when a task asks for it."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """An attempt that a worker holds."""

    job_id: UUID
    attempt: int
    task: str
    queue: str
    row: str
    """The job's columns as a JSON array; `job_of` makes a job of it."""


@dataclass(frozen=True, slots=True)
class Report:
    """How an attempt ended, as its process tells."""

    job_id: UUID
    queue: str
    outcome: str
    """An `Attempt.Outcome`."""
    status: str
    """The status that comes next; empty for what cannot be recorded together with others."""
    ran_seconds: float
    document: str
    """All of it, as `reports.document` makes it, in JSON."""
    is_awaited: bool = False
    """True if its process waits to hear that this is recorded."""


def claim(wanted: Sequence[tuple[UUID, int]], worker_id: UUID, claim_id: UUID) -> list[Claimed]:
    """Start those of the wanted (job id, attempt) that await just that attempt. See `sql.claim`."""
    alias = router.db_for_write(Job)
    with connections[alias].cursor() as cursor:
        cursor.execute(*sql.claiming(wanted, worker_id, claim_id, returning=_returning(alias)))
        rows = cursor.fetchall()
    as_id = _same if connections[alias].vendor == "postgresql" else UUID
    return [Claimed(as_id(job_id), *told) for job_id, *told in rows]


def job_of(row: str) -> Job:
    """The job that `Claimed.row` tells of, as it was claimed."""
    names, readers = _columns()
    values = [read(value) if read else value for read, value in zip(readers, json.loads(row), strict=True)]
    job = Job.__new__(Job)  # As Django itself does when it unpickles a row.
    job._state = ModelState()
    job._state.adding, job._state.db = False, router.db_for_write(Job)
    fresh = {name: make() for name, make in _FRESH_JSON.items()}
    vars(job).update(zip(names, values, strict=True), **_FRESH, **fresh)
    return job


def record(reports: Sequence[Report], worker_id: UUID) -> set[UUID]:
    """Write the ends of these attempts in one transaction, and what comes next for their jobs.

    Returns the ids of the jobs for which that is done. The others are not held any more, were asked to
    cancel, or are locked by another transaction; nothing is written of them.
    """
    alias = router.db_for_write(Job)
    documents = f"[{','.join(report.document for report in reports)}]"
    if connections[alias].vendor == "postgresql":
        # One statement, and so a transaction: each further trip to the server would cost as much as a job.
        with connections[alias].cursor() as cursor:
            ids = [report.job_id for report in reports]
            cursor.execute(_statement(alias, _RECORD_ON_POSTGRESQL), [documents, ids, worker_id])
            return {job_id for (job_id,) in cursor.fetchall()}
    with transaction.atomic(using=alias):
        recorded = _record_on_sqlite(documents, alias)
        ended = [report for report in reports if report.job_id in recorded]
        tally(Counter((report.queue, report.status) for report in ended))
        good = sum(report.outcome in WENT_WELL for report in ended)
        Worker.objects.filter(pk=worker_id).update(
            finished_count=F("finished_count") + good,
            failed_count=F("failed_count") + len(ended) - good,
            busy_seconds=F("busy_seconds") + sum(report.ran_seconds for report in ended),
        )
    return recorded


def record_progress(documents: Sequence[str]) -> set[UUID]:
    """Write how far these attempts are and what they have logged, each a `reports.progress_document` in JSON,
    if they still run and no other transaction holds their rows; of which jobs. Of two of one job either may
    count."""
    alias = router.db_for_write(Job)
    as_id = _same if connections[alias].vendor == "postgresql" else UUID
    with connections[alias].cursor() as cursor:
        cursor.execute(_statement(alias, _PROGRESS), [f"[{','.join(documents)}]"])
        return {as_id(job_id) for (job_id,) in cursor.fetchall()}


def _record_on_sqlite(documents: str, alias: str) -> set[UUID]:
    with connections[alias].cursor() as cursor:
        cursor.execute(_statement(alias, _END_ON_SQLITE), [documents])
        ended = [job_id for (job_id,) in cursor.fetchall()]
        if ended:
            for template in (_STORE_ON_SQLITE, _FIGURE_ON_SQLITE):
                cursor.execute(_statement(alias, template), [documents, json.dumps(ended)])
        return {UUID(job_id) for job_id in ended}


_TOLD = {
    "job": "uuid",
    "attempt": "integer",
    "claim": "uuid",
    "worker_name": "text",
    "started_at": "timestamptz",
    "outcome": "text",
    "error_type": "text",
    "error_message": "text",
    "traceback": "text",
    "log": "text",
    "progress": "integer",
    "progress_message": "text",
    "stage": "text",
    "stages": "text",
    "stage_names": "text",
    "result": "text",
    "result_error": "text",
    "status": "text",
    "wait_seconds": "double precision",
    "keep_seconds": "double precision",
    "ran_seconds": "double precision",
    "queue": "text",
    "task": "text",
    "fingerprint": "text",
    "waited_seconds": "double precision",
    "wait_bucket": "smallint",
    "run_bucket": "smallint",
}
"""What of a document goes into rows, with PostgreSQL's types. JSON is told as text, as SQLite stores it."""

_SET = """
    status = told.status,
    finished_at = CASE WHEN {is_over} THEN {now} ELSE {job}.finished_at END,
    result = CASE WHEN {finished} THEN told.result{jsonb} ELSE {job}.result END,
    result_error = CASE WHEN {finished} THEN told.result_error ELSE {job}.result_error END,
    result_expires_at = CASE WHEN {finished} AND told.keep_seconds IS NOT NULL THEN {expires}
                        ELSE {job}.result_expires_at END,
    error_type = told.error_type, error_message = told.error_message, traceback = told.traceback,
    fingerprint = told.fingerprint,
    progress = told.progress, progress_message = told.progress_message,
    stage = told.stage, stages = told.stages{jsonb}, stage_names = told.stage_names{jsonb}, live_log = '',
    elsewhere_until = NULL,
    attempt = CASE WHEN {is_over} THEN {job}.attempt ELSE {job}.attempt + 1 END,
    delivery = CASE WHEN {is_over} THEN {job}.delivery ELSE 0 END,
    delivered_at = CASE WHEN {is_over} THEN {job}.delivered_at END,
    delivered_epoch = CASE WHEN {is_over} THEN {job}.delivered_epoch ELSE '' END,
    worker_id = CASE WHEN {is_over} THEN {job}.worker_id END,
    claim_id = CASE WHEN {is_over} THEN {job}.claim_id END,
    started_at = CASE WHEN {is_over} THEN {job}.started_at END,
    queued_at = CASE WHEN told.status = '{queued}' THEN {now} ELSE {job}.queued_at END,
    scheduled_for = CASE WHEN told.status = '{scheduled}' THEN {due} WHEN told.status = '{queued}' THEN NULL
                    ELSE {job}.scheduled_for END
"""
_IS_HELD = """
    {job}.id = told.job AND {job}.attempt = told.attempt AND {job}.claim_id = told.claim
    AND {job}.status || '' = '{started}' AND {job}.elsewhere_until IS NULL
    AND ({finished} OR {job}.cancel_requested_at IS NULL)
"""
_ATTEMPT = """
INSERT INTO {attempt} (job_id, number, claim_id, worker_name, started_at, finished_at, outcome,
                       error_type, error_message, traceback, log)
SELECT told.job, told.attempt, told.claim, told.worker_name, told.started_at, {now}, told.outcome,
       told.error_type, told.error_message, told.traceback, told.log
"""
_FIGURES = """
INSERT INTO {figures} (at, queue, task, worker_name, outcome, fingerprint, sample, wait_bucket, run_bucket,
                       amount, wait_seconds, run_seconds)
SELECT {now}, queue, task, worker_name, outcome, fingerprint,
       CASE WHEN fingerprint <> '' THEN {any_job} END, wait_bucket, run_bucket,
       count(*), coalesce(sum(waited_seconds), 0), sum(ran_seconds)
"""
_ALIKE = "GROUP BY queue, task, worker_name, outcome, fingerprint, wait_bucket, run_bucket"

_PROGRESS = """
WITH told AS MATERIALIZED ({told}){free}
UPDATE {job} SET progress = told.progress, progress_message = told.progress_message,
       stage = told.stage, stages = told.stages{jsonb}, stage_names = told.stage_names{jsonb},
       live_log = told.log
FROM told
WHERE {job}.id = told.job AND {job}.attempt = told.attempt AND {job}.claim_id = told.claim
      AND {job}.status || '' = '{started}'{is_free}
RETURNING {job}.id
"""
_FREE = """,
free AS MATERIALIZED (
    SELECT id FROM {job} WHERE id IN (SELECT job FROM told) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
)
"""

_WELL = ", ".join(f"'{outcome}'" for outcome in sorted(WENT_WELL))

# The rows are to be found by their ids, not by an index of what is started, most of whose entries are of rows
# that have ended since: hence the expression for the status.
_RECORD_ON_POSTGRESQL = f"""
WITH told AS MATERIALIZED ({{told}}),
free AS (
    SELECT id FROM {{job}} WHERE id = ANY(%s::uuid[]) ORDER BY id FOR UPDATE SKIP LOCKED
),
ended AS (
    UPDATE {{job}} SET {_SET} FROM told
    WHERE {_IS_HELD} AND {{job}}.id IN (SELECT id FROM free)
    RETURNING {{job}}.id, {{job}}.queue AS ended_on, {{job}}.status AS became
),
stored AS ({_ATTEMPT} FROM told JOIN ended ON ended.id = told.job),
counted AS (
    INSERT INTO {{tally}} (queue, status, amount)
    SELECT ended_on, became, count(*) FROM ended
    WHERE became IN ('{FINISHED.value}', '{FAILED.value}') GROUP BY ended_on, became
),
figured AS ({_FIGURES} FROM told JOIN ended ON ended.id = told.job {_ALIKE}),
worked AS (
    UPDATE {{worker}} SET finished_count = finished_count + sums.good,
           failed_count = failed_count + sums.bad, busy_seconds = busy_seconds + sums.seconds
    FROM (
        SELECT count(*) FILTER (WHERE outcome IN ({_WELL})) AS good,
               count(*) FILTER (WHERE outcome NOT IN ({_WELL})) AS bad,
               coalesce(sum(ran_seconds), 0) AS seconds
        FROM told JOIN ended ON ended.id = told.job
    ) AS sums
    WHERE {{worker}}.id = %s
)
SELECT id FROM ended
"""  # noqa: S608 - Our own names and columns alone.
_FIGURE_ON_SQLITE = f"""
WITH told AS MATERIALIZED ({{told}})
{_FIGURES} FROM told WHERE told.job IN (SELECT value FROM json_each(%s)) {_ALIKE}
"""  # noqa: S608
# Materialized, so that each document is read once.
_END_ON_SQLITE = f"""
WITH told AS MATERIALIZED ({{told}})
UPDATE {{job}} SET {_SET} FROM told WHERE {_IS_HELD} RETURNING {{job}}.id
"""  # noqa: S608
_STORE_ON_SQLITE = f"""
WITH told AS MATERIALIZED ({{told}})
{_ATTEMPT} FROM told WHERE told.job IN (SELECT value FROM json_each(%s))
"""  # noqa: S608


@cache
def _statement(alias: str, template: str) -> str:
    connection = connections[alias]
    quote, now = connection.ops.quote_name, sql.NOW[connection.vendor]
    free = is_free = ""
    if connection.vendor == "postgresql":
        free = _FREE.format(job=quote(Job._meta.db_table))
        is_free = f" AND {quote(Job._meta.db_table)}.id IN (SELECT id FROM free)"  # noqa: S608
        kinds = ", ".join(f"{name} {kind}" for name, kind in _TOLD.items())
        told, jsonb = f"SELECT * FROM jsonb_to_recordset(%s::jsonb) AS documents({kinds})", "::jsonb"  # noqa: S608
        after = "{now} + told.{seconds} * interval '1 second'"
    else:
        columns = ", ".join(f"json_extract(value, '$.{name}') AS {name}" for name in _TOLD)
        told, jsonb = f"SELECT {columns} FROM json_each(%s)", ""  # noqa: S608
        after = "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', told.{seconds} || ' seconds')"
    return template.format(
        job=quote(Job._meta.db_table),
        attempt=quote(Attempt._meta.db_table),
        figures=quote(FigureDelta._meta.db_table),
        any_job="max(told.job::text)::uuid" if connection.vendor == "postgresql" else "max(told.job)",
        tally=quote(Tally._meta.db_table),
        worker=quote(Worker._meta.db_table),
        told=told,
        free=free,
        is_free=is_free,
        jsonb=jsonb,
        now=now,
        due=after.format(now=now, seconds="wait_seconds"),
        expires=after.format(now=now, seconds="keep_seconds"),
        is_over=f"told.status IN ('{FINISHED.value}', '{FAILED.value}')",
        finished=f"told.status = '{FINISHED.value}'",
        queued=QUEUED.value,
        scheduled=SCHEDULED.value,
        started=STARTED.value,
    )


@cache
def _returning(alias: str) -> str:
    """The id, the attempt, the task, the queue, and all columns that are told, as a JSON array."""
    connection = connections[alias]
    quote, is_postgresql = connection.ops.quote_name, connection.vendor == "postgresql"
    columns = []
    for field in _told_fields():
        column = quote(str(field.column))
        # JSON as text, as SQLite has it, so that a process that only passes it on need not read it.
        as_text = is_postgresql and isinstance(field, models.JSONField)
        columns.append(f"{column}::text" if as_text else column)
    array = f"{'json_build_array' if is_postgresql else 'json_array'}({', '.join(columns)})"
    if is_postgresql:
        array += "::text"
    return f"id, attempt, task, queue, {array}"


@cache
def _columns() -> tuple[list[str], list[Callable[[Any], Any] | None]]:
    """The names of the columns that are told, and what makes a value of what JSON has for it."""
    fields = _told_fields()
    return [field.attname for field in fields], [_reader(field) for field in fields]


def _told_fields() -> "list[models.Field[Any, Any]]":
    left_out = _ENDS | _FRESH.keys() | _FRESH_JSON.keys()
    return [field for field in Job._meta.concrete_fields if field.attname not in left_out]


def _reader(field: "models.Field[Any, Any]") -> Callable[[Any], Any] | None:
    while isinstance(field, models.ForeignKey):
        field = field.target_field
    if isinstance(field, models.UUIDField):
        return lambda text: text and UUID(text)
    if isinstance(field, models.DateTimeField):
        return _read_time
    if isinstance(field, models.JSONField):
        return _read_json
    if isinstance(field, models.BooleanField):
        return bool  # SQLite tells 0 or 1.
    return None


def _read_json(text: str | None) -> Any:
    if text == "[]":  # Most are empty.
        return []
    if text == "{}":
        return {}
    return None if text is None else json.loads(text)


def _same(value: Any) -> Any:
    return value


def _read_time(text: str | None) -> datetime | None:
    if text is None:
        return None
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
