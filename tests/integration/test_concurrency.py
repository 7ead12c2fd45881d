"""Several async jobs in one process: each with its own limit, log, progress, connection and end."""

import logging
import threading

import pytest
from django.db import connections
from rq.timeouts import JobTimeoutException, UnixSignalDeathPenalty

from django_jobs import executor, loops
from django_jobs.concurrency import AsyncJobs
from django_jobs.models import Attempt, Job, Queue
from django_jobs.reports import report
from django_jobs.states import CANCELED, FAILED, FINISHED
from tests.conftest import Stopwatch, claim, fresh, lines, make_worker, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


def timeout_error(seconds):
    return JobTimeoutException(f"Task exceeded maximum timeout value ({seconds} seconds)")


class Running:
    """Jobs that are claimed and started as asked, and reported when they ended."""

    def __init__(self, limit, **options):
        options = {"done": self.report, "timeout_error": timeout_error, **options}
        self.jobs = AsyncJobs(limit, **options)
        self.ended = {}
        self.worker = make_worker()

    def report(self, job, outcome, raised):
        report(job, outcome, worker_name="w1")
        self.ended[job.pk] = outcome, raised, threading.current_thread()

    def start(self, job):
        return self.jobs.start(claim(job, worker=self.worker))

    def until_done(self, *jobs):
        wait_until(lambda: not self.jobs.running() & {job.pk for job in jobs})
        return [fresh(job) for job in jobs]

    def run(self, *jobs):
        for job in jobs:
            assert self.start(job)
        return self.until_done(*jobs)

    def seconds_of(self, *jobs):
        with Stopwatch() as watch:
            self.run(*jobs)
        return watch.seconds


@pytest.fixture
def start_running():
    made = []

    def make(limit=8, **options):
        made.append(Running(limit, **options))
        return made[-1]

    yield make
    for each in made:
        assert each.jobs.end(timeout_seconds=60)


@pytest.fixture
def make_jobs(job_factory):
    def make(count, name, *args, **values):
        return [job_factory(task=f"tests.tasks.{name}", args=list(args), **values) for _ in range(count)]

    return make


def coroutine_task(name, *args, **values):
    return {"task": f"tests.tasks.{name}", "args": list(args), **values}


# How many, and where


def test_fifty_that_wait_take_as_long_as_one_not_as_fifty(make_jobs):
    ended = []
    jobs = AsyncJobs(50, done=lambda job, outcome, raised: ended.append(outcome), timeout_error=timeout_error)

    def seconds_of(claimed, after_each=lambda: None):
        with Stopwatch() as watch:
            for job in claimed:
                jobs.start(job)
                after_each()
            wait_until(lambda: not jobs.running())
        return watch.seconds

    in_a_row = seconds_of(
        make_jobs(5, "sleep_asynchronously", 0.2), lambda: wait_until(lambda: not jobs.running())
    )
    at_once = seconds_of(make_jobs(50, "sleep_asynchronously", 0.2))
    jobs.end()

    assert [outcome.result for outcome in ended] == [0.2] * 55
    assert at_once < in_a_row * 10 / 5


def test_there_is_room_for_so_many_and_for_another_when_one_has_ended(start_running, make_jobs, tmp_path):
    running, release = start_running(limit=2), tmp_path / "go"
    holding = make_jobs(2, "hold_asynchronously", str(tmp_path / "effects"), str(release))
    holding[1].args = [str(tmp_path / "effects"), str(tmp_path / "never")]
    holding[1].save()
    [third] = make_jobs(1, "sleep_asynchronously", 0)

    assert [running.start(job) for job in holding] == [True, True]
    claimed = claim(third)
    assert running.jobs.start(claimed) is False
    assert running.jobs.wait_for_room(timeout_seconds=0.05) is False
    assert running.jobs.running() == {job.pk for job in holding}

    release.touch()
    assert running.jobs.wait_for_room(timeout_seconds=60) is True
    assert running.jobs.start(claimed) is True
    running.until_done(third)
    assert running.jobs.stop(holding[1].pk)


def test_an_attempt_of_a_job_that_still_runs_here_is_not_run_beside_it(start_running, make_jobs, tmp_path):
    running = start_running()
    [job] = make_jobs(1, "hold_asynchronously", str(tmp_path / "effects"), str(tmp_path / "go"))
    claimed = claim(job)

    assert running.jobs.start(claimed) is True
    assert running.jobs.start(claimed) is False

    (tmp_path / "go").touch()
    assert running.until_done(job)[0].status == FINISHED


def test_threads_are_used_again_and_end_with_their_connections_closed(make_jobs):
    kept = []

    def keep(job, outcome, raised):
        kept.append((threading.current_thread(), connections["default"]))

    jobs = AsyncJobs(3, done=keep, timeout_error=timeout_error)
    for job in make_jobs(6, "create_queues_in_a_transaction", "x", False):
        jobs.wait_for_room()
        jobs.start(job)

    assert jobs.end(timeout_seconds=60)
    assert len(kept) == 6
    assert 1 <= len({thread for thread, _ in kept}) <= 3
    assert not any(thread.is_alive() for thread, _ in kept)
    assert all(connection.connection is None for _, connection in kept)
    assert jobs.start(Job()) is False


def test_a_job_counts_as_running_until_its_end_is_told(start_running, make_jobs):
    told, go = threading.Event(), threading.Event()

    def done(job, outcome, raised):
        told.set()
        go.wait(60)

    running = start_running(done=done)
    [job] = make_jobs(1, "sleep_asynchronously", 0)
    running.start(job)
    assert told.wait(60)

    assert running.jobs.running() == {job.pk}
    assert running.jobs.stop(job.pk) is False
    go.set()
    running.until_done(job)


def test_an_error_in_what_follows_a_job_leaves_the_others_alone(start_running, make_jobs, caplog):
    def fail(job, outcome, raised):
        raise SystemExit("broken")

    running = start_running(limit=1, done=fail)

    running.run(*make_jobs(1, "sleep_asynchronously", 0))
    running.run(*make_jobs(1, "sleep_asynchronously", 0))

    assert [record.getMessage()[:8] for record in caplog.records].count("What fol") == 2


def test_an_error_of_the_executor_is_told_as_the_jobs(start_running, make_jobs):
    def broken(job, time_limit):
        raise LookupError("broken")

    running = start_running(run=broken)

    [job] = running.run(*make_jobs(1, "sleep_asynchronously", 0))

    assert (job.status, job.error_type, job.error_message) == (FAILED, "LookupError", "broken")


# Each has its own end


def test_a_time_limit_ends_its_job_as_that_of_a_sync_job_and_no_other(
    start_running, job_factory, make_jobs, tmp_path
):
    running, effects, release = start_running(), tmp_path / "effects", tmp_path / "go"
    call = coroutine_task("hold_asynchronously", str(effects), str(tmp_path / "never"), timeout_seconds=1)
    limited = job_factory(**call)
    others = make_jobs(3, "go_on_when_canceled", str(release), timeout_seconds=300)
    for job in [limited, *others]:
        running.start(job)

    [limited] = running.until_done(limited)

    assert running.jobs.running() == {job.pk for job in others}
    release.touch()
    assert {job.status for job in running.until_done(*others)} == {FINISHED}
    assert lines(effects) == ["CancelledError", "cleaned up"]
    assert Queue.objects.filter(name="cleaned up").exists()

    outlasting = claim(job_factory(task="tests.tasks.outlast_its_time", timeout_seconds=1))
    sync, _ = executor.run(outlasting, lambda seconds: UnixSignalDeathPenalty(seconds, JobTimeoutException))
    assert (limited.status, limited.error_type) == (FAILED, sync.error["error_type"])
    assert limited.error_message == sync.error["error_message"]


def test_each_has_a_time_limit_of_its_own(start_running, make_jobs):
    running = start_running()
    short = make_jobs(2, "sleep_asynchronously", 60, timeout_seconds=1)
    long = make_jobs(2, "sleep_asynchronously", 1.5, timeout_seconds=120)

    ended = running.run(*short, *long)

    assert [job.status for job in ended] == [FAILED, FAILED, FINISHED, FINISHED]


def test_one_is_canceled_and_the_others_are_left_alone(start_running, make_jobs, tmp_path):
    running, effects, release = start_running(), tmp_path / "effects", tmp_path / "go"
    [doomed] = make_jobs(1, "hold_asynchronously", str(effects), str(tmp_path / "never"), max_attempts=5)
    others = make_jobs(3, "go_on_when_canceled", str(release))
    for job in [doomed, *others]:
        running.start(job)
    wait_until(lambda: fresh(doomed).progress == 40)

    assert running.jobs.stop(doomed.pk) is True
    [doomed] = running.until_done(doomed)

    assert (doomed.status, doomed.attempt, doomed.progress) == (CANCELED, 1, 40)
    assert doomed.attempts.get().outcome == Attempt.Outcome.CANCELED
    assert lines(effects) == ["CancelledError", "cleaned up"]
    assert running.jobs.running() == {job.pk for job in others}
    release.touch()
    assert {job.status for job in running.until_done(*others)} == {FINISHED}
    assert running.jobs.stop(doomed.pk) is False


def test_one_is_stopped_before_it_has_begun_to_wait(start_running, make_jobs):
    """As the thread has it that is about to run it."""
    begun, go = threading.Event(), threading.Event()

    def run(job, time_limit):
        begun.set()
        go.wait(60)
        return executor.run(job, time_limit)

    running = start_running(run=run)
    [job] = make_jobs(1, "sleep_asynchronously", 60)
    running.start(job)
    assert begun.wait(60)

    assert running.jobs.stop(job.pk) is True
    go.set()

    assert running.until_done(job)[0].status == CANCELED


def test_one_is_stopped_with_another_reason_than_a_cancellation(start_running, make_jobs, tmp_path):
    running = start_running()
    [job] = make_jobs(1, "hold_asynchronously", str(tmp_path / "effects"), str(tmp_path / "never"))
    running.start(job)
    wait_until(lambda: fresh(job).progress == 40)

    running.jobs.stop(job.pk, TimeoutError("the worker stops"))

    [job] = running.until_done(job)
    assert (job.status, job.error_type, job.error_message) == (FAILED, "TimeoutError", "the worker stops")


def test_one_that_goes_on_when_canceled_is_left_behind_and_counted(
    start_running, make_jobs, tmp_path, monkeypatch
):
    monkeypatch.setattr(loops, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(loops, "_left_behind", [])
    running, release = start_running(), tmp_path / "go"
    [stubborn] = make_jobs(1, "go_on_when_canceled", str(release), timeout_seconds=1)

    [stubborn] = running.run(stubborn)

    assert (stubborn.status, stubborn.error_type) == (FAILED, "rq.timeouts.JobTimeoutException")
    assert loops.left_behind() == 1
    assert running.run(*make_jobs(1, "sleep_asynchronously", 0))[0].status == FINISHED
    release.touch()
    wait_until(lambda: loops.left_behind() == 0)


# Each tells its own


def test_logs_progress_and_current_job_do_not_mix(start_running, job_factory):
    running = start_running(limit=8)
    names = [f"job-{number}" for number in range(8)]

    jobs = [job_factory(**coroutine_task("tell_as", name, 5)) for name in names]
    ended = running.run(*jobs)

    for name, job in zip(names, ended, strict=True):
        assert (job.status, job.error_message, job.result) == (FINISHED, "", [str(job.pk)])
        assert set(job.stages) == {f"{name} {where}" for where in ("loop", "own thread", "other", "task")}
        told = [line.partition("tests.tasks: ")[2] for line in job.attempts.get().log.splitlines()]
        assert sorted(told) == sorted(5 * list(job.stages))


def test_what_threads_without_a_context_log_is_only_told_of_a_job_that_runs_alone(
    start_running, make_jobs, tmp_path
):
    def log(message):
        thread = threading.Thread(target=logging.getLogger("app").warning, args=[message])
        thread.start()
        thread.join()

    running = start_running()
    first, second = make_jobs(2, "go_on_when_canceled", str(tmp_path / "go"))
    second.args = [str(tmp_path / "first")]
    second.save()
    running.start(first)
    running.start(second)
    wait_until(lambda: len(running_reporters()) == 2)
    log("of both or neither")
    (tmp_path / "first").touch()
    running.until_done(second)
    log("of the first")
    (tmp_path / "go").touch()
    running.until_done(first)

    told = [job.attempts.get().log for job in (first, second)]
    assert "of the first" in told[0]
    assert "of both or neither" not in "".join(told)
    assert running_reporters() == []


def test_what_is_logged_of_the_end_of_one_is_not_told_of_the_one_that_runs_on(
    start_running, make_jobs, tmp_path
):
    running = start_running()
    [holding] = make_jobs(1, "go_on_when_canceled", str(tmp_path / "go"))
    running.start(holding)
    wait_until(lambda: len(running_reporters()) == 1)
    running.run(*make_jobs(3, "sleep_asynchronously", 0))
    (tmp_path / "go").touch()

    running.until_done(holding)

    assert holding.attempts.get().log == ""


def running_reporters():
    from django_jobs.reporter import _distributor

    assert (_distributor in logging.getLogger().handlers) == bool(_distributor._reporters)
    return _distributor._reporters


def test_what_a_job_sets_in_its_context_is_gone_with_it(start_running, make_jobs):
    running = start_running(limit=1)

    asynchronous = [running.run(*make_jobs(1, "leave_the_language", "fr"))[0].result for _ in range(2)]
    plain = [running.run(*make_jobs(1, "leave_the_language_in_its_thread", "fr"))[0].result for _ in range(2)]

    assert "fr" not in [*asynchronous, *plain]


# Each has its own connection


def test_each_uses_the_orm_in_its_own_thread_and_its_own_transaction(start_running, job_factory):
    running = start_running(limit=6)
    jobs = [
        job_factory(**coroutine_task("create_queues_in_a_transaction", f"q{number}", number % 2 == 1))
        for number in range(6)
    ]

    ended = running.run(*jobs)

    assert [job.status for job in ended] == [FINISHED, FAILED] * 3
    threads = {job.pk: thread.ident for job in jobs for _, _, thread in [running.ended[job.pk]]}
    assert [job.result for job in ended[::2]] == [[threads[job.pk], 3] for job in ended[::2]]
    assert Queue.objects.filter(name__in=["q1", "q3", "q5"]).count() == 3
    assert Queue.objects.count() == 3 * 3 + 3


def test_a_transaction_that_one_leaves_open_is_rolled_back_and_its_thread_goes_on(start_running, job_factory):
    running = start_running(limit=1)

    [leaving] = running.run(job_factory(**coroutine_task("leave_a_transaction_open", "a")))
    [broken] = running.run(job_factory(**coroutine_task("break_its_connection")))
    [after] = running.run(job_factory(**coroutine_task("create_queues_in_a_transaction", "b", False)))

    assert [leaving.status, broken.status, after.status] == [FINISHED, FAILED, FINISHED]
    assert sorted(Queue.objects.values_list("name", flat=True)) == ["b", "b 1", "b 2"]
