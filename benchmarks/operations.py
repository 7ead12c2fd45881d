"""How long an operation takes, and what it does to others: `python -m benchmarks.operations --jobs 100000`.

Requeues so many failed jobs in the migrated and empty database of the test project (DATABASE, DATABASE_NAME,
PGHOST, …), as the maintainer does, while another process writes a job every 20 ms. Needs the embedded server.
"""

import argparse
import os
import select
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence

import django

EVERY_SECONDS = 0.02
MOST_SECONDS = 1_800


def measure(verb: str, search: str) -> float:
    """Seconds from the start of an operation to its end, with a maintainer in this process."""
    from django.db import connections

    from django_jobs import maintainer, operations
    from django_jobs.models import Operation

    stopping = threading.Event()
    began = time.monotonic()
    operation = operations.start(verb, search)
    thread = threading.Thread(target=maintainer.run, args=[stopping])
    thread.start()
    row = operation
    while row.finished_at is None and time.monotonic() - began < MOST_SECONDS:
        time.sleep(0.2)
        row = Operation.objects.get(pk=operation.pk)
    seconds = time.monotonic() - began
    stopping.set()
    thread.join()
    connections.close_all()
    print(f"{verb}: {row.state}, {row.done:,} jobs in {seconds:.1f} s, {row.done / seconds:,.0f} a second")
    print(f"  refused: {row.refused or 'none'}; matched: {row.matched}")
    return seconds


def write_jobs(until: Callable[[], bool]) -> list[float]:
    """How long each INSERT of a job took, in seconds, with a commit."""
    from django_jobs.models import Job

    took = []
    while not until():
        began = time.monotonic()
        Job.objects.create(task="benchmarks.noop", queue="vectorization")
        took.append(time.monotonic() - began)
        time.sleep(EVERY_SECONDS)
    return took


def _tell(what: str, took: Sequence[float]) -> None:
    if len(took) > 1:
        percentiles = statistics.quantiles(took, n=100)
        p50, p95, p99, most = (1000 * each for each in (*(percentiles[at] for at in (49, 94, 98)), max(took)))
        print(
            f"  a job is written {what} in p50 {p50:.1f}, p95 {p95:.1f}, p99 {p99:.1f}, at most {most:.1f} ms"
        )


def _write_beside(stop_pipe: int) -> None:
    """In the child: write jobs until the parent closes its end, then tell."""
    _tell("meanwhile", write_jobs(lambda: bool(select.select([stop_pipe], [], [], 0)[0])))
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    jobs = parser.parse_args().jobs
    os.environ.setdefault("PROJECT_DATA", tempfile.mkdtemp(prefix="django-jobs-operations-"))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testproject.settings")
    django.setup()

    from django.conf import settings
    from django.core.management import call_command
    from django.db import connection, connections

    from django_jobs import embedded
    from django_jobs.models import Job

    call_command("migrate", verbosity=0)
    server = embedded.start(os.path.join(os.environ["PROJECT_DATA"], "valkey"))
    settings.DEBUG = False
    failed = {"task": "benchmarks.noop", "queue": "file_processing", "status": "failed", "args": [1]}
    for first in range(0, jobs, 5_000):
        Job.objects.bulk_create(
            Job(**failed, traceback="x" * 2_000, error_type="ValueError")
            for _ in range(first, min(jobs, first + 5_000))
        )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    until = time.monotonic() + 3
    _tell("before", write_jobs(lambda: time.monotonic() > until))
    try:
        for verb, search in (
            ("requeue", "queue:file_processing status:failed"),
            ("cancel", "queue:file_processing status:queued"),
            ("delete", "queue:file_processing status:canceled"),
        ):
            read, write = os.pipe()
            connections.close_all()
            child = os.fork()
            if child == 0:
                os.close(write)
                _write_beside(read)
            measure(verb, search)
            os.close(read)
            os.close(write)
            os.waitpid(child, 0)
    finally:
        embedded.stop(server.directory)


if __name__ == "__main__":
    main()
