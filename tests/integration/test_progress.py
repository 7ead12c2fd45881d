"""Progress: what a running job tells, seen while it runs."""

import threading
from contextlib import contextmanager

import pytest
from django.db import connection, connections

from django_jobs import executor, progress
from django_jobs.models import Job
from django_jobs.reporter import Reporter
from django_jobs.states import FAILED, FINISHED, QUEUED, STARTED
from tests.conftest import claim, execute, fresh, no_time_limit, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@contextmanager
def running(job):
    """The job runs in a thread, as its worker's child would, while the test looks on."""

    def run():
        try:
            execute(job)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def told(job):
    row = fresh(job)
    return row.progress, row.stage, row.progress_message


def test_stages_are_seen_while_the_job_runs_and_its_progress_is_their_mean(job_factory, tmp_path):
    job = job_factory(task="tests.tasks.tell", args=[str(tmp_path / "go")])

    with running(job):
        try:
            wait_until(lambda: told(job) == (75, "writing", "half"))
            assert fresh(job).status == STARTED
            assert fresh(job).stages == {
                "reading": {"status": "completed", "progress": 100},
                "writing": {"status": "processing", "progress": 50},
            }
        finally:
            (tmp_path / "go").touch()

    assert (fresh(job).status, told(job)) == (FINISHED, (100, "writing", "half"))
    assert fresh(job).stages["writing"] == {"status": "processing", "progress": 50}


def test_announced_stages_are_pending_until_they_begin(job_factory):
    job = execute(job_factory(task="tests.tasks.announce", args=["chunking", "vectorization", "storage"]))

    assert job.stages == {
        "chunking": {"status": "completed", "progress": 100},
        "vectorization": {"status": "pending", "progress": 0},
        "storage": {"status": "pending", "progress": 0},
    }


def test_the_progress_of_a_failed_job_is_kept(job_factory):
    job = execute(job_factory(task="tests.tasks.progress_and_fail", args=[30]))

    assert (job.status, told(job)) == (FAILED, (30, "copying", "so far"))
    assert job.stages == {"copying": {"status": "processing", "progress": 30}}


def test_a_new_attempt_begins_at_nothing(job_factory):
    job = execute(job_factory(task="tests.tasks.progress_and_fail", args=[30], max_attempts=2))
    assert (job.status, job.progress) == (QUEUED, 30)

    again = claim(job)

    assert (told(again), fresh(again).stages) == ((0, "", ""), {})


def test_progress_told_inside_a_transaction_survives_its_rollback(job_factory, tmp_path):
    job = job_factory(task="tests.tasks.tell_in_a_transaction", args=[40, str(tmp_path / "go")])

    with running(job):
        try:
            if connection.vendor == "postgresql":
                # Seen by others at once; SQLite has one writer at a time, so there after the transaction.
                wait_until(lambda: fresh(job).progress == 40)
        finally:
            (tmp_path / "go").touch()

    assert (fresh(job).status, fresh(job).progress) == (FAILED, 40)


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b", "x" * 150])
def test_a_stage_may_have_any_name(job_factory, name):
    started = claim(job_factory())
    reporter = Reporter(started)

    with reporter.recording():
        progress.declare(name)
        progress.update(50, stage=name, message=name)
    Job.objects.filter(pk=started.pk).update(**reporter.fields())

    [(stage, state)] = fresh(started).stages.items()
    assert (len(stage) <= 100, state) == (True, {"status": "processing", "progress": 50})
    assert fresh(started).stage == stage


def test_progress_of_a_superseded_attempt_is_not_written(job_factory):
    job = job_factory()
    reporter = Reporter(claim(job))
    Job.objects.filter(pk=job.pk).update(attempt=2)

    reporter._percent = 50
    reporter._write()

    assert fresh(job).progress == 0


def test_telling_often_writes_seldom(job_factory, monkeypatch):
    started = claim(job_factory(task="tests.tasks.count_up", args=[10_000]))
    writes = []
    write = Reporter._write

    def count(reporter):
        writes.append(1)
        write(reporter)

    monkeypatch.setattr(Reporter, "_write", count)
    outcome, raised = executor.run(started, no_time_limit)

    assert raised is None
    assert outcome.progress["stages"] == {"counting": {"status": "completed", "progress": 100}}
    assert len(writes) <= 10
