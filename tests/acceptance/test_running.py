"""Jobs run by real worker processes."""

import os
import signal
from datetime import timedelta

import django_rq
from django.utils import timezone

from django_jobs import Retry, control, task
from django_jobs.models import Job, Queue, Worker
from django_jobs.states import CANCELED, FAILED, FINISHED, QUEUED, STARTED
from tests import tasks
from tests.conftest import everything_in, fresh, lines, wait_until


def test_a_job_runs_and_its_progress_is_seen_and_its_log_kept(start_worker, tmp_path):
    job = tasks.tell.using(subject="file:42").enqueue(str(tmp_path / "go"))
    worker = start_worker("file_processing")

    wait_until(lambda: fresh(job).stage == "writing")
    running = fresh(job)
    (tmp_path / "go").touch()
    job.wait(timeout=60)

    assert (running.status, running.progress, running.progress_message) == (STARTED, 75, "half")
    assert Job.objects.for_subject("file:42").stages()["reading"] == {"status": "completed", "progress": 100}
    assert running.worker.pid == worker.pid
    assert (job.status, job.progress, job.attempt) == (FINISHED, 100, 1)
    assert job.created_at <= job.queued_at <= job.started_at <= job.finished_at
    attempt = job.attempts.get()
    assert (attempt.outcome, attempt.worker_name) == ("finished", running.worker.name)
    assert attempt.log.endswith("INFO tests.tasks: reading begins")


def test_failing_jobs_are_retried_after_their_interval_until_their_attempts_are_used_up(
    start_worker, tmp_path
):
    third_time = tasks.fail_until.enqueue(str(tmp_path / "three"), successes_from=3)
    later = tasks.fail_until.using(retry=Retry(max=1, interval=2)).enqueue(str(tmp_path / "two"), 2)
    never = tasks.fail.using(retry=Retry(max=1)).enqueue("always")
    start_worker("file_processing")

    for job in (third_time, later, never):
        job.wait(timeout=60)

    assert (third_time.status, third_time.result, third_time.error_type) == (FINISHED, 3, "")
    told = [(attempt.number, attempt.outcome, attempt.error_message) for attempt in third_time.attempts.all()]
    assert told == [(1, "failed", "call 1"), (2, "failed", "call 2"), (3, "finished", "")]
    for attempt in third_time.attempts.all()[:2]:
        assert attempt.traceback.startswith("Traceback (most recent call last)")
        assert "in fail_until" in attempt.traceback
        assert "django_jobs/" not in attempt.traceback

    first, second = later.attempts.all()
    assert (later.status, second.outcome) == (FINISHED, "finished")
    assert timedelta(seconds=2) <= second.started_at - first.finished_at < timedelta(seconds=30)

    assert (never.status, never.attempt, never.error_message) == (FAILED, 2, "always")
    assert [attempt.outcome for attempt in never.attempts.all()] == ["failed", "failed"]


def test_delayed_jobs_run_when_they_are_due_and_not_before(start_worker):
    soon = tasks.add.using(delay=2).enqueue(1)
    at = tasks.add.using(at=timezone.now() + timedelta(seconds=3)).enqueue(2)
    later = tasks.add.using(delay=timedelta(hours=1)).enqueue(3)
    start_worker("file_processing")

    for job in (soon, at):
        job.wait(timeout=60)
        due = fresh(job).scheduled_for
        assert timedelta(0) <= job.started_at - due < timedelta(seconds=30)

    assert fresh(later).status == "scheduled"


def test_a_job_that_outlasts_its_time_is_ended_and_has_failed(start_worker):
    job = tasks.outlast_its_time.enqueue()
    start_worker("file_processing")

    job.wait(timeout=60)

    assert (job.status, job.error_type) == (FAILED, "rq.timeouts.JobTimeoutException")
    assert "1 seconds" in job.error_message
    assert "in outlast_its_time" in job.traceback
    assert timedelta(seconds=0.9) < job.duration < timedelta(seconds=30)


def test_a_worker_outlives_whatever_its_jobs_do(start_worker, tmp_path):
    exiting = tasks.exit_with.enqueue(3)
    removed = tasks.add.enqueue(1)
    Job.objects.filter(pk=removed.pk).update(task="tests.tasks.was_here_before")
    odd = tasks.return_a_set.enqueue()
    long_winded = tasks.fail_deep.enqueue(500)
    after = tasks.add.enqueue(1, 2)
    worker = start_worker("file_processing")

    after.wait(timeout=60)

    assert (fresh(exiting).status, fresh(exiting).error_type) == (FAILED, "SystemExit")
    assert fresh(removed).error_message.startswith("tests.tasks.was_here_before cannot be imported")
    assert (fresh(odd).status, fresh(odd).result_error) == (
        FINISHED,
        "The result is a value of type set, which is not JSON.",
    )
    assert "characters cut" in fresh(long_winded).traceback
    assert (after.status, after.result) == (FINISHED, 3)
    assert worker.process.poll() is None


def test_canceling_a_running_job_stops_it_and_the_next_one_runs(start_worker, tmp_path):
    effects = tmp_path / "effects"
    job = tasks.hold.enqueue(str(effects), str(tmp_path / "never"))
    after = tasks.add.enqueue(1)
    start_worker("file_processing")
    wait_until(lambda: lines(effects))

    job.cancel()
    job.wait(timeout=60)
    after.wait(timeout=60)

    assert (job.status, after.status) == (CANCELED, FINISHED)
    assert job.attempts.get().outcome == "canceled"
    assert [event.kind for event in job.events.all()] == ["cancel_requested", "canceled"]
    assert len(lines(effects)) == 1


def test_a_waiting_job_that_is_canceled_never_runs(start_worker, tmp_path):
    effects = tmp_path / "effects"
    canceled = tasks.hold.enqueue(str(effects), str(tmp_path))
    canceled.cancel()
    after = tasks.add.enqueue(1)
    start_worker("file_processing")

    after.wait(timeout=60)

    assert (fresh(canceled).status, lines(effects)) == (CANCELED, [])


def test_a_paused_queue_waits_and_runs_when_it_is_resumed(start_worker):
    job = tasks.add.enqueue(1)
    queue = Queue.objects.create(name="file_processing", paused=True)
    other = task(tasks.undeclared).using(queue="vectorization").enqueue(7)
    start_worker()

    other.wait(timeout=60)
    assert fresh(job).status == QUEUED

    queue.delete()
    assert job.wait(timeout=60).status == FINISHED


def test_a_worker_without_names_works_on_all_declared_queues(start_worker):
    jobs = [
        tasks.add.using(queue=queue).enqueue(1)
        for queue in ("file_processing", "vectorization", "kg_extraction")
    ]
    start_worker()

    for job in jobs:
        assert job.wait(timeout=60).status == FINISHED
    assert Worker.objects.get().queues == ["file_processing", "vectorization", "kg_extraction"]


def test_a_worker_leaves_queues_that_are_not_its_own_alone(start_worker):
    elsewhere = tasks.add.using(queue="vectorization").enqueue(1)
    here = tasks.add.enqueue(1)
    start_worker("file_processing")

    here.wait(timeout=60)

    assert fresh(elsewhere).status == QUEUED


def test_queued_jobs_outlive_a_flush_of_redis_and_each_runs_once(start_worker, valkey, tmp_path):
    jobs = [tasks.fail_until.enqueue(str(tmp_path / f"calls-{number}"), 1) for number in range(5)]
    valkey.flushall()

    start_worker("file_processing")

    for job in jobs:
        assert job.wait(timeout=60).status == FINISHED
    assert [fresh(job).attempt for job in jobs] == [1] * 5
    assert [len(lines(tmp_path / f"calls-{number}")) for number in range(5)] == [1] * 5


def test_a_plain_rq_job_on_the_same_queue_runs_as_in_rq(start_worker, tmp_path):
    plain = django_rq.get_queue("file_processing").enqueue(tasks.record, str(tmp_path / "effects"), "plain")
    ours = tasks.add.enqueue(1)
    start_worker("file_processing")

    ours.wait(timeout=60)
    wait_until(lambda: plain.get_status() == "finished")  # In a process of its own, beside ours.

    assert lines(tmp_path / "effects") == ["plain"]
    assert plain.return_value() == 1
    assert Job.objects.ours().count() == 1


def test_many_jobs_on_two_workers_run_once_each(start_worker, tmp_path):
    effects = tmp_path / "effects"
    jobs = [
        task(tasks.record).using(queue="file_processing").enqueue(str(effects), str(n)) for n in range(30)
    ]
    start_worker("file_processing")
    start_worker("file_processing")

    wait_until(lambda: Job.objects.finished().count() == len(jobs))

    assert sorted(map(int, lines(effects))) == list(range(30))
    assert set(Job.objects.values_list("attempt", flat=True)) == {1}


def test_what_ran_leaves_no_arguments_results_or_errors_in_redis(start_worker, valkey):
    good, bad = tasks.first.enqueue("the-argument-4711"), tasks.fail.enqueue("the-argument-4712")
    worker = start_worker("file_processing", "--burst")

    assert worker.process.wait(timeout=60) == 0

    assert (fresh(good).result, fresh(bad).error_message) == ("the-argument-4711", "the-argument-4712")
    told = everything_in(valkey)
    assert good.pk.hex in told
    assert bad.pk.hex in told
    assert "the-argument" not in told


def test_a_job_enqueued_by_a_job_runs_too(start_worker):
    job = tasks.enqueue_another.enqueue(5)
    start_worker("file_processing")

    job.wait(timeout=60)
    another = Job.objects.exclude(pk=job.pk).get()

    assert another.wait(timeout=60).result == 5
    assert job.result == str(another.pk)
    assert (job.parent_id, another.parent) == (None, job)


def test_what_a_job_has_logged_is_seen_while_it_runs_and_kept_when_its_process_is_killed(
    start_worker, tmp_path
):
    effects, release = tmp_path / "effects", tmp_path / "release"
    killed = tasks.log_and_hold.enqueue("the first page is read", str(effects), str(release))
    start_worker("file_processing")
    wait_until(lambda: "the first page is read" in fresh(killed).live_log)

    os.kill(int(lines(effects)[0].split()[1]), signal.SIGKILL)
    killed.wait(timeout=60)

    assert killed.is_interrupted
    assert "INFO tests.tasks: the first page is read" in killed.attempts.get().log
    assert killed.live_log == ""


def test_the_log_of_a_job_that_was_stopped_is_kept(start_worker, tmp_path):
    effects, release = tmp_path / "effects", tmp_path / "release"
    stopped = tasks.log_and_hold.enqueue("the first page is read", str(effects), str(release))
    start_worker("file_processing")
    wait_until(lambda: fresh(stopped).live_log)

    control.stop(stopped)

    assert stopped.wait(timeout=60).status == CANCELED
    assert "the first page is read" in stopped.attempts.get().log


def test_an_attempt_begins_with_an_empty_log(start_worker, tmp_path):
    effects, release = tmp_path / "effects", tmp_path / "release"
    release.touch()
    job = tasks.log_and_hold.enqueue("one line", str(effects), str(release))
    start_worker("file_processing")

    job.wait(timeout=60)

    assert (job.attempts.get().log.count("one line"), job.live_log) == (1, "")
