"""Progress: what a running job tells, seen while it runs."""

import threading
import time
from contextlib import contextmanager

import pytest
from django.db import OperationalError, connection, connections
from django.db.backends.signals import connection_created

from django_jobs import executor, progress
from django_jobs import reporter as reporting
from django_jobs.models import Job
from django_jobs.reporter import FLUSH_INTERVAL_SECONDS, Reporter
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


def test_a_job_that_has_left_no_memory_for_a_thread_tells_its_progress_in_the_end(job_factory, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    started = claim(job_factory(task="tests.tasks.announce", args=["reading", "writing"]))

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        outcome, _ = executor.run(started, no_time_limit)

    assert outcome.kind == FINISHED
    assert outcome.progress["stages"]["reading"] == {"status": "completed", "progress": 100}


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

    reporter._stages.update(50, None, None)
    reporter._write()

    assert fresh(job).progress == 0


def test_progress_of_the_attempt_that_is_held_is_written(job_factory):
    job = job_factory()
    reporter = Reporter(claim(job))

    reporter._stages.update(50, "half", None)
    reporter._write()

    assert told(job) == (50, "", "half")


@pytest.fixture
def updates():
    """The UPDATEs of every connection, those of other threads too."""
    statements = []

    def note(execute, sql, params, many, context):
        if sql.startswith("UPDATE"):
            statements.append(sql)
        return execute(sql, params, many, context)

    def watch(connection, **kwargs):
        connection.execute_wrappers.append(note)

    connection_created.connect(watch)
    yield statements
    connection_created.disconnect(watch)


@pytest.mark.parametrize("task", ["count_up", "track_up"])
def test_telling_10_000_times_costs_few_updates(job_factory, updates, task):
    started = claim(job_factory(task=f"tests.tasks.{task}", args=[10_000]))
    began = time.monotonic()

    outcome, raised = executor.run(started, no_time_limit)

    assert raised is None
    assert outcome.progress["stages"] == {"counting": {"status": "completed", "progress": 100}}
    assert len(updates) <= 1 + (time.monotonic() - began) / FLUSH_INTERVAL_SECONDS


def test_the_end_of_a_job_does_not_wait_for_the_next_write(job_factory, monkeypatch):
    monkeypatch.setattr(reporting, "FLUSH_INTERVAL_SECONDS", 60)
    started = claim(job_factory())
    reporter = Reporter(started)

    with reporter.recording():
        progress.update(40)

    assert not reporter._thread.is_alive()


def test_a_job_that_tells_nothing_writes_nothing(job_factory, updates):
    executor.run(claim(job_factory(args=[1])), no_time_limit)

    assert [each for each in updates if "progress" in each] == []


def test_what_is_told_while_a_write_fails_is_written_by_the_next(job_factory, monkeypatch):
    started = claim(job_factory())
    reporter = Reporter(started)
    failures = iter([OperationalError("away")])
    fields = reporter.fields

    def fail_once():
        for failure in failures:
            raise failure
        return fields()

    monkeypatch.setattr(reporter, "fields", fail_once)
    with reporter.recording():
        progress.update(40)
        wait_until(lambda: fresh(started).progress == 40)


def test_a_report_carries_what_was_told_last(job_factory):
    job = execute(job_factory(task="tests.tasks.track_up", args=[3]))

    assert (job.progress, job.stages) == (100, {"counting": {"status": "completed", "progress": 100}})
