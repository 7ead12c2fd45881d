"""SQLite is locked by another writer for long: claims and reports wait, and none is lost."""

import os
import signal
import sqlite3
import time
from contextlib import closing, contextmanager

import pytest
from django.db import OperationalError, connection

from django_jobs import enqueue_many
from django_jobs.models import Job, JobEvent
from django_jobs.states import FINISHED, QUEUED, STARTED
from tests import tasks
from tests.conftest import ROOT, fresh, wait_until

pytestmark = pytest.mark.skipif(
    connection.vendor != "sqlite", reason="PostgreSQL locks rows, not everything."
)
LEASE_SECONDS = 3


@pytest.fixture
def as_django_starts_it(tmp_path):
    """Variables of a project that tells SQLite nothing but to lose patience in a second."""
    (tmp_path / "sqlite_settings.py").write_text(
        "from tests.worker_settings import *\nDATABASES['default']['OPTIONS'] = {'timeout': 1}\n"
    )
    return {
        "DJANGO_SETTINGS_MODULE": "sqlite_settings",
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
        "LEASE_SECONDS": str(LEASE_SECONDS),
    }


def test_while_another_writer_locks_the_database_claims_and_reports_wait(
    start_worker, as_django_starts_it, redis_server, held
):
    ends_meanwhile, goes_on = held("ends-meanwhile"), held("goes-on")
    reported = tasks.hold.enqueue(*ends_meanwhile.arguments)
    running = tasks.hold.using(queue="vectorization").enqueue(*goes_on.arguments)
    reporting, _, claiming = workers = [
        start_worker(queue, **as_django_starts_it, REDIS_URL=redis_server.url)
        for queue in ("file_processing", "vectorization", "kg_extraction")
    ]
    wait_until(lambda: ends_meanwhile.runs() and goes_on.runs())
    wait_until(lambda: "Listening on" in claiming.log.read_text())
    claiming.process.send_signal(signal.SIGSTOP)
    claimed = tasks.add.using(queue="kg_extraction").enqueue(1)

    with closing(sqlite3.connect(connection.settings_dict["NAME"], timeout=30)) as writer:
        writer.isolation_level = None
        writer.execute("BEGIN IMMEDIATE")
        claiming.process.send_signal(signal.SIGCONT)
        ends_meanwhile.let_go()
        wait_until(lambda: "could not be written" in reporting.log.read_text())
        wait_until(lambda: "could not be claimed" in claiming.log.read_text())
        time.sleep(2 * LEASE_SECONDS)  # So long it lasts.
        assert (fresh(reported).status, fresh(claimed).status) == (STARTED, QUEUED)
        writer.execute("ROLLBACK")

    goes_on.let_go()
    for job in (reported, running, claimed):
        assert (job.wait(timeout=60).status, job.attempt, job.attempts.count()) == (FINISHED, 1, 1)
    assert ends_meanwhile.steps() == goes_on.steps() == ["started", "ended"]
    assert [worker.process.poll() for worker in workers] == [None, None, None]
    assert not JobEvent.objects.exclude(kind=JobEvent.Kind.REDELIVERED).exists()


@pytest.mark.django_db(transaction=True)
def test_a_disk_that_is_full_is_an_error_to_who_enqueues_and_nothing_is_delivered(valkey, queued_ids, full):
    with full(), pytest.raises(OperationalError, match="full"):
        enqueue_many(tasks.add.call(number) for number in range(1000))

    assert not Job.objects.exists()
    assert queued_ids("file_processing") == []
    job = tasks.add.enqueue(1)
    assert queued_ids("file_processing") == [f"{job.pk.hex}-1-0"]


@pytest.fixture
def full():
    """Within its block SQLite may take no more room than it has, as on a full disk."""

    @contextmanager
    def be_full():
        with connection.cursor() as cursor:
            cursor.execute("VACUUM")  # Or there may be room that earlier tests have left.
            cursor.execute("PRAGMA max_page_count")
            [allowed] = cursor.fetchone()
            cursor.execute("PRAGMA max_page_count = 1")  # SQLite makes it as many as there are.
            yield
            cursor.execute(f"PRAGMA max_page_count = {allowed}")

    return be_full
