"""How long the admin's pages take, with how many queries: `python -m benchmarks.pages --jobs 10,1000000`.

On a database of its own: SQLite, or PostgreSQL with `python -m tests.postgres python -m benchmarks.pages`.
Times are of the server alone, in this process; nothing is asserted but that each page answers.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(tempfile.mkdtemp(prefix="django-jobs-pages-"))
os.environ["PROJECT_DATA"] = str(FOLDER)  # Where the settings look for the embedded server.
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testproject.settings")
os.environ.setdefault("DATABASE_NAME", str(FOLDER / "db.sqlite3"))

import django  # noqa: E402

django.setup()

from django.conf import settings  # noqa: E402
from django.contrib.admin.utils import quote  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402
from django.test import Client  # noqa: E402
from django.test.utils import CaptureQueriesContext  # noqa: E402
from django.urls import reverse  # noqa: E402
from redis.connection import AbstractConnection  # noqa: E402

from benchmarks import rows  # noqa: E402
from django_jobs import embedded, verdict  # noqa: E402
from django_jobs.models import ErrorGroup, Job  # noqa: E402
from django_jobs.states import FAILED  # noqa: E402

ROUNDS = 30
SIZES = (10, 100_000, 1_000_000)


@dataclass(slots=True)
class Measured:
    """One page at one size."""

    milliseconds: list[float] = field(default_factory=list)
    busy_milliseconds: list[float] = field(default_factory=list)
    """What this process took of a core."""
    queries: int = 0
    trips: int = 0
    """To Redis."""

    def __str__(self) -> str:
        p50, p95 = statistics.median(self.milliseconds), sorted(self.milliseconds)[int(0.95 * ROUNDS)]
        busy = statistics.median(self.busy_milliseconds)
        return f"{p50:.0f} / {p95:.0f} / {busy:.0f} ms, {self.queries} q, {self.trips} t"


def pages() -> dict[str, str]:
    """The address of each page, by what it is."""
    failed = Job.objects.failed().first() or Job.objects.first()
    group = ErrorGroup.objects.first()
    attempts = reverse("admin:django_jobs_attempt_changelist")
    jobs = reverse("admin:django_jobs_job_changelist")
    told = {
        "dashboard, an hour": reverse("admin:django_jobs_dashboard_changelist"),
        "dashboard, 7 days": f"{reverse('admin:django_jobs_dashboard_changelist')}?range=7d",
        "the strip alone": reverse("admin:django_jobs_strip"),
        "jobs": jobs,
        "jobs, failed": f"{jobs}?q=status:{FAILED}",
        "jobs, of a task": f"{jobs}?q=task:documents.tasks.vectorize",
        "jobs, failed of a queue": f"{jobs}?q=status:failed+queue:vectorization",
        "jobs, by subject": f"{jobs}?q=subject:file:42",
        "jobs, by argument": f"{jobs}?q=args.file_id:42",
        "jobs, failed by argument": f"{jobs}?q=status:failed+args.file_id:42",
        "jobs, by error": f"{jobs}?q=error:Timeout",
        "a job": reverse("admin:django_jobs_job_change", args=[failed.pk]) if failed else "",
        "attempts": attempts,
        "attempts, of a job": f"{attempts}?job__id__exact={failed.pk}" if failed else "",
        "errors": reverse("admin:django_jobs_errorgroup_changelist"),
        "a group of errors": reverse("admin:django_jobs_errorgroup_change", args=[group.pk]) if group else "",
        "queues": reverse("admin:django_jobs_queues"),
        "a queue": reverse("admin:django_jobs_queue", args=[quote(failed.queue)]) if failed else "",
        "workers": reverse("admin:django_jobs_workers"),
        "operations": reverse("admin:django_jobs_operation_changelist"),
        "enqueue": reverse("admin:django_jobs_enqueue"),
        "renewed: dashboard": reverse("admin:django_jobs_dashboard_region"),
        "renewed: jobs": reverse("admin:django_jobs_job_rows"),
        "renewed: a job's head": reverse("admin:django_jobs_job_head", args=[failed.pk]) if failed else "",
        "renewed: a job's past": reverse("admin:django_jobs_job_past", args=[failed.pk]) if failed else "",
    }
    return {name: url for name, url in told.items() if url}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages", description=__doc__)
    parser.add_argument("--jobs", default=",".join(map(str, SIZES)), help="how many, smallest first")
    sizes = [int(size) for size in parser.parse_args(arguments).jobs.split(",")]
    settings.DEBUG = False
    embedded.start(FOLDER / "valkey")
    try:
        return _measure_all(sizes)
    finally:
        embedded.stop(FOLDER / "valkey")


def _measure_all(sizes: Sequence[int]) -> int:
    call_command("migrate", verbosity=0)
    measured: dict[str, dict[int, Measured]] = {}
    for size in sizes:
        call_command("flush", interactive=False, verbosity=0)
        user = User.objects.create_superuser("operator", password="operator")
        rows.fill(size, lambda told: None)
        client = Client()
        client.force_login(user)
        for name, url in pages().items():
            measured.setdefault(name, {})[size] = measure(client, url)
            print(f"{size:>9,} {name:28} {measured[name][size]}", flush=True)
    print(_table(measured, sizes))
    return 0


def measure(client: Client, url: str) -> Measured:
    told = Measured()
    client.get(url)  # The first one compiles templates.
    with CaptureQueriesContext(connection) as queries, _counting_trips() as trips:
        _get(client, url)
    told.queries, told.trips = len(queries), trips()
    for _ in range(ROUNDS):
        began, busy = time.perf_counter(), time.process_time()
        _get(client, url)
        told.milliseconds.append(1000 * (time.perf_counter() - began))
        told.busy_milliseconds.append(1000 * (time.process_time() - busy))
    return told


def _get(client: Client, url: str) -> None:
    verdict._kept = None  # As for somebody who is alone: the strip is looked for anew.
    response = client.get(url)
    if response.status_code != 200:
        raise RuntimeError(f"{url} answers {response.status_code}.")


class _counting_trips:  # Used as a function.
    """Counts what is sent to Redis within the block."""

    def __enter__(self) -> Callable[[], int]:
        self._send, count = AbstractConnection.send_packed_command, 0

        def send(connection: AbstractConnection, *args: object, **kwargs: object) -> None:
            nonlocal count
            count += 1
            self._send(connection, *args, **kwargs)  # type: ignore[arg-type]

        AbstractConnection.send_packed_command = send  # type: ignore[method-assign,assignment]
        return lambda: count

    def __exit__(self, *error: object) -> None:
        AbstractConnection.send_packed_command = self._send  # type: ignore[method-assign]


def _table(measured: dict[str, dict[int, Measured]], sizes: Sequence[int]) -> str:
    def lines() -> Iterator[str]:
        yield f"\n{connection.vendor}; p50 / p95 / of a core in ms, queries (q), trips to Redis (t)\n"
        yield f"| | {' | '.join(f'{size:,} jobs' for size in sizes)} |"
        yield f"|---|{'---|' * len(sizes)}"
        for name, by_size in measured.items():
            yield f"| {name} | {' | '.join(str(by_size.get(size, '-')) for size in sizes)} |"

    return "\n".join(lines())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
