"""Whatever is killed: the row tells the truth, nothing runs twice that may not, what may run again does."""

import os
import signal
from functools import partial

from django.db import connection

from django_jobs import Retry, enqueue_many
from django_jobs.models import Job, Lease, Worker
from django_jobs.processes import identity
from django_jobs.states import CANCELED, FAILED, FINISHED, STARTED
from tests import tasks
from tests.conftest import Stopwatch, fresh, lines, wait_until


def child_of(effects):
    """The pid of the process that runs `tasks.hold` with this file."""
    return int(wait_until(lambda: lines(effects))[-1].split()[-1])


def maintainer_pid():
    return int(Lease.objects.get().holder.split(".")[-2])


def test_a_job_whose_process_is_killed_is_interrupted_within_seconds_with_the_evidence(start_worker):
    job = tasks.kill_itself.enqueue()
    worker = start_worker("file_processing")

    job.wait(timeout=60)

    assert (job.status, job.is_interrupted) == (FAILED, True)
    assert (job.finished_at - job.started_at).total_seconds() < 30
    assert "its process was ended by signal 9 (Killed)" in job.error_message
    assert "MB of memory" in job.error_message
    event = job.events.get()
    assert event.kind == "worker_lost"
    assert event.message.endswith("Attempt 1 was cut; nobody knows how far it got.")
    assert (job.attempts.get().outcome, worker.process.poll()) == ("lost", None)


def test_a_job_whose_process_is_killed_is_retried_while_attempts_are_left(start_worker):
    job = tasks.kill_itself.using(retry=Retry(max=1)).enqueue()
    after = tasks.add.enqueue(1)
    start_worker("file_processing")

    job.wait(timeout=60)

    assert [attempt.outcome for attempt in job.attempts.all()] == ["lost", "lost"]
    assert (job.status, job.attempt, job.losses) == (FAILED, 2, 2)
    assert after.wait(timeout=60).status == FINISHED


def test_a_job_that_kills_every_process_is_given_up_after_three_more_and_harms_no_other(start_worker):
    poison, after = tasks.kill_itself.using(idempotent=True).enqueue(), tasks.add.enqueue(1)
    worker = start_worker("file_processing")

    poison.wait(timeout=60)

    assert (poison.is_interrupted, poison.attempt, poison.losses) == (True, 4, 4)
    assert [attempt.outcome for attempt in poison.attempts.all()] == ["lost"] * 4
    assert after.wait(timeout=60).status == FINISHED
    assert worker.process.poll() is None


def test_when_workers_are_killed_their_children_die_and_another_worker_settles_their_jobs(
    start_worker, tmp_path
):
    once, again, stopped = (tmp_path / name for name in ("once", "again", "stopped"))
    release = tmp_path / "release"
    interrupted = tasks.hold.enqueue(str(once), str(release))
    rerun = tasks.hold_idempotent.enqueue(str(again), str(release))
    canceled = tasks.hold_idempotent.enqueue(str(stopped), str(release))
    doomed = [start_worker("file_processing") for _ in range(3)]
    children = [child_of(effects) for effects in (once, again, stopped)]
    maintainer = wait_until(maintainer_pid)

    for worker in doomed:
        worker.kill()
    canceled.cancel()

    wait_until(lambda: {identity(pid) for pid in [*children, maintainer]} == {None})
    with Stopwatch() as watch:
        start_worker("file_processing")
        wait_until(lambda: len(lines(again)) == 2)
        release.touch()
        rerun.wait(timeout=60)
    assert watch.seconds < 30

    assert (rerun.status, rerun.attempt, rerun.losses) == (FINISHED, 2, 1)
    assert [attempt.outcome for attempt in rerun.attempts.all()] == ["lost", "finished"]
    assert [line.split()[0] for line in lines(again)] == ["started", "started", "ended"]

    assert (interrupted.wait(timeout=60).is_interrupted, interrupted.losses) == (True, 1)
    assert "last answered at" in interrupted.error_message
    assert [line.split()[0] for line in lines(once)] == ["started"]

    assert canceled.wait(timeout=60).status == CANCELED
    assert [line.split()[0] for line in lines(stopped)] == ["started"]


def test_when_workers_are_killed_amid_many_short_jobs_each_runs_once_at_most(start_worker, tmp_path):
    """What they had claimed and not begun others run; what they had begun and not recorded is cut."""
    effects = [tmp_path / f"effects-{number}" for number in range(1000)]
    jobs = enqueue_many(tasks.note.call(str(path), "ran") for path in effects)

    def have_run(count):
        return sum(path.exists() for path in effects) >= count

    for count in (100, 200, 300):
        worker = start_worker("file_processing", "--processes=2", LEASE_SECONDS="3")
        wait_until(partial(have_run, count))
        worker.kill()
    start_worker("file_processing", "--processes=2", LEASE_SECONDS="3")
    wait_until(lambda: not Job.objects.unfinished().exists())

    jobs = [fresh(job) for job in jobs]
    assert {job.attempt for job in jobs} == {1}
    assert {len(lines(path)) for path in effects} <= {0, 1}
    finished = [path for job, path in zip(jobs, effects, strict=True) if job.status == FINISHED]
    assert all(path.exists() for path in finished)
    assert all(job.is_interrupted for job in jobs if job.status != FINISHED)
    assert len(finished) > 300


def test_an_interrupted_job_runs_again_when_a_person_asks_for_it(start_worker, tmp_path):
    effects, release = tmp_path / "effects", tmp_path / "release"
    job = tasks.hold.enqueue(str(effects), str(release))
    start_worker("file_processing")
    os.kill(child_of(effects), signal.SIGKILL)
    assert job.wait(timeout=60).is_interrupted

    release.touch()
    job.requeue()

    assert (job.wait(timeout=60).status, job.attempt) == (FINISHED, 2)


def test_a_job_ends_when_its_worker_hangs_for_longer_than_its_lease(start_worker, tmp_path):
    """On SQLite, which may be locked for long, the process counts instead, and that lives."""
    effects, release = tmp_path / "effects", tmp_path / "release"
    job = tasks.hold.enqueue(str(effects), str(release))
    worker = start_worker("file_processing")
    child = child_of(effects)

    worker.process.send_signal(signal.SIGSTOP)
    row = Worker.objects.get()
    if connection.vendor == "postgresql":
        wait_until(lambda: fresh(job).is_interrupted)
        assert identity(child) is None  # So the next attempt could not run beside it.
    release.touch()
    worker.process.send_signal(signal.SIGCONT)
    wait_until(lambda: fresh(job).has_ended)

    if connection.vendor == "sqlite":
        assert (fresh(job).result, job.attempts.get().outcome) == ("released", "finished")
    wait_until(lambda: fresh(row).leased_until > row.leased_until)
    assert worker.process.poll() is None
    assert tasks.add.enqueue(1).wait(timeout=60).status == FINISHED


def test_a_killed_maintainer_is_replaced_and_due_jobs_run(start_worker):
    start_worker("file_processing")
    killed = wait_until(maintainer_pid)

    os.kill(killed, signal.SIGKILL)
    job = tasks.add.using(delay=1).enqueue(1)

    assert job.wait(timeout=60).status == FINISHED
    assert maintainer_pid() != killed


def test_a_stopped_worker_finishes_its_job_and_leaves_nothing_behind(start_worker, tmp_path):
    effects, release = tmp_path / "effects", tmp_path / "release"
    job = tasks.hold.enqueue(str(effects), str(release))
    waiting = tasks.add.enqueue(1)
    worker = start_worker("file_processing")
    child_of(effects)
    maintainer = wait_until(maintainer_pid)

    worker.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "warm shut down requested" in worker.log.read_text())
    assert fresh(job).status == STARTED
    release.touch()

    assert worker.process.wait(timeout=60) == 0
    assert (fresh(job).status, fresh(waiting).status) == (FINISHED, "queued")
    assert not Worker.objects.exists()
    assert not Lease.objects.exists()
    assert identity(maintainer) is None


def test_an_idle_worker_stops_at_once(start_worker):
    worker = start_worker("file_processing")
    wait_until(Worker.objects.exists)
    wait_until(lambda: "Listening on" in worker.log.read_text())
    maintainer = wait_until(maintainer_pid)

    with Stopwatch() as watch:
        assert worker.stop() == 0

    assert watch.seconds < 5
    assert (Worker.objects.exists(), identity(maintainer)) == (False, None)


def test_a_worker_told_twice_to_stop_cuts_its_job_and_says_so(start_worker, tmp_path):
    effects = tmp_path / "effects"
    job = tasks.hold.enqueue(str(effects), str(tmp_path / "never"))
    worker = start_worker("file_processing")
    child = child_of(effects)

    worker.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "warm shut down requested" in worker.log.read_text())
    # RQ takes a second signal within a second for an echo of the first.
    wait_until(lambda: worker.process.send_signal(signal.SIGTERM) or worker.process.poll() is not None)

    assert (fresh(job).is_interrupted, identity(child)) == (True, None)
    assert "told twice to stop" in fresh(job).error_message
    assert not Worker.objects.exists()
