"""PostgreSQL is stopped, killed, cut off: what runs goes on and is recorded once, and workers go on."""

import signal
import time
from itertools import groupby
from pathlib import Path

import pytest
from django.db import connection, connections

from django_jobs.models import JobEvent, Worker
from django_jobs.states import FINISHED
from tests import tasks
from tests.conftest import Stopwatch, lines, wait_until
from tests.faults.proxy import HANG, PASS, REFUSE, FaultProxy
from tests.faults.stalls import unless_stalled

pytestmark = pytest.mark.skipif(
    connection.vendor != "postgresql", reason="SQLite is a file: it has no server that could be away."
)
LEASE_SECONDS = 3
LEASE = {"LEASE_SECONDS": str(LEASE_SECONDS)}


@pytest.fixture
def database_line():
    """A way to the database that a test can cut; its `variables` lead a process there."""
    where = connection.settings_dict
    host, port = where["HOST"] or "localhost", int(where["PORT"] or 5432)
    target = Path(host, f".s.PGSQL.{port}") if host.startswith("/") else (host, port)
    with FaultProxy(target) as line:
        line.variables = {"PGHOST": "127.0.0.1", "PGPORT": str(line.port)}
        yield line


@pytest.fixture
def redis_line(redis_server):
    with FaultProxy(redis_server.address) as line:
        line.variables = {"REDIS_URL": f"redis://127.0.0.1:{line.port}/0"}
        yield line


def losses():
    return JobEvent.objects.filter(kind=JobEvent.Kind.WORKER_LOST)


@pytest.mark.parametrize("fault", [REFUSE, HANG])
def test_a_worker_cut_off_from_everything_ends_its_job_before_another_runs_it(
    start_worker, redis_server, database_line, redis_line, tmp_path, fault
):
    beats, release = tmp_path / "beats", tmp_path / "release"
    job = tasks.beat.enqueue(str(beats), str(release))
    cut_off = start_worker("file_processing", **LEASE, **database_line.variables, **redis_line.variables)
    wait_until(beats.exists)
    other = start_worker("file_processing", **LEASE, REDIS_URL=redis_server.url)
    wait_until(lambda: "Listening on" in other.log.read_text())

    database_line.mode = redis_line.mode = fault

    wait_until(lambda: len(set(pids(beats))) == 2)
    database_line.mode = redis_line.mode = PASS
    wait_until(lambda: Worker.objects.alive().filter(pid=cut_off.pid).exists())
    release.touch()
    assert job.wait(timeout=60).status == FINISHED
    one_after_the_other = [run for run, _ in groupby(pids(beats))]
    assert len(one_after_the_other) == len(set(one_after_the_other)) <= job.attempt
    # Each run but the last is told; one more of them than here if the machine stood still for long.
    assert [attempt.outcome for attempt in job.attempts.all()] == ["lost"] * losses().count() + ["finished"]


def pids(beats):
    return [line.split()[0] for line in lines(beats)]


@pytest.mark.parametrize("fault", [REFUSE, HANG])
@unless_stalled(LEASE_SECONDS / 2)
def test_workers_cut_off_from_the_database_alone_for_longer_than_their_lease_keep_their_jobs(
    start_worker, redis_server, database_line, held, fault
):
    during, after = held("during"), held("after")
    ends_during = tasks.hold_idempotent.enqueue(*during.arguments)
    ends_after = tasks.hold_idempotent.using(queue="vectorization").enqueue(*after.arguments)
    # It has the database all the time, and a maintainer that would settle what others have left.
    start_worker("kg_extraction", **LEASE, REDIS_URL=redis_server.url)
    cut_off = [
        start_worker(queue, **LEASE, **database_line.variables, REDIS_URL=redis_server.url)
        for queue in ("file_processing", "vectorization")
    ]
    wait_until(lambda: during.runs() and after.runs())

    database_line.mode = fault
    during.let_go()
    time.sleep(2 * LEASE_SECONDS + 1)  # So long it lasts.
    database_line.mode = PASS
    after.let_go()

    for job in (ends_during, ends_after):
        assert (job.wait(timeout=60).status, job.attempt) == (FINISHED, 1)
    assert during.steps() == after.steps() == ["started", "ended"]
    for queue in ("file_processing", "vectorization"):
        assert tasks.add.using(queue=queue).enqueue(1).wait(timeout=60).status == FINISHED
    assert [worker.process.poll() for worker in cut_off] == [None, None]
    assert not losses().exists()


def test_connections_that_never_answer_again_are_given_up(start_worker, redis_server, database_line, held):
    """As after a power cut of the database's host: new ones find the one that took its place."""
    reporting = held("reporting")
    first = tasks.hold_idempotent.enqueue(*reporting.arguments)
    worker = start_worker("file_processing", **LEASE, **database_line.variables, REDIS_URL=redis_server.url)
    wait_until(reporting.runs)

    database_line.mode = HANG
    time.sleep(2)  # So that some are in use.
    database_line.strand_all()
    database_line.mode = PASS
    second = tasks.add.using(delay=0.1).enqueue(1)
    reporting.let_go()

    assert [job.wait(timeout=60).status for job in (first, second)] == [FINISHED, FINISHED]
    assert worker.process.poll() is None


@unless_stalled(LEASE_SECONDS / 2)
def test_jobs_outlive_a_stop_of_the_database_and_their_rows_are_right_soon_after(
    start_worker, redis_server, cluster, held, tmp_path
):
    during, after, noted = held("during"), held("after"), tmp_path / "noted"
    ends_during = tasks.hold.enqueue(*during.arguments)
    ends_after = tasks.hold.using(queue="vectorization").enqueue(*after.arguments)
    workers = [
        start_worker(queue, **LEASE, REDIS_URL=redis_server.url)
        for queue in ("file_processing", "vectorization", "kg_extraction")
    ]
    reporting, _, claiming = workers
    wait_until(lambda: during.runs() and after.runs() and "Listening on" in claiming.log.read_text())
    claiming.process.send_signal(signal.SIGSTOP)
    taken = tasks.note.using(queue="kg_extraction").enqueue(str(noted), "taken")

    cluster.stop("immediate")
    connections.close_all()
    claiming.process.send_signal(signal.SIGCONT)
    during.let_go()
    wait_until(lambda: "could not be written" in reporting.log.read_text())
    wait_until(lambda: "could not be claimed" in claiming.log.read_text())
    time.sleep(LEASE_SECONDS)  # So that all leases are over.
    cluster.start()

    with Stopwatch() as watch:
        for job in (ends_during, taken):
            assert (job.wait(timeout=60).status, job.attempt) == (FINISHED, 1)
    print(f"Rows were right {watch.seconds:.1f} s after the database was back.")
    assert watch.seconds < 20
    time.sleep(LEASE_SECONDS)  # For whom would end what still runs.
    after.let_go()
    assert (ends_after.wait(timeout=60).status, ends_after.attempt) == (FINISHED, 1)
    assert during.steps() == after.steps() == ["started", "ended"]
    assert lines(noted) == ["taken"]
    assert [worker.process.poll() for worker in workers] == [None, None, None]
    assert not losses().exists()


@unless_stalled(LEASE_SECONDS / 2)
def test_a_report_that_waits_for_the_database_outlives_its_worker_and_is_delivered_by_the_next(
    start_worker, redis_server, cluster, held
):
    ended = held("ended")
    job = tasks.hold_idempotent.enqueue(*ended.arguments)
    doomed = start_worker("file_processing", **LEASE, REDIS_URL=redis_server.url)
    wait_until(ended.runs)

    cluster.stop("immediate")
    connections.close_all()
    ended.let_go()
    wait_until(lambda: doomed.log.read_text().count("could not be written") > 1)  # So it is in a file.
    doomed.end()
    cluster.start()
    start_worker("file_processing", **LEASE, REDIS_URL=redis_server.url)

    assert (job.wait(timeout=60).status, job.attempt, job.result) == (FINISHED, 1, "released")
    assert (ended.steps(), losses().count()) == (["started", "ended"], 0)
