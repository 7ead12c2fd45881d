"""Jobs of plain RQ on our workers: RQ runs them as ever, and the database tells about them."""

from datetime import timedelta

import django_rq
import pytest
from django.db import transaction
from rq import Callback, Repeat, Retry
from rq.command import send_stop_job_command
from rq.job import Job as RQJob
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer

from django_jobs import observer, reconciler
from django_jobs.models import Job, Worker
from django_jobs.models.tallies import totals
from django_jobs.states import CANCELED, FAILED, FINISHED, QUEUED, SCHEDULED, STARTED
from tests import tasks
from tests.conftest import Stopwatch, fresh, lines, wait_until


@pytest.fixture
def queue(valkey):
    return django_rq.get_queue("file_processing")


@pytest.fixture
def effects(tmp_path):
    return tmp_path / "effects"


def row_of(plain):
    """The row of a plain job, as soon as there is one."""
    return wait_until(lambda: Job.objects.filter(observed_id=plain.id).first())


def ended(plain):
    return wait_until(lambda: Job.objects.observed().ended().filter(observed_id=plain.id).first())


def attempts(job):
    return [(attempt.number, attempt.outcome) for attempt in job.attempts.all()]


def test_a_plain_job_runs_as_in_rq_and_is_a_row_with_its_attempt(start_worker, queue, effects):
    plain = queue.enqueue(tasks.record, str(effects), "the-argument", job_timeout=77, job_id="my-own-id")
    worker = start_worker("file_processing")

    job = ended(plain)

    assert lines(effects) == ["the-argument"]
    assert (plain.get_status(), plain.return_value()) == ("finished", 1)
    assert (job.observed_id, job.task, job.description) == (
        "my-own-id",
        "tests.tasks.record",
        "tests.tasks.record(…)",
    )
    assert (job.engine, job.queue, job.status, job.attempt) == ("rq", "file_processing", FINISHED, 1)
    assert (job.timeout_seconds, job.args, job.kwargs, job.result) == (77, [], {}, None)
    assert job.result_error == "Plain rq keeps its result, for as long as it was told to."
    assert job.created_at == plain.created_at
    assert job.created_at <= job.queued_at <= job.started_at <= job.finished_at
    attempt = job.attempts.get()
    assert (attempt.number, attempt.outcome, attempt.worker_name) == (
        1,
        "finished",
        Worker.objects.get().name,
    )
    assert (attempt.started_at, attempt.finished_at) == (job.started_at, job.finished_at)
    assert totals() == {("file_processing", "finished"): 1}
    wait_until(lambda: Worker.objects.get().finished_count == 1)
    assert worker.process.poll() is None


def test_a_plain_job_is_seen_while_it_runs_and_leaves_its_log(start_worker, queue, tmp_path):
    plain = queue.enqueue("tests.tasks.tell", str(tmp_path / "go"))
    start_worker("file_processing")

    job = wait_until(lambda: Job.objects.started().get(worker__isnull=False))
    assert job.worker.name == Worker.objects.get().name
    (tmp_path / "go").touch()

    [line] = ended(plain).attempts.get().log.splitlines()
    assert line.endswith("INFO tests.tasks: reading begins")


def test_a_plain_job_that_fails_tells_why(start_worker, queue, effects):
    failing = queue.enqueue("tests.tasks.fail_from_a_cause", on_failure=None)
    told = queue.enqueue("tests.tasks.fail_until", str(effects), 9, on_failure=Callback(tasks.tell_failure))
    start_worker("file_processing")

    job = ended(failing)
    assert (job.status, job.error_type, job.error_message) == (FAILED, "LookupError", "the effect")
    assert "ValueError: the cause" in job.traceback
    assert "in fail_from_a_cause" in job.traceback
    assert [(a.outcome, a.error_type, a.traceback) for a in job.attempts.all()] == [
        ("failed", "LookupError", job.traceback)
    ]
    assert ended(told).error_message == "call 1"
    assert lines(effects) == ["called", "failure ValueError"]
    assert failing.id in FailedJobRegistry(queue=queue)
    assert totals() == {("file_processing", "failed"): 2}


def test_rqs_retries_are_attempts_of_one_row(start_worker, queue, tmp_path):
    at_once = queue.enqueue("tests.tasks.fail_until", str(tmp_path / "a"), 3, retry=Retry(max=2))
    later = queue.enqueue("tests.tasks.fail_until", str(tmp_path / "b"), 2, retry=Retry(max=1, interval=600))
    returned = queue.enqueue(tasks.ask_again, str(tmp_path / "c"))
    start_worker("file_processing")

    job = ended(at_once)
    assert (job.status, job.attempt, job.error_type) == (FINISHED, 3, "")
    assert [(a.outcome, a.error_message) for a in job.attempts.all()] == [
        ("failed", "call 1"),
        ("failed", "call 2"),
        ("finished", ""),
    ]
    waiting = wait_until(lambda: Job.objects.scheduled().get(observed_id=later.id))
    assert (waiting.attempt, waiting.error_message) == (2, "call 1")
    assert 590 < (waiting.will_retry_at - waiting.attempts.get().finished_at).total_seconds() < 660
    job = ended(returned)
    assert (job.status, job.attempt, attempts(job)) == (FAILED, 2, [(1, "retried"), (2, "failed")])
    assert job.error_message == "The task asked for another attempt."
    assert totals() == {("file_processing", "finished"): 1, ("file_processing", "failed"): 1}


def test_callbacks_dependents_and_repeats_of_rq_work(start_worker, queue, effects, tmp_path):
    first = queue.enqueue(tasks.record, str(effects), "first", on_success=Callback(tasks.tell_success))
    second = queue.enqueue(tasks.record, str(effects), "second", depends_on=first)
    repeated = queue.enqueue(tasks.record, str(tmp_path / "repeated"), "again", repeat=Repeat(times=2))
    start_worker("file_processing")

    assert (ended(first).status, ended(second).status) == (FINISHED, FINISHED)
    assert lines(effects) == ["first", "success 1", "second"]
    job = ended(repeated)
    assert (job.status, job.attempt) == (FINISHED, 3)
    assert attempts(job) == [(1, "finished"), (2, "finished"), (3, "finished")]
    assert len(lines(tmp_path / "repeated")) == 3


def test_a_plain_job_that_is_planned_runs_in_its_time(start_worker, queue, effects):
    plain = queue.enqueue_in(timedelta(seconds=2), tasks.record, str(effects), "later")
    observer.run_once()
    planned = row_of(plain)

    start_worker("file_processing", "--with-scheduler")
    job = ended(plain)

    assert (planned.status, planned.pk) == (SCHEDULED, job.pk)
    assert planned.scheduled_for - planned.created_at < timedelta(seconds=3)
    assert (job.status, job.attempt, lines(effects)) == (FINISHED, 1, ["later"])


def test_a_plain_job_whose_process_is_killed_was_lost_and_the_next_one_runs(start_worker, queue, effects):
    killed = queue.enqueue("tests.tasks.kill_itself")
    retried = queue.enqueue("tests.tasks.kill_itself", retry=Retry(max=1))
    after = queue.enqueue(tasks.record, str(effects), "after")
    worker = start_worker("file_processing")

    job = ended(killed)

    assert (job.status, job.is_interrupted) == (FAILED, True)
    assert "its process was ended by signal 9 (Killed)" in job.error_message
    assert attempts(job) == [(1, "lost")]
    assert ended(after).status == FINISHED
    assert attempts(ended(retried)) == [(1, "lost"), (2, "lost")]
    assert [killed.get_status(), retried.get_status()] == ["failed", "failed"]
    assert worker.process.poll() is None


def test_a_plain_job_that_outlasts_its_time_has_failed(start_worker, queue):
    plain = queue.enqueue("tests.tasks.outlast_its_time", job_timeout=1)
    start_worker("file_processing")

    job = ended(plain)

    assert (job.status, job.error_type) == (FAILED, "rq.timeouts.JobTimeoutException")
    assert attempts(job) == [(1, "failed")]


def test_a_plain_job_that_is_stopped_through_rq_is_canceled(start_worker, queue, valkey, effects, tmp_path):
    plain = queue.enqueue("tests.tasks.hold", str(effects), str(tmp_path / "never"))
    start_worker("file_processing")
    wait_until(lambda: lines(effects))

    send_stop_job_command(valkey, plain.id)

    job = ended(plain)
    assert (job.status, job.error_message) == (CANCELED, "It was stopped on request.")
    assert attempts(job) == [(1, "canceled")]
    assert plain.get_status() == "stopped"


def test_plain_jobs_in_json_run_with_rqs_json_serializer(start_worker, valkey, effects):
    queue = django_rq.get_queue("file_processing", serializer=JSONSerializer)
    good = queue.enqueue(tasks.record, str(effects), "the-argument")
    bad = queue.enqueue("tests.tasks.fail", "why")
    start_worker("file_processing", "--serializer", "rq.serializers.JSONSerializer")

    job = ended(good)

    assert (job.status, job.task, job.args) == (FINISHED, "tests.tasks.record", [])
    assert ended(bad).error_message == "why"
    assert lines(effects) == ["the-argument"]


def test_a_worker_on_several_queues_observes_them_all(start_worker, valkey, effects):
    plain = [
        django_rq.get_queue(name).enqueue(tasks.record, str(effects), name)
        for name in ("file_processing", "vectorization")
    ]
    start_worker("file_processing", "vectorization")

    assert [ended(job).queue for job in plain] == ["file_processing", "vectorization"]


def test_no_argument_of_a_plain_job_is_in_the_database(start_worker, queue, effects):
    plain = [
        queue.enqueue(tasks.record, str(effects), "the-argument-4711"),
        queue.enqueue(tasks.record, str(effects), line="the-argument-4712"),
        queue.enqueue(tasks.record, str(effects), "the-argument-4713", description="Record a line"),
    ]
    start_worker("file_processing")

    jobs = [ended(job) for job in plain]

    told = [str(vars(row)) for job in jobs for row in (job, job.attempts.get())]
    assert not [text for text in told if "the-argument" in text]
    assert [job.description for job in jobs][1:] == ["tests.tasks.record(…)", "Record a line"]


def test_a_plain_job_that_leaves_a_transaction_open_is_recorded_at_once(start_worker, queue):
    plain = queue.enqueue("tests.tasks.leave_a_transaction_open", "left open")
    start_worker("file_processing", "--no-maintainer")

    job = ended(plain)

    assert (job.status, job.attempt) == (FINISHED, 1)
    assert job.attempts.get().worker_name


def test_a_plain_job_that_ends_while_the_database_is_locked_ends_in_rq_at_once(start_worker, queue, tmp_path):
    plain = queue.enqueue("tests.tasks.hold", str(tmp_path / "effects"), str(tmp_path / "go"))
    start_worker("file_processing")
    job = wait_until(lambda: Job.objects.started().get())

    with transaction.atomic():
        Job.objects.update(subject="locked")
        (tmp_path / "go").touch()
        with Stopwatch() as watch:
            wait_until(lambda: plain.get_status() == "finished")

    assert watch.seconds < 5
    wait_until(lambda: fresh(job).status == FINISHED)


def test_a_plain_job_whose_end_nobody_told_is_let_go_and_follows_redis(start_worker, queue):
    plain = queue.enqueue("os._exit", 0)
    start_worker("file_processing", "--no-maintainer")
    job = row_of(plain)

    wait_until(lambda: fresh(job).status == STARTED and fresh(job).worker_id is None)
    assert plain.get_status() == "started"
    plain.delete()
    observer.run_once()

    assert (fresh(job).status, attempts(job)) == (CANCELED, [(1, "canceled")])


def test_a_plain_job_whose_worker_is_killed_is_left_to_rq(start_worker, queue, valkey, effects, tmp_path):
    plain = queue.enqueue("tests.tasks.hold", str(effects), str(tmp_path / "never"), retry=Retry(max=1))
    worker = start_worker("file_processing")
    wait_until(lambda: lines(effects))
    job = wait_until(lambda: Job.objects.started().get())

    worker.kill()
    wait_until(lambda: not Worker.objects.alive().exists())
    assert (reconciler.Reconciler().end_lost_attempts(), observer.run_once()) == (0, 0)
    assert fresh(job).status == STARTED

    [execution] = plain.get_executions()
    valkey.zadd("rq:wip:file_processing", {execution.composite_key: 1})
    plain.started_job_registry.cleanup()
    assert observer.run_once() == 1

    assert (fresh(job).status, fresh(job).attempt, attempts(job)) == (QUEUED, 2, [(1, "failed")])


def test_no_id_gets_a_plain_job_past_a_worker_that_refuses_them(start_worker, valkey, effects):
    queue = django_rq.get_queue("file_processing", serializer=JSONSerializer)
    ids = ["x" * 300, f"{'0' * 32}-1", "django_jobs"]
    plain = [queue.enqueue(tasks.record, str(effects), "plain", job_id=job_id) for job_id in ids]
    start_worker("file_processing", PLAIN_JOBS="refuse")

    wait_until(lambda: [job.get_status() for job in plain] == ["failed"] * 3)

    assert lines(effects) == []


@pytest.mark.parametrize("queues", [["file_processing"], ["file_processing", "vectorization"]])
def test_a_worker_that_refuses_plain_jobs_runs_ours_and_loses_nothing(
    start_worker, queue, valkey, effects, tmp_path, queues
):
    plain = queue.enqueue(
        tasks.record,
        str(effects),
        "plain",
        retry=Retry(max=3),
        meta={"trap": Trap(str(tmp_path / "trap"))},
        on_failure=Callback(tasks.tell_failure),
    )
    ours = tasks.add.enqueue(1, 2)
    worker = start_worker(*queues, PLAIN_JOBS="refuse")

    job = ended(plain)

    assert ours.wait(timeout=60).result == 3
    assert (job.status, job.error_type, job.attempt) == (FAILED, "PlainJobRefused", 1)
    assert 'DJANGO_JOBS["PLAIN_JOBS"] is "refuse"' in job.error_message
    assert (job.started_at, attempts(job), lines(effects)) == (None, [], [])
    assert not (tmp_path / "trap").exists()
    assert plain.id in FailedJobRegistry(queue=queue)
    assert valkey.llen("rq:queue:file_processing:intermediate") == 0

    worker.stop()
    kept = RQJob.fetch(plain.id, connection=valkey)
    assert (kept.retries_left, kept.latest_result().exc_string) == (
        3,
        f"PlainJobRefused: {job.error_message}",
    )
    (tmp_path / "trap").unlink()  # This process has unpickled it.
    kept.requeue()
    start_worker("file_processing")
    wait_until(lambda: fresh(job).status == FINISHED)
    assert (lines(effects), fresh(job).attempt, attempts(job)) == (["plain"], 1, [(1, "finished")])
    assert totals() == {("file_processing", "finished"): 2}


def test_a_worker_that_refuses_plain_jobs_cleans_up_after_others_and_calls_nothing(
    start_worker, queue, valkey, effects, tmp_path
):
    abandoned = queue.enqueue(
        tasks.record,
        str(effects),
        "plain",
        meta={"trap": Trap(str(tmp_path / "trap"))},
        on_failure=Callback(tasks.tell_failure),
    )
    valkey.delete(queue.key)
    abandoned.set_status("started")
    valkey.zadd("rq:wip:file_processing", {f"{abandoned.id}:{'0' * 32}": 1})

    start_worker("file_processing", PLAIN_JOBS="refuse")

    wait_until(lambda: abandoned.get_status() == "failed")
    assert (lines(effects), (tmp_path / "trap").exists()) == ([], False)


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return tasks.record, (self.path, "unpickled")
