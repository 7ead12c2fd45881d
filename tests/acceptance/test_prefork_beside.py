"""What a worker runs beside each other: queues by weight, coroutines, plain jobs of RQ; and what is large."""

import json
import sys

import django_rq
import pytest
from rq.command import (
    send_kill_horse_command,
    send_shutdown_command,
    send_stop_execution_command,
    send_stop_job_command,
)
from rq.queue import Queue as RQQueue
from rq.suspension import resume, suspend

from django_jobs import control, enqueue_many, relay
from django_jobs.models import Job, Worker
from django_jobs.states import CANCELED, FAILED, FINISHED, QUEUED, STARTED
from tests import tasks
from tests.conftest import ISOLATION, fresh, lines, wait_until, write

pytestmark = pytest.mark.skipif(ISOLATION == "fork", reason="Processes that stay are another way.")

HOLD = "tests.tasks.hold"


@pytest.fixture
def paths(tmp_path):
    """The arguments of a job that holds, by its name: the file of its effects, and that which releases it."""
    return lambda name: (str(tmp_path / name), str(tmp_path / f"release {name}"))


@pytest.fixture
def release(tmp_path):
    return lambda name: (tmp_path / f"release {name}").touch()


@pytest.fixture
def pid_of(tmp_path):
    """The process that runs the job of this name, as soon as it does."""
    return lambda name: int(wait_until(lambda: lines(tmp_path / name))[0].split()[1])


@pytest.fixture
def plain(valkey):
    """Enqueue a job of plain RQ."""

    def enqueue(function, *args, queue="file_processing"):
        return django_rq.get_queue(queue).enqueue(function, *args)

    return enqueue


def outcomes(job):
    return [attempt.outcome for attempt in job.attempts.all()]


# Queues


@pytest.fixture
def flood_and_few(tmp_path):
    """Enqueue 300 jobs on one queue, then 6 on another; the file in which each notes its queue."""
    for count, queue in [(300, "file_processing"), (6, "vectorization")]:
        call = tasks.note.using(queue=queue).call(str(tmp_path / "effects"), queue)
        enqueue_many([call] * count)
    return tmp_path / "effects"


def test_a_flood_on_one_queue_does_not_starve_another_that_has_weight(start_worker, flood_and_few):
    worker = start_worker("file_processing=5,vectorization=1", "--burst", "--processes=1")

    assert worker.process.wait(timeout=60) == 0
    assert set(Job.objects.values_list("status", "attempt")) == {(FINISHED, 1)}
    ran = lines(flood_and_few)
    assert len(ran) == 306
    assert ran[150:].count("vectorization") == 0


def test_queues_without_weights_are_served_in_their_order(start_worker, flood_and_few):
    worker = start_worker("file_processing", "vectorization", "--burst", "--processes=1")

    assert worker.process.wait(timeout=60) == 0
    assert lines(flood_and_few) == ["file_processing"] * 300 + ["vectorization"] * 6
    assert not Worker.objects.exists()


def test_jobs_that_are_taken_at_once_run_in_the_order_of_their_queue(start_worker, valkey, tmp_path):
    effects = str(tmp_path / "effects")
    start_worker("file_processing")
    for _ in range(20):  # So that it takes many at once from now on.
        tasks.add.enqueue(1).wait(timeout=60)

    suspend(valkey)
    waiting = enqueue_many(tasks.note.call(effects, str(number)) for number in range(1, 30))
    waiting.append(tasks.note.using(at_front=True).enqueue(effects, "0"))
    resume(valkey)

    assert {job.wait(timeout=60).status for job in waiting} == {FINISHED}
    assert lines(tmp_path / "effects") == [str(number) for number in range(30)]


def test_what_a_worker_cannot_be_told_ends_the_command_with_a_line(start_worker):
    fork = ["--isolation=fork", "file_processing"]
    expected = {
        ("file_processing=0",): '"file_processing=0": the weight of a queue is a whole number from 1 to 1000',
        ("file_processing=five",): '"file_processing=five": the weight of a queue is a whole number',
        (*fork, "--grace=1", "--processes=2"): "--processes, --grace and --isolation=fork exclude each other",
        (fork[0], "file_processing=2"): "Weights of queues and --isolation=fork exclude each other",
        ("--processes=0", "file_processing"): "argument --processes: '0' is no whole number from 1",
        ("--grace=soon", "file_processing"): "argument --grace: 'soon' is no number of seconds",
    }

    workers = {options: start_worker(*options) for options in expected}

    for options, worker in workers.items():
        assert worker.process.wait(timeout=60) in (1, 2)
        told = worker.log.read_text()
        assert expected[options] in told
        assert "Traceback" not in told


def test_a_worker_with_several_processes_ends_after_exactly_so_many_jobs(start_worker):
    enqueue_many(tasks.add.call(number) for number in range(10))

    worker = start_worker("file_processing", "--processes=2", "--max-jobs=3")

    assert worker.process.wait(timeout=60) == 0
    assert (Job.objects.finished().count(), Job.objects.queued().count()) == (3, 7)


# Coroutines


@pytest.fixture
def start_async_worker(start_worker, shop):
    """Start a worker that runs so many async jobs at a time, in one process, and knows which are async."""
    folder, environment = shop
    write(folder / "shop" / "tasks.py", "import tests.tasks\n")

    def start(concurrency):
        return start_worker("--processes=1", f"--async-concurrency={concurrency}", **environment)

    return start


def test_as_many_coroutines_as_are_asked_for_run_at_the_same_time(start_async_worker, tmp_path):
    jobs = [tasks.meet.enqueue(str(tmp_path / "met"), 20) for _ in range(20)]
    start_async_worker(20)

    assert {job.wait(timeout=60).status for job in jobs} == {FINISHED}
    assert len({job.result for job in jobs}) == 1
    assert {outcome for job in jobs for outcome in outcomes(job)} == {FINISHED}


def test_one_of_several_coroutines_is_canceled_or_outlasts_its_time_and_the_others_go_on(
    start_async_worker, paths, release, tmp_path
):
    held = tasks.hold_asynchronously
    others = [held.enqueue(*paths(f"other {number}")) for number in range(2)]
    canceled = held.enqueue(*paths("canceled"))
    late = held.using(timeout=2).enqueue(*paths("late"))
    start_async_worker(20)
    wait_until(lambda: {fresh(job).status for job in [canceled, *others]} == {STARTED})
    wait_until(lambda: fresh(canceled).progress)

    control.cancel(canceled)

    assert canceled.wait(timeout=60).status == CANCELED
    assert outcomes(canceled) == ["canceled"]
    assert lines(tmp_path / "canceled") == ["CancelledError", "cleaned up"]
    assert (late.wait(timeout=60).status, outcomes(late)) == (FAILED, ["failed"])
    assert "2 seconds" in late.error_message
    assert lines(tmp_path / "late") == ["CancelledError", "cleaned up"]
    assert [fresh(job).status for job in others] == [STARTED] * 2
    for number, job in enumerate(others):
        release(f"other {number}")
        assert (job.wait(timeout=60).result, outcomes(job)) == ("released", ["finished"])


def test_coroutines_beside_each_other_keep_their_logs_and_their_progress_apart(start_async_worker):
    names = [f"name-{number}" for number in range(8)]
    jobs = [tasks.tell_as.enqueue(name, 3) for name in names]
    start_async_worker(8)

    for name, job in zip(names, jobs, strict=True):
        assert job.wait(timeout=60).result == [str(job.pk)]
        log = job.attempts.get().log.splitlines()
        assert len(log) == 12
        assert all(f" {name} " in line for line in log)
        assert {stage.split()[0] for stage in job.stages} == {name}


# RQ's commands


def test_rqs_command_to_stop_a_job_has_the_worker_look_for_what_is_to_be_stopped(
    start_worker, valkey, paths, pid_of
):
    canceled, other = tasks.hold.enqueue(*paths("canceled")), tasks.hold.enqueue(*paths("other"))
    start_worker("file_processing", "--processes=2", LEASE_SECONDS="3600")
    pid_of("canceled"), pid_of("other")

    with relay.withheld():
        control.stop(canceled)
    send_stop_job_command(valkey, delivery_id(canceled), serializer=json_serializer)

    assert (canceled.wait(timeout=60).status, outcomes(canceled)) == (CANCELED, ["canceled"])
    assert fresh(other).status == STARTED


def delivery_id(job):
    return f"{job.pk.hex}-{job.attempt}-{fresh(job).delivery}"


class json_serializer:
    dumps = staticmethod(lambda *args, **kwargs: json.dumps(*args, **kwargs).encode())
    loads = staticmethod(json.loads)


def test_rqs_commands_stop_one_of_several_plain_jobs(start_worker, valkey, plain, paths, pid_of, release):
    jobs = {name: plain(HOLD, *paths(name)) for name in ("job", "execution", "other")}
    start_worker("file_processing", "--processes=3")
    for name in jobs:
        pid_of(name)

    send_stop_job_command(valkey, jobs["job"].id)
    [execution] = jobs["execution"].get_executions()
    send_stop_execution_command(valkey, jobs["execution"].id, execution.id)

    for name in ("job", "execution"):
        wait_until(lambda name=name: jobs[name].get_status() == "stopped")
    assert jobs["other"].get_status() == "started"
    release("other")
    wait_until(lambda: jobs["other"].get_status() == "finished")


def test_rqs_command_to_kill_ends_what_a_worker_runs_and_the_worker_goes_on(
    start_worker, valkey, plain, paths, pid_of
):
    ours, theirs = tasks.hold.enqueue(*paths("ours")), plain(HOLD, *paths("theirs"))
    worker = start_worker("file_processing", "--processes=2", "--name=w-1")
    pid_of("ours"), pid_of("theirs")

    send_kill_horse_command(valkey, "w-1")

    assert (ours.wait(timeout=60).is_interrupted, outcomes(ours)) == (True, ["lost"])
    assert "its process was ended on request" in ours.error_message
    wait_until(lambda: theirs.get_status() == "failed")
    assert tasks.add.enqueue(1).wait(timeout=60).status == FINISHED
    assert worker.process.poll() is None


def test_rqs_command_to_shut_down_lets_run_what_runs(start_worker, valkey, plain, paths, pid_of, release):
    ours, theirs = tasks.hold.enqueue(*paths("ours")), plain(HOLD, *paths("theirs"))
    worker = start_worker("file_processing", "--processes=2", "--name=w-1")
    pid_of("ours"), pid_of("theirs")

    send_shutdown_command(valkey, "w-1")
    wait_until(lambda: "warm shut down" in worker.log.read_text())
    waiting = tasks.add.enqueue(1)
    release("ours"), release("theirs")

    assert worker.process.wait(timeout=60) == 0
    assert (fresh(ours).status, fresh(waiting).status) == (FINISHED, QUEUED)
    assert theirs.get_status() == "finished"


def test_suspended_workers_take_nothing_until_they_are_resumed(start_worker, valkey, plain, tmp_path):
    suspend(valkey)
    worker = start_worker("file_processing")
    ours, theirs = tasks.add.enqueue(1), plain(tasks.record, str(tmp_path / "effects"), "plain")
    wait_until(lambda: "suspended" in worker.log.read_text())
    seen = Worker.objects.get().seen_at
    wait_until(lambda: Worker.objects.get().seen_at > seen)
    assert (fresh(ours).status, theirs.get_status()) == (QUEUED, "queued")

    resume(valkey)

    assert ours.wait(timeout=60).status == FINISHED
    wait_until(lambda: theirs.get_status() == "finished")


# Plain jobs of RQ


def test_plain_jobs_run_beside_each_other_up_to_the_number_of_processes(
    start_worker, plain, tmp_path, pid_of, release, paths
):
    effects, release_all = paths("all")
    jobs = [plain(HOLD, effects, release_all) for _ in range(5)]
    start_worker("file_processing", "--processes=2")
    wait_until(lambda: len(lines(tmp_path / "all")) == 2)

    release("all")

    wait_until(lambda: {job.get_status() for job in jobs} == {"finished"})
    kinds = [line.split()[0] for line in lines(tmp_path / "all")]
    running = [kinds[:end].count("started") - kinds[:end].count("ended") for end in range(len(kinds) + 1)]
    assert (max(running), running[-1], len(kinds)) == (2, 0, 10)


def test_a_long_plain_job_does_not_hold_up_ours_on_another_process(
    start_worker, plain, paths, pid_of, release, tmp_path
):
    long = plain(HOLD, *paths("long"))
    start_worker("file_processing", "--processes=2")
    pid_of("long")

    ours = [tasks.add.enqueue(number) for number in range(5)]
    short = plain(tasks.record, str(tmp_path / "short"), "plain")

    assert {job.wait(timeout=60).status for job in ours} == {FINISHED}
    wait_until(lambda: short.get_status() == "finished")
    assert long.get_status() == "started"
    release("long")
    wait_until(lambda: long.get_status() == "finished")


DIES_WITH_WHAT_IT_TOOK = """
    import os, signal
    from django_jobs.engines.rq.taking import Taking

    answer = Taking.answer

    def take_and_die(*args, **kwargs):
        if answer(*args, **kwargs):
            os.killpg(os.getsid(0), signal.SIGKILL)

    Taking.answer = take_and_die
"""


def test_plain_jobs_of_several_queues_that_a_killed_worker_had_taken_are_where_rq_looks_for_them(
    start_worker, shop, valkey, plain, tmp_path
):
    folder, environment = shop
    write(folder / "shop" / "tasks.py", DIES_WITH_WHAT_IT_TOOK)
    names = ["file_processing", "vectorization"]
    jobs = {name: plain(tasks.record, str(tmp_path / "effects"), name, queue=name) for name in names}

    worker = start_worker(*names, "--processes=2", **environment)
    assert worker.process.wait(timeout=60) == -9

    for name, job in jobs.items():
        queue = RQQueue(name, connection=valkey)
        assert valkey.lrange(queue.intermediate_queue_key, 0, -1) == [job.id.encode()]
        assert valkey.lrange(queue.key, 0, -1) == []
        assert job.get_status() == "queued"
    assert lines(tmp_path / "effects") == []


# What a project adds, and what is large

LISTENING = """
    import json, os
    from pathlib import Path
    from django.apps import AppConfig
    from django_jobs.signals import job_finished, job_started

    def note(what, job, **more):
        from django_jobs.models import Job
        with Path(os.environ["PROJECT_DATA"], "heard").open("a") as file:
            status = Job.objects.get(pk=job.pk).status
            file.write(json.dumps([what, str(job.pk), status, os.getpid()]) + chr(10))

    def note_start(job, **more):
        note("started", job)

    def note_end(job, outcome, **more):
        note(outcome, job)

    class Shop(AppConfig):
        name = "shop"

        def ready(self):
            job_started.connect(note_start)
            job_finished.connect(note_end)
"""


def test_receivers_of_a_project_are_told_in_the_process_of_the_job_when_the_row_says_so(
    start_worker, shop, paths, release, pid_of, tmp_path
):
    folder, environment = shop
    write(folder / "shop" / "apps.py", LISTENING)
    held, failing = tasks.hold.enqueue(*paths("held")), tasks.fail.enqueue()
    release("held")
    start_worker("file_processing", **environment)

    heard = wait_until(lambda: (found := lines(tmp_path / "heard")) and len(found) == 4 and found)

    pid = pid_of("held")
    assert sorted(map(json.loads, heard)) == sorted(
        [
            ["started", str(held.pk), STARTED, pid],
            ["finished", str(held.pk), FINISHED, pid],
            ["started", str(failing.pk), STARTED, pid],
            ["failed", str(failing.pk), FAILED, pid],
        ]
    )


def test_large_arguments_results_and_logs_arrive_whole(start_worker):
    large = "ä" * 450_000
    echoed, telling = tasks.first.enqueue(large), tasks.log_lines.enqueue(100, "line")
    start_worker("file_processing")

    assert echoed.wait(timeout=60).result == large
    assert telling.wait(timeout=60).status == FINISHED
    log = telling.attempts.get().log.splitlines()
    assert [line.split()[-2:] for line in log] == [[str(number), "line"] for number in range(100)]


@pytest.mark.skipif(sys.platform != "linux", reason="Only Linux limits memory.")
def test_a_job_over_its_limit_fails_and_the_next_one_runs_in_the_same_process(
    start_worker, paths, pid_of, release
):
    for name in ("before", "after"):
        release(name)
    before = tasks.hold.enqueue(*paths("before"))
    hungry, busy = (
        tasks.allocate_at_most_100_mb.enqueue(300),
        tasks.compute_for_a_fifth_of_a_second.enqueue(9),
    )
    after = tasks.hold.enqueue(*paths("after"))
    start_worker("file_processing")

    assert [job.wait(timeout=60).status for job in (before, after)] == [FINISHED] * 2
    assert (fresh(hungry).error_type, fresh(busy).error_type) == (
        "django_jobs.exceptions.MemoryLimitExceeded",
        "django_jobs.exceptions.CpuLimitExceeded",
    )
    assert pid_of("before") == pid_of("after")
