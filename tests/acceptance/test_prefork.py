"""The worker's processes: jobs run beside each other in them, and each is replaced, or ends, without loss."""

import os
import signal
import socket
from pathlib import Path

import pytest
from rq.suspension import resume, suspend

from django_jobs import Retry, enqueue_many
from django_jobs.models import Attempt, Job, Worker
from django_jobs.processes import identity
from django_jobs.states import FAILED, FINISHED, QUEUED, STARTED
from tests import tasks
from tests.conftest import ISOLATION, VERSION, fresh, lines, wait_until, write

pytestmark = pytest.mark.skipif(ISOLATION == "fork", reason="Processes that stay are another way.")


@pytest.fixture
def hold(tmp_path):
    """Enqueue a job that runs until its file `release` exists; it, the file of its effects, and `release`."""

    def enqueue(name, task=tasks.hold):
        effects, release = tmp_path / name, tmp_path / f"release {name}"
        return task.enqueue(str(effects), str(release)), effects, release

    return enqueue


@pytest.fixture
def run_quickly(tmp_path):
    """Run such jobs, of the same task, as end at once; the pids of the processes that ran them, in order."""

    def run(count):
        effects = tmp_path / "quick"
        before = len(pids_in(effects))
        jobs = enqueue_many(tasks.hold.call(str(effects), str(tmp_path)) for _ in range(count))
        for job in jobs:
            assert job.wait(timeout=60).status == FINISHED
        return pids_in(effects)[before:]

    return run


def pids_in(effects):
    return [int(line.split()[1]) for line in lines(effects) if line.startswith("started")]


def pid_in(effects):
    """The process that runs the job with this file, as soon as it does."""
    return wait_until(lambda: pids_in(effects))[-1]


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_gone(pid):
    return identity(pid) is None


def outcomes(job):
    return [attempt.outcome for attempt in job.attempts.all()]


# Beside each other


def test_two_processes_run_two_jobs_at_the_same_time(start_worker, hold):
    held = [hold(name) for name in ("left", "right")]
    worker = start_worker("file_processing", "--processes=2")

    pids = {pid_in(effects) for _, effects, _ in held}

    assert len(pids | {worker.pid}) == 3
    for job, _, release in held:
        release.touch()
        assert job.wait(timeout=60).status == FINISHED


@pytest.fixture
def long_before_quick(valkey, hold, tmp_path):
    """Enqueue, in one go, a job that goes on and ten that end at once, all of one task."""

    def enqueue():
        suspend(valkey)
        long, effects, release = hold("long")
        quick = [tasks.hold.call(str(tmp_path / "behind"), str(tmp_path)) for _ in range(10)]
        waiting = enqueue_many(quick)
        resume(valkey)
        pid_in(effects)
        return long, waiting, release

    return enqueue


def test_a_worker_tells_how_many_jobs_it_runs_at_a_time(start_worker):
    start_worker("file_processing", "--processes=2")

    assert wait_until(lambda: [worker.slots for worker in Worker.objects.all()]) == [2]


def test_no_job_waits_behind_a_long_one_while_another_process_is_free(
    start_worker, run_quickly, long_before_quick
):
    start_worker("file_processing", "--processes=2")
    run_quickly(50)

    long, waiting, release = long_before_quick()

    for job in waiting:
        assert job.wait(timeout=60).status == FINISHED
    assert fresh(long).status == STARTED
    release.touch()
    assert long.wait(timeout=60).status == FINISHED
    assert {outcome for job in [long, *waiting] for outcome in outcomes(job)} == {FINISHED}
    assert {fresh(job).attempt for job in [long, *waiting]} == {1}


@pytest.mark.parametrize("async_concurrency", [1, 20])
def test_no_job_waits_behind_a_long_one_while_another_worker_is_free(
    start_worker, run_quickly, long_before_quick, async_concurrency
):
    options = ["--processes=1", f"--async-concurrency={async_concurrency}"]
    start_worker("file_processing", "--name=first", *options)
    run_quickly(50)

    long, waiting, release = long_before_quick()
    start_worker("file_processing", "--name=second")

    for job in waiting:
        assert job.wait(timeout=60).status == FINISHED
    assert fresh(long).status == STARTED
    release.touch()
    assert long.wait(timeout=60).status == FINISHED
    ran_by = {name for job in waiting for name in job.attempts.values_list("worker_name", flat=True)}
    assert ran_by == {"second"}
    assert Attempt.objects.filter(job__in=[long, *waiting]).count() == 11


def test_jobs_that_are_given_back_wait_in_the_queue_until_somebody_is_free(
    start_worker, run_quickly, long_before_quick
):
    worker = start_worker("file_processing")
    run_quickly(50)

    long, waiting, release = long_before_quick()
    wait_until(lambda: {fresh(job).status for job in waiting} == {QUEUED})
    seen = Worker.objects.get().seen_at
    wait_until(lambda: Worker.objects.get().seen_at > seen)

    assert worker.log.read_text().count(" before they began.") <= 2
    release.touch()
    for job in [long, *waiting]:
        assert job.wait(timeout=60).status == FINISHED


def test_jobs_that_are_given_back_do_not_count_for_how_many_a_worker_runs(
    start_worker, run_quickly, long_before_quick
):
    worker = start_worker("file_processing", "--max-jobs=55")
    run_quickly(50)

    _, waiting, release = long_before_quick()
    wait_until(lambda: {fresh(job).status for job in waiting} == {QUEUED})
    release.touch()

    assert worker.process.wait(timeout=60) == 0
    assert (Job.objects.finished().count(), Job.objects.queued().count()) == (55, 6)


# Replaced


def test_a_process_is_replaced_after_so_many_jobs(start_worker, run_quickly):
    worker = start_worker("file_processing", "--max-jobs-per-child=2")

    pids = run_quickly(7)

    assert len(pids) == 7
    assert max(pids.count(pid) for pid in pids) == 2
    assert set(Job.objects.values_list("attempt", "losses")) == {(1, 0)}
    assert worker.process.poll() is None


def test_a_process_that_has_come_to_use_much_memory_is_replaced(start_worker, run_quickly):
    start_worker("file_processing", "--max-memory-per-child=160")
    [before] = run_quickly(1)

    job = tasks.keep_memory.enqueue(150)

    assert job.wait(timeout=60).result == before
    wait_until(lambda: is_gone(before))
    [after, same] = run_quickly(2)
    assert before != after == same
    assert set(Job.objects.values_list("status", "attempt")) == {(FINISHED, 1)}


def test_a_process_that_is_killed_while_it_waits_is_replaced(start_worker, run_quickly):
    worker = start_worker("file_processing")
    [before] = run_quickly(1)

    os.kill(before, signal.SIGKILL)
    wait_until(lambda: is_gone(before))

    [after] = run_quickly(1)
    assert after != before
    assert set(Job.objects.values_list("status", "attempt", "losses")) == {(FINISHED, 1, 0)}
    assert worker.process.poll() is None


def test_a_process_that_is_killed_while_it_runs_a_job_is_replaced_and_harms_no_other(
    start_worker, hold, run_quickly
):
    other, effects_of_other, release_other = hold("other")
    retried, effects, release = hold("retried", tasks.hold.using(retry=Retry(max=1)))
    start_worker("file_processing", "--processes=2")
    untouched, killed = pid_in(effects_of_other), pid_in(effects)

    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: len(pids_in(effects)) == 2)
    release.touch()
    release_other.touch()

    assert retried.wait(timeout=60).status == FINISHED
    assert outcomes(retried) == ["lost", "finished"]
    lost = retried.attempts.first()
    assert "its process was ended by signal 9 (Killed)" in lost.error_message
    assert "MB of memory" in lost.error_message
    assert other.wait(timeout=60).status == FINISHED
    assert pids_in(effects_of_other) == [untouched]
    assert killed not in run_quickly(4)


def test_a_process_that_is_killed_is_replaced_though_one_that_its_job_has_forked_lives_on(
    start_worker, hold, run_quickly
):
    lost, effects, _ = hold("lost", tasks.hold_with_another_process)
    start_worker("file_processing", "--processes=1")
    killed = pid_in(effects)

    os.kill(killed, signal.SIGKILL)

    try:
        assert lost.wait(timeout=60).is_interrupted
        assert killed not in run_quickly(1)
    finally:
        os.killpg(killed, signal.SIGKILL)


def test_another_process_forks_when_the_one_that_did_is_killed(start_worker, hold, run_quickly):
    once, effects_of_once, _ = hold("once")
    again, effects, release = hold("again", tasks.hold_idempotent)
    worker = start_worker("file_processing", "--processes=2")
    children = [pid_in(effects_of_once), pid_in(effects)]
    [forker] = {parent_of(pid) for pid in children}
    assert forker != worker.pid

    os.kill(forker, signal.SIGKILL)
    wait_until(lambda: all(map(is_gone, children)))
    wait_until(lambda: len(pids_in(effects)) == 2)
    release.touch()

    assert (once.wait(timeout=60).status, once.is_interrupted) == (FAILED, True)
    assert "its process ended" in once.error_message
    assert again.wait(timeout=60).status == FINISHED
    assert (outcomes(once), outcomes(again)) == (["lost"], ["lost", "finished"])
    assert parent_of(run_quickly(1)[0]) not in (forker, worker.pid)
    assert worker.process.poll() is None


# Fresh code


def test_sighup_has_new_jobs_run_as_the_code_is_now_while_a_running_one_ends_as_it_began(
    start_worker, shop, job_factory, version, tmp_path
):
    folder, environment = shop
    write(folder / "shop" / "tasks.py", VERSION.format(version=1))
    worker = start_worker("file_processing", **environment)
    begun, release = tmp_path / "begun", tmp_path / "release"
    running = job_factory(task="shop.tasks.version", args=[str(begun), str(release)])
    wait_until(begun.exists)
    row = Worker.objects.get()

    write(folder / "shop" / "tasks.py", VERSION.format(version=2))
    worker.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "runs old code and is replaced" in worker.log.read_text())

    assert version() == 2
    assert fresh(running).status == STARTED
    release.touch()
    assert running.wait(timeout=60).result == 1
    assert outcomes(running) == ["finished"]
    assert version() == 2
    assert (Worker.objects.get(), Worker.objects.get().pid) == (row, worker.pid)


def test_sighup_with_code_that_cannot_be_loaded_leaves_the_processes_as_they_are(start_worker, shop, version):
    folder, environment = shop
    write(folder / "shop" / "tasks.py", VERSION.format(version=1))
    worker = start_worker("file_processing", **environment)
    assert version() == 1

    write(folder / "shop" / "tasks.py", "def broken(:")
    worker.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "the code as it is now cannot be loaded" in worker.log.read_text())
    assert "shop.tasks cannot be imported: SyntaxError" in worker.log.read_text()
    assert version() == 1

    write(folder / "shop" / "tasks.py", VERSION.format(version=3))
    worker.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "runs old code and is replaced" in worker.log.read_text())
    assert version() == 3


# Stopped


def test_sigterm_lets_run_what_runs_and_leaves_what_waits(start_worker, hold, queued_ids):
    running = [hold(name) for name in ("left", "right")]
    worker = start_worker("file_processing", "--processes=2")
    for _, effects, _ in running:
        pid_in(effects)
    waiting = [tasks.add.enqueue(number) for number in range(3)]

    worker.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "warm shut down" in worker.log.read_text())
    late = tasks.add.enqueue(4)
    for _, _, release in running:
        release.touch()

    assert worker.process.wait(timeout=60) == 0
    assert [(fresh(job).status, outcomes(job)) for job, _, _ in running] == [(FINISHED, ["finished"])] * 2
    assert [(fresh(job).status, fresh(job).attempt) for job in [*waiting, late]] == [(QUEUED, 1)] * 4
    assert len(queued_ids("file_processing")) == 4
    assert not Worker.objects.exists()


def test_what_goes_on_longer_than_its_grace_is_cut(start_worker, hold):
    once, effects_of_once, _ = hold("once")
    again, effects, _ = hold("again", tasks.hold_idempotent)
    worker = start_worker("file_processing", "--processes=2", "--grace=1")
    children = [pid_in(effects_of_once), pid_in(effects)]

    assert worker.stop() == 0

    assert all(map(is_gone, children))
    once, again = fresh(once), fresh(again)
    assert (once.status, once.is_interrupted, outcomes(once)) == (FAILED, True, ["lost"])
    assert "ended with the worker, which stopped after a grace of 1 s" in once.error_message
    assert (again.status, again.attempt, outcomes(again)) == (QUEUED, 2, ["lost"])
    assert not Worker.objects.exists()


def test_sigterm_twice_cuts_what_runs_at_once(start_worker, hold):
    job, effects, _ = hold("on")
    worker = start_worker("file_processing")
    child = pid_in(effects)

    def is_over():
        worker.process.send_signal(signal.SIGTERM)
        return worker.process.poll() is not None

    wait_until(is_over)

    assert worker.process.returncode == 0
    assert is_gone(child)
    job = fresh(job)
    assert (job.status, job.is_interrupted, outcomes(job)) == (FAILED, True, ["lost"])
    assert "ended with the worker, which was told twice to stop" in job.error_message


# Supervised


def test_a_worker_tells_who_supervises_it_when_it_works_and_when_it_stops(start_worker, tmp_path):
    ready, address = tmp_path / "ready", str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(address)
        notified.settimeout(60)
        worker = start_worker("file_processing", f"--ready-file={ready}", NOTIFY_SOCKET=address)

        told = [""]
        while not told[-1].startswith("READY"):  # It may say before that it lives.
            told = [notified.recv(1000).decode()]
        assert ready.read_text().split() == [str(worker.pid)]
        tasks.add.enqueue(1).wait(timeout=60)
        told.append(notified.recv(1000).decode())
        assert ready.exists()
        assert worker.stop() == 0
        while not told[-1].startswith("STOPPING"):
            told.append(notified.recv(1000).decode())

    assert told[0].splitlines() == ["READY=1", f"MAINPID={worker.pid}"]
    assert set(told[1:-1]) == {"WATCHDOG=1"}
    assert told[-1] == "STOPPING=1"
    assert not ready.exists()
