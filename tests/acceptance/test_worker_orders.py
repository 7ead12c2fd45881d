"""Workers told to be quiet, to take jobs again and to stop; an operation whose maintainer dies."""

from pathlib import Path

import pytest

from django_jobs import control, enqueue_many, operations
from django_jobs.models import Job, JobEvent, Operation, Worker
from django_jobs.states import FAILED, FINISHED, QUEUED, STARTED
from tests import tasks
from tests.conftest import fresh, lines, wait_until

WAYS = [["--isolation=fork"], ["--processes=1"]]
ways = pytest.mark.parametrize("way", WAYS, ids=["fork", "prefork"])


@pytest.fixture
def hold(tmp_path):
    """Enqueue a job that runs until its file `release` exists; it, the file of its effects, and `release`."""

    def enqueue(name):
        effects, release = tmp_path / name, tmp_path / f"release {name}"
        return tasks.hold.enqueue(str(effects), str(release)), effects, release

    return enqueue


def the_worker():
    return Worker.objects.get()


def wait_for_state(state):
    wait_until(lambda: the_worker().state == state)


def see_two_more_signs_of_life():
    for _ in range(2):
        seen_at = the_worker().seen_at
        wait_until(lambda seen_at=seen_at: the_worker().seen_at > seen_at)


@ways
def test_a_quiet_worker_takes_nothing_until_it_is_told_otherwise(start_worker, way):
    worker = start_worker("file_processing", *way, LEASE_SECONDS="3")
    assert tasks.add.enqueue(1).wait(timeout=60).status == FINISHED

    control.quiet_worker(the_worker())
    wait_for_state("quiet")
    job = tasks.add.enqueue(2)
    see_two_more_signs_of_life()
    assert fresh(job).status == QUEUED

    control.unquiet_worker(the_worker())
    assert job.wait(timeout=60).status == FINISHED
    wait_for_state("idle")
    assert worker.process.poll() is None


@ways
def test_what_runs_on_a_worker_that_becomes_quiet_finishes_there_and_the_rest_goes_to_others(
    start_worker, way, hold
):
    held, effects, release = hold("held")
    start_worker("file_processing", *way, LEASE_SECONDS="3")
    wait_until(lambda: lines(effects))
    quiet = the_worker()

    control.quiet_worker(quiet)
    wait_until(lambda: fresh(quiet).order == "quiet")
    jobs = enqueue_many(tasks.add.call(number) for number in range(5))
    see_two_more_signs_of_life()
    assert {fresh(job).status for job in jobs} == {QUEUED}
    assert fresh(held).status == STARTED

    start_worker("file_processing", *way, LEASE_SECONDS="3")
    for job in jobs:
        assert job.wait(timeout=60).status == FINISHED
        assert job.attempts.get().worker_name != quiet.name
    release.touch()
    assert held.wait(timeout=60).status == FINISHED
    assert held.attempts.get().worker_name == quiet.name
    wait_until(lambda: fresh(quiet).state == "quiet")


@ways
def test_a_worker_that_is_told_to_stop_finishes_what_runs_and_ends(start_worker, way, hold):
    held, effects, release = hold("held")
    worker = start_worker("file_processing", *way, LEASE_SECONDS="3")
    wait_until(lambda: lines(effects))
    waiting = tasks.add.enqueue(1)

    control.stop_worker(the_worker())
    see_two_more_signs_of_life()
    assert worker.process.poll() is None
    release.touch()

    assert held.wait(timeout=60).status == FINISHED
    assert worker.process.wait(timeout=60) == 0
    assert (fresh(waiting).status, Worker.objects.count()) == (QUEUED, 0)


@ways
def test_an_idle_and_a_quiet_worker_end_when_they_are_told_to_stop(start_worker, way):
    for make_quiet in (False, True):
        worker = start_worker("file_processing", *way, LEASE_SECONDS="3")
        wait_until(the_worker)
        if make_quiet:
            control.quiet_worker(the_worker())
            wait_for_state("quiet")

        control.stop_worker(the_worker())

        assert worker.process.wait(timeout=60) == 0
        assert not Worker.objects.exists()


@ways
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="The system does not tell.")
def test_a_worker_tells_memory_and_cpu_of_what_its_jobs_use(start_worker, way):
    job = tasks.compute.enqueue(3600)
    start_worker("file_processing", *way, LEASE_SECONDS="3")

    wait_until(lambda: (the_worker().cpu_percent or 0) > 20)
    assert the_worker().memory_bytes > 30_000_000

    wait_until(lambda: fresh(job).status == STARTED)
    control.stop(job)
    job.wait(timeout=60)


def test_an_operation_whose_maintainer_is_killed_goes_on_with_the_next_one(start_worker):
    values = {"task": "tests.tasks.add", "args": [1], "queue": "vectorization", "status": FAILED}
    count = 6_000
    Job.objects.bulk_create((Job(**values) for _ in range(count)), batch_size=1000)
    operation = operations.start("requeue", "queue:vectorization status:failed")

    for _ in range(3):
        done = fresh(operation).done
        worker = start_worker("file_processing", LEASE_SECONDS="3")
        wait_until(lambda done=done: fresh(operation).done > done or fresh(operation).finished_at)
        worker.kill()
    start_worker("file_processing", LEASE_SECONDS="3")
    wait_until(lambda: fresh(operation).finished_at)

    row = fresh(operation)
    assert (row.state, row.done, row.refused) == (Operation.State.DONE, count, {})
    assert JobEvent.objects.filter(kind="requeued").count() == count
    assert set(Job.objects.values_list("status", "attempt")) == {(QUEUED, 2)}
