"""What the service layer costs, as ratios measured in one run: `python -m benchmarks.service`.

On a database of its own: SQLite, or PostgreSQL with `python -m tests.postgres python -m benchmarks.service`.
Nothing is asserted; times on shared machines are noise, ratios of interleaved rounds less so.
"""

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

FOLDER = Path(tempfile.mkdtemp(prefix="django-jobs-benchmark-"))
os.environ.setdefault("PROJECT_DATA", str(FOLDER))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

import django  # noqa: E402

django.setup()

from django.db import connection, transaction  # noqa: E402
from django.test.utils import setup_databases, teardown_databases  # noqa: E402

from django_jobs import embedded, enqueue_many, executor, maintainer, progress  # noqa: E402
from django_jobs.engines import get_engine  # noqa: E402
from django_jobs.models import Job  # noqa: E402
from django_jobs.processes import disconnect_databases  # noqa: E402
from tests import tasks  # noqa: E402
from tests.conftest import make_worker  # noqa: E402

ROUNDS = 15
JOBS_PER_ROUND = 100
BULK = int(os.environ.get("BENCHMARK_BULK", 100_000))
PROGRESS_CALLS = 10_000


def main() -> None:
    print(f"database: {connection.vendor}")
    for name, measure in (
        ("one enqueue / Job.objects.create() of the same row", one_enqueue),
        ("the same inside one transaction of 100", one_enqueue_in_a_transaction),
        (f"enqueue_many of {BULK:,} jobs until the last is pushed, jobs a second", bulk),
        (f"what telling progress {PROGRESS_CALLS:,} times costs a job of a second", many_progress),
    ):
        print(f"{name}: {measure()}", flush=True)


def one_enqueue() -> str:
    return _ratio(_enqueue, _create)


def one_enqueue_in_a_transaction() -> str:
    def within(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            with transaction.atomic():
                work()

        return run

    return _ratio(within(_enqueue), within(_create))


def bulk() -> str:
    Job.objects.all().delete()
    stopping = threading.Event()
    disconnect_databases()
    began = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        try:
            maintainer.run(stopping)
        finally:
            os._exit(0)
    try:
        enqueue_many(tasks.add.call(number) for number in range(BULK))
        written = time.perf_counter()
        epoch = get_engine("rq").epoch("file_processing")
        while Job.objects.undelivered(epoch).exists():
            time.sleep(0.05)
        ended = time.perf_counter()
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    seconds = ended - began
    return f"{BULK / seconds:,.0f} (written after {written - began:.1f} s, pushed after {seconds:.1f} s)"


def many_progress() -> str:
    def busy(calls: int) -> float:
        job = tasks.add.enqueue(1)
        claimed = executor.claim(job.pk, 1, worker=make_worker(), claim_id=job.pk)
        reporter = executor.Reporter(claimed or job)
        cpu = time.process_time()
        with reporter.recording():
            began = time.perf_counter()
            for number in range(PROGRESS_CALLS):
                if number < calls:
                    progress.update(number % 100, message="working", stage="counting")
            elapsed = time.perf_counter() - began
            time.sleep(max(0, 1 - elapsed))
        return time.process_time() - cpu

    silent = statistics.median(busy(0) for _ in range(5))
    telling = statistics.median(busy(PROGRESS_CALLS) for _ in range(5))
    return f"{100 * (telling - silent):.1f} % of the second"


def _enqueue() -> None:
    for number in range(JOBS_PER_ROUND):
        tasks.add.enqueue(number, right=2)


def _create() -> None:
    for number in range(JOBS_PER_ROUND):
        Job.objects.create(
            task="tests.tasks.add", queue="file_processing", args=[number], kwargs={"right": 2}
        )


def _ratio(ours: Callable[[], None], bare: Callable[[], None]) -> str:
    ratios, times = [], []
    ours(), bare()
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        bare()
        between = time.perf_counter()
        ours()
        ended = time.perf_counter()
        ratios.append((ended - between) / (between - begun))
        times.append((between - begun) / JOBS_PER_ROUND)
    return f"{statistics.median(ratios):.2f} (bare: {1e6 * statistics.median(times):.0f} µs)"


if __name__ == "__main__":
    server = embedded.start(FOLDER / "valkey")
    from django.conf import settings

    settings.RQ_QUEUES = {name: {**queue, "URL": server.url} for name, queue in settings.RQ_QUEUES.items()}
    settings.DEBUG = False  # With it, Django keeps every statement.
    databases = setup_databases(verbosity=0, interactive=False)
    try:
        main()
    finally:
        teardown_databases(databases, verbosity=0)
        embedded.stop(FOLDER / "valkey")
