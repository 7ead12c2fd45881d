"""Rows for the pages, made by SQL: `python -m benchmarks.rows --jobs 1000000`.

Fills the migrated and empty database of the test project (DATABASE, DATABASE_NAME, PGHOST, …) with jobs of
the last 30 days, and an attempt for each that ended: 97 % finished, 2 % failed in 40 kinds, and the newest
1 % not ended. The same number gives the same rows, but for their times. PostgreSQL and SQLite.
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import django

DAYS = 30
BATCH = 100_000
OWNERS = 50

_TASKS = (
    *(f"documents.tasks.{name}" for name in ("process_file", "vectorize", "extract_graph", "summarise")),
    *(f"library.tasks.{name}" for name in ("index", "make_thumbnail", "notify", "import_feed", "clean_up")),
    "reports.tasks.export",
)
_QUEUES = ("file_processing", "vectorization", "kg_extraction", "mail")
_ERRORS = ("ValueError", "TimeoutError", "documents.errors.CannotRead", "KeyError", "OSError")
_JSON = ("args", "kwargs", "retry_intervals", "result", "stages", "stage_names", "tags", "meta")

_TASKS_HIT, _WORKERS_HIT = """'{"documents.tasks.vectorize": 12}'""", """'{"worker3": 12}'"""
_PERIODS = {
    "postgresql": {name: f"date_trunc('{name}', a.finished_at, 'UTC')" for name in ("minute", "hour", "day")},
    "sqlite": {
        "minute": "strftime('%Y-%m-%d %H:%M:00', a.finished_at)",
        "hour": "strftime('%Y-%m-%d %H:00:00', a.finished_at)",
        "day": "strftime('%Y-%m-%d 00:00:00', a.finished_at)",
    },
}

_KIND = {
    "postgresql": "lpad(to_hex(r % 5 * 8 + r / 5 % 8), 32, '0')",
    "sqlite": "printf('%032x', r % 5 * 8 + r / 5 % 8)",
}

# What differs from one database to the other: a table of numbers, an id, a time.
_NUMBERS = {
    "postgresql": "SELECT n::bigint FROM generate_series({first}, {last}) n",
    "sqlite": (
        "WITH RECURSIVE counted(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM counted WHERE n < {last}) "
        "SELECT n FROM counted"
    ),
}
_IDS = {
    "postgresql": (
        "(lpad(to_hex(ms), 12, '0') || '7' || lpad(to_hex(n % 4096), 3, '0') || '8' || "
        "lpad(to_hex(n), 15, '0'))::uuid"
    ),
    "sqlite": "printf('%012x7%03x8%015x', ms, n % 4096, n)",
}
_TIMES = {
    "postgresql": "to_timestamp(({}) / 1000.0)",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f', ({}) / 1000.0, 'unixepoch')",
}


def fill(jobs: int, told: Callable[[str], None] = print) -> None:
    """Make so many jobs and what belongs to them; the tables of jobs must be empty."""
    from django.contrib.auth import get_user_model
    from django.db import connection
    from django.db.models import Count

    from django_jobs.models import Attempt, Job
    from django_jobs.models.tallies import tally
    from django_jobs.states import TERMINAL

    if Job.objects.exists():
        raise ValueError("There are jobs already; rows are made in an empty database.")
    users = get_user_model().objects
    owners = [users.get_or_create(username=f"owner{number}")[0].pk for number in range(OWNERS)]
    for first in range(1, jobs + 1, BATCH):
        source = _source(connection.vendor, first, min(jobs, first + BATCH - 1), jobs)
        for model, columns in ((Job, _job(owners, connection.vendor)), (Attempt, _attempt())):
            inserted = {name: _written(connection.vendor, name, sql) for name, sql in columns.items()}
            ended = "WHERE status IN ('finished', 'failed')" if model is Attempt else ""
            with connection.cursor() as cursor:
                cursor.execute(
                    f'INSERT INTO "{model._meta.db_table}" ({", ".join(inserted)}) '
                    f"SELECT {', '.join(inserted.values())} FROM ({source}) made {ended}"
                )
        told(f"{min(jobs, first + BATCH - 1):,} jobs")
    _figures()
    ended_jobs = Job.objects.filter(status__in=sorted(TERMINAL)).order_by()
    rows = ended_jobs.values_list("queue", "status").annotate(Count("pk"))
    tally(Counter({(queue, status): count for queue, status, count in rows}))
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE" if connection.vendor == "postgresql" else "ANALYZE")


def _figures() -> None:
    """What folding would have made of these attempts."""
    from django.db import connection

    from django_jobs.models import Attempt, ErrorCount, ErrorGroup, Job, Rollup
    from django_jobs.models.figures import BOUNDS

    attempts, jobs = Attempt._meta.db_table, Job._meta.db_table
    source = f"FROM {attempts} a JOIN {jobs} j ON j.id = a.job_id"
    zeros = "0, " * len(BOUNDS)
    histogram = f"'[{zeros}' || count(*) || ']'"
    as_json = "CAST({} AS jsonb)" if connection.vendor == "postgresql" else "{}"
    with connection.cursor() as cursor:
        for period, moment in _PERIODS[connection.vendor].items():
            for queue, task in (("''", "''"), ("j.queue", "''"), ("''", "j.task")):
                cursor.execute(
                    f"INSERT INTO {Rollup._meta.db_table} (period, start, queue, task, finished, failed, "
                    "lost, retried, canceled, wait_seconds, run_seconds, waits, runs) "
                    f"SELECT '{period}', {moment}, {queue}, {task}, "
                    "sum(CASE WHEN a.outcome = 'finished' THEN 1 ELSE 0 END), "
                    "sum(CASE WHEN a.outcome = 'failed' THEN 1 ELSE 0 END), 0, 0, 0, count(*), count(*), "
                    f"{as_json.format(histogram)}, {as_json.format(histogram)} {source} GROUP BY 1, 2, 3, 4"
                )
        failed = f"FROM {jobs} j WHERE j.fingerprint <> '' GROUP BY fingerprint"
        cursor.execute(
            f"INSERT INTO {ErrorGroup._meta.db_table} (fingerprint, error_type, frame, message, state, "
            "count, first_seen, last_seen, tasks, workers) "
            "SELECT fingerprint, max(error_type), 'part19.py in read', max(error_message), 'open', "
            f"count(*), min(finished_at), max(finished_at), {as_json.format(_TASKS_HIT)}, "
            f"{as_json.format(_WORKERS_HIT)} {failed}"
        )
        hour = _PERIODS[connection.vendor]["hour"].replace("a.", "j.")
        cursor.execute(
            f"INSERT INTO {ErrorCount._meta.db_table} (group_id, start, count) "
            f"SELECT fingerprint, {hour}, count(*) FROM {jobs} j WHERE fingerprint <> '' GROUP BY 1, 2"
        )


def _source(vendor: str, first: int, last: int, jobs: int) -> str:
    """For each row its number, a number below 10,000 drawn from it, its state, its id and its time."""
    now = int(time.time() * 1000)
    step = DAYS * 86_400_000 / jobs
    active = (
        "CASE WHEN n % 20 = 0 THEN 'started' WHEN n % 20 < 4 THEN 'scheduled' "
        "WHEN n % 20 = 4 THEN 'deferred' ELSE 'queued' END"
    )
    state = f"CASE WHEN n > {jobs - jobs // 100} THEN {active} WHEN r < 200 THEN 'failed' ELSE 'finished' END"
    drawn = (
        f"SELECT n, (n * 7919 + (n / 13) * 104729 + 17) % 10000 AS r, "
        f"{now} - CAST(({jobs} - n) * {step:.6f} AS {_integer(vendor)}) AS ms "
        f"FROM ({_NUMBERS[vendor].format(first=first, last=last)}) numbers"
    )
    return f"SELECT n, r, ms, {_IDS[vendor]} AS id, {state} AS status FROM ({drawn}) drawn"


def _integer(vendor: str) -> str:
    return "bigint" if vendor == "postgresql" else "INTEGER"


def _job(owners: list[Any], vendor: str) -> dict[str, str]:
    return {
        "id": "id",
        "task": f"CASE WHEN n % 5000 = 7 THEN 'documents.tasks.rare' ELSE {_one_of(_TASKS, 'r / 7')} END",
        "description": "''",
        "engine": "'rq'",
        "queue": _one_of(_QUEUES, "r / 3"),
        "at_front": "FALSE",
        "args": "CASE WHEN n % 2 = 0 THEN '[' || (n % 50000) || ']' ELSE '[]' END",
        "kwargs": (
            """CASE WHEN n % 2 = 0 THEN '{"force": true, "lang": "de"}' """
            """ELSE '{"file_id": ' || (n % 50000) || ', "user": {"id": ' || (n % 100) || """
            """', "name": "user' || (n % 100) || '"}, "path": "/srv/files/' || n || '.pdf"}' END"""
        ),
        "idempotent": "FALSE",
        "status": "status",
        "attempt": "1",
        "max_attempts": "CASE WHEN r % 3 = 0 THEN 4 ELSE 1 END",
        "retry_intervals": "'[]'",
        "retry_jitter": "0",
        "losses": "0",
        "delivery": "0",
        "delivered_epoch": "''",
        "observed_id": "''",
        "result": """CASE WHEN status = 'finished' THEN '{"chunks": ' || (n % 300) || '}' END""",
        "result_error": "''",
        **_error(),
        "fingerprint": "CASE WHEN status = 'failed' THEN " + _KIND[vendor] + " ELSE '' END",
        "progress": "CASE WHEN status = 'finished' THEN 100 ELSE 0 END",
        "progress_message": "''",
        "live_log": "''",
        "stage": "''",
        "stages": "'{}'",
        "stage_names": "'[]'",
        "owner_id": f"CASE WHEN n % 5 = 0 THEN {_one_of(owners, 'r / 11')} END",
        "subject": "CASE WHEN n % 4 = 0 THEN '' ELSE 'file:' || (n % 50000) END",
        "tags": """CASE WHEN n % 10 = 0 THEN '["import", "batch' || (n / 10000) || '"]' ELSE '[]' END""",
        "meta": "'{}'",
        "created_at": "TIME ms",
        "queued_at": "TIME ms",
        "scheduled_for": "CASE WHEN status = 'scheduled' THEN TIME ms + 86400000 END",
        "started_at": "CASE WHEN status IN ('started', 'finished', 'failed') THEN TIME ms + r END",
        "finished_at": "CASE WHEN status IN ('finished', 'failed') THEN TIME ms + 3 * r END",
    }


def _attempt() -> dict[str, str]:
    return {
        "job_id": "id",
        "number": "1",
        "claim_id": "id",
        "worker_name": "'worker' || (r % 20)",
        "started_at": "TIME ms + r",
        "finished_at": "TIME ms + 3 * r",
        "outcome": "status",
        **_error(),
        "log": "''",
    }


def _error() -> dict[str, str]:
    """40 kinds of errors: 5 types, 8 messages, each with the number of a file in it."""
    kind = f"CASE WHEN status = 'failed' THEN {_one_of(_ERRORS, 'r')} ELSE '' END"
    message = (
        "CASE WHEN status = 'failed' "
        "THEN 'part ' || (r / 5 % 8) || ' of file ' || n || ' cannot be read' ELSE '' END"
    )
    frames = "".join(f'\n  File "/srv/app/documents/part{number}.py", line 42' for number in range(20))
    traceback = f"CASE WHEN status = 'failed' THEN 'Traceback (most recent call last):{frames}' ELSE '' END"
    return {"error_type": kind, "error_message": message, "traceback": traceback}


def _one_of(values: Any, drawn: str) -> str:
    last = len(values) - 1
    cases = " ".join(f"WHEN {number} THEN {_literal(value)}" for number, value in enumerate(values[:-1]))
    return f"CASE ({drawn}) % {last + 1} {cases} ELSE {_literal(values[-1])} END"


def _literal(value: Any) -> str:
    return str(value) if isinstance(value, int) else f"'{value}'"


def _written(vendor: str, name: str, sql: str) -> str:
    if "TIME " in sql:
        before, _, rest = sql.partition("TIME ")
        moment, _, after = rest.partition(" END")
        end = " END" if rest.endswith(" END") else after
        return f"{before}{_TIMES[vendor].format(moment)}{end}"
    return f"CAST({sql} AS jsonb)" if name in _JSON and vendor == "postgresql" else sql


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rows", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000, help="how many; defaults to 1,000,000")
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testproject.settings")
    django.setup()
    began = time.monotonic()
    try:
        fill(options.jobs)
    except ValueError as error:
        sys.exit(str(error))
    print(f"{options.jobs:,} jobs in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
