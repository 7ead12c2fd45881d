"""What runs is stopped when somebody decides so, and its worker goes on."""

from functools import partial

import pytest

from django_jobs import Retry, control, relay
from django_jobs.models import Attempt, Job, QueueEvent, Worker
from django_jobs.processes import identity
from django_jobs.states import CANCELED, FAILED, FINISHED, STARTED
from tests import tasks
from tests.conftest import fresh, lines, wait_until

RENEWS_SELDOM = {"LEASE_SECONDS": "3600"}
"""Every eight minutes: what such a worker notices sooner, it was told."""


ENDS_FROM_OUTSIDE = {
    "marked as failed": partial(control.mark_failed, reason="stuck"),
    "deleted": control.delete,
    "reported as finished": partial(control.complete, result="done elsewhere"),
    "reported as failed": partial(control.fail, error="no paper"),
}


@pytest.fixture
def held(tmp_path):
    """Enqueue a job that runs until the file `release` exists; it, and the file of its effects."""

    def enqueue(task=tasks.hold):
        effects = tmp_path / "effects"
        return task.enqueue(str(effects), str(tmp_path / "release")), effects

    return enqueue


def child_of(effects):
    """The pid of the process that runs the job with this file."""
    return int(wait_until(lambda: lines(effects))[-1].split()[-1])


def is_gone(pid):
    return identity(pid) is None


def wait_for_life_signs(count):
    """Until the worker has renewed its lease, and looked after its child, so many times more."""
    for _ in range(count):
        seen = Worker.objects.get().seen_at
        wait_until(lambda seen=seen: Worker.objects.get().seen_at > seen)


def kinds(job):
    return [event.kind for event in job.events.all()]


@pytest.mark.parametrize(
    ("verb", "task"),
    [
        (control.stop, tasks.hold),
        (control.cancel, tasks.hold_deaf),
        (control.cancel, tasks.hold_idempotent),
    ],
    ids=["stopped", "canceled and deaf", "canceled and idempotent"],
)
def test_a_job_that_runs_is_stopped_as_soon_as_its_worker_is_told(start_worker, held, verb, task):
    job, effects = held(task)
    after = tasks.add.enqueue(1)
    worker = start_worker("file_processing", **RENEWS_SELDOM)
    child = child_of(effects)

    verb(job)

    assert job.wait(timeout=60).status == CANCELED
    assert is_gone(child)
    assert kinds(job) == ["cancel_requested", "canceled"]
    assert [attempt.outcome for attempt in job.attempts.all()] == ["canceled"]
    assert after.wait(timeout=60).status == FINISHED
    assert after.started_at > job.finished_at
    assert (len(lines(effects)), worker.process.poll()) == (1, None)


def test_a_worker_that_is_told_nothing_sees_for_itself_what_to_stop(start_worker, held):
    job, effects = held()
    start_worker("file_processing")
    child = child_of(effects)

    with relay.withheld():
        control.stop(job)

    assert job.wait(timeout=60).status == CANCELED
    assert is_gone(child)


@pytest.mark.parametrize("how", ENDS_FROM_OUTSIDE)
def test_a_job_that_has_just_begun_and_is_ended_from_outside_is_stopped_as_soon_as_its_worker_is_told(
    start_worker, held, how
):
    job, effects = held()
    after = tasks.add.enqueue(1, 2)
    worker = start_worker("file_processing", **RENEWS_SELDOM)
    child = child_of(effects)

    ENDS_FROM_OUTSIDE[how](job)

    wait_until(lambda: is_gone(child))
    assert after.wait(timeout=60).result == 3
    assert (len(lines(effects)), worker.process.poll()) == (1, None)


def test_a_job_that_is_marked_as_failed_while_it_runs_is_not_retried(start_worker, held):
    job, effects = held(tasks.hold_idempotent.using(retry=Retry(max=3)))
    after = tasks.add.enqueue(1)
    worker = start_worker("file_processing")
    child = child_of(effects)
    wait_for_life_signs(2)

    control.mark_failed(job, reason="stuck")
    wait_until(lambda: is_gone(child))
    after.wait(timeout=60)
    wait_for_life_signs(2)

    assert (after.status, worker.process.poll()) == (FINISHED, None)
    ended = fresh(job)
    assert (ended.status, ended.attempt, ended.losses) == (FAILED, 1, 0)
    assert (ended.error_type, ended.error_message) == ("MarkedFailed", "stuck")
    assert [(attempt.number, attempt.outcome) for attempt in job.attempts.all()] == [(1, "failed")]
    assert kinds(job) == ["marked_failed"]
    assert len(lines(effects)) == 1


def test_a_job_that_is_deleted_while_it_runs_leaves_nothing_but_a_trace(start_worker, held):
    job, effects = held()
    after = tasks.add.enqueue(1)
    worker = start_worker("file_processing")
    child = child_of(effects)
    wait_for_life_signs(2)

    control.delete(job)
    wait_until(lambda: is_gone(child))
    after.wait(timeout=60)
    wait_for_life_signs(2)

    assert (after.status, worker.process.poll()) == (FINISHED, None)
    assert list(Job.objects.all()) == [after]
    assert list(Attempt.objects.values_list("job", flat=True)) == [after.pk]
    assert QueueEvent.objects.get().message == f"Job {job.pk}: tests.tasks.hold, started."


def test_a_job_that_is_reported_finished_while_it_runs_keeps_that_result(start_worker, held):
    job, effects = held()
    after = tasks.add.enqueue(1)
    worker = start_worker("file_processing")
    child = child_of(effects)
    wait_for_life_signs(2)

    control.complete(job.pk, "done elsewhere")
    wait_until(lambda: is_gone(child))
    after.wait(timeout=60)
    wait_for_life_signs(2)

    assert (after.status, worker.process.poll()) == (FINISHED, None)
    ended = fresh(job)
    assert (ended.status, ended.result, ended.attempt) == (FINISHED, "done elsewhere", 1)
    assert [(attempt.number, attempt.outcome) for attempt in job.attempts.all()] == [(1, "finished")]
    assert kinds(job) == ["reported"]


def test_a_job_that_is_reported_failed_while_it_runs_has_its_next_attempt(start_worker, held, tmp_path):
    job, effects = held(tasks.hold.using(retry=Retry(max=1)))
    start_worker("file_processing")
    child = child_of(effects)
    wait_for_life_signs(2)

    control.fail(job, "no paper")
    wait_until(lambda: is_gone(child))
    wait_until(lambda: len(lines(effects)) == 2)
    (tmp_path / "release").touch()

    assert job.wait(timeout=60).status == FINISHED
    outcomes = [(attempt.number, attempt.outcome) for attempt in job.attempts.all()]
    assert outcomes == [(1, "failed"), (2, "finished")]
    assert [line.split()[0] for line in lines(effects)] == ["started", "started", "ended"]


def test_a_job_that_was_stopped_runs_when_it_is_requeued(start_worker, held, tmp_path):
    job, effects = held()
    start_worker("file_processing")
    child_of(effects)
    control.stop(job)
    job.wait(timeout=60)

    (tmp_path / "release").touch()
    control.requeue(job)

    assert (job.wait(timeout=60).status, job.attempt) == (FINISHED, 2)


def test_a_worker_counts_what_it_has_run(start_worker, held, tmp_path):
    started = [tasks.add.enqueue(1), tasks.add.enqueue(2), tasks.fail.enqueue()]
    started += [tasks.fail.using(retry=Retry(max=1)).enqueue(), tasks.return_a_set.enqueue()]
    stopped, effects = held()
    worker = start_worker("file_processing")
    child_of(effects)
    control.stop(stopped)

    for job in [*started, stopped]:
        job.wait(timeout=60)

    row = Worker.objects.get(pid=worker.pid)
    assert (row.finished_count, row.failed_count) == (3, 3)
    assert 0 < row.busy_seconds < 120


def test_jobs_for_the_front_run_before_those_that_wait(start_worker, held, tmp_path):
    _, effects = held()
    start_worker("file_processing")
    child_of(effects)
    waiting = [tasks.leave_marks.enqueue(str(effects), f"waiting {number}") for number in range(2)]
    urgent = tasks.leave_marks.using(at_front=True).enqueue(str(effects), "urgent")

    (tmp_path / "release").touch()
    for job in (*waiting, urgent):
        job.wait(timeout=60)

    # Jobs claimed together start at one moment by the database's clock; they run one after the other.
    began = [line for line in lines(effects) if line.endswith("began")]
    assert began == ["urgent 1 began", "waiting 0 1 began", "waiting 1 1 began"]


def test_a_job_that_is_moved_runs_on_the_worker_of_its_new_queue_alone(start_worker, held, tmp_path):
    busy, effects = held()
    start_worker("file_processing", "--name", "files")
    child_of(effects)
    job = tasks.add.enqueue(1, 2)
    start_worker("vectorization", "--name", "vectors")

    control.move(job, queue="vectorization")

    assert job.wait(timeout=60).result == 3
    assert fresh(busy).status == STARTED
    assert job.attempts.get().worker_name == "vectors"
    (tmp_path / "release").touch()
    assert busy.wait(timeout=60).status == FINISHED
    assert job.attempts.count() == 1
