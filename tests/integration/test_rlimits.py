"""Limits of CPU time and memory: a job over its limit fails with that reason and harms no other."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest
from django.db import connections

from django_jobs import executor, registry, rlimits, task
from django_jobs.processes import SharedMoment
from django_jobs.states import FAILED, FINISHED
from tests import tasks
from tests.conftest import claim, execute, fresh, lines, no_time_limit, wait_until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits memory"),
]

MEMORY = "django_jobs.exceptions.MemoryLimitExceeded"
CPU = "django_jobs.exceptions.CpuLimitExceeded"


@pytest.fixture(autouse=True)
def _restored():
    """Whatever a job does, its process is as before."""
    before = resource.getrlimit(resource.RLIMIT_DATA), signal.getsignal(signal.SIGXCPU)
    yield
    assert (resource.getrlimit(resource.RLIMIT_DATA), signal.getsignal(signal.SIGXCPU)) == before
    assert "django-jobs-cpu-limit" not in [thread.name for thread in threading.enumerate()]


@pytest.fixture
def warned(caplog):
    rlimits._warn_once.cache_clear()
    yield lambda: [record.getMessage() for record in caplog.records if record.name == "django_jobs.rlimits"]
    rlimits._warn_once.cache_clear()


def call(name, *args, **values):
    return {"task": f"tests.tasks.{name}", "args": list(args), **values}


# Memory


def test_a_job_that_wants_more_memory_than_its_limit_fails_and_says_so(job_factory):
    job = execute(job_factory(**call("allocate_at_most_100_mb", 200)))

    assert (job.status, job.error_type) == (FAILED, MEMORY)
    assert job.error_message == (
        "tests.tasks.allocate_at_most_100_mb used more than 100 MB of memory, the limit of the task; "
        "have it do less at a time, or raise @task(memory_mb=…)."
    )
    assert "in allocate\n" in job.traceback
    assert "MemoryError\n\nThe above exception was the direct cause" in job.traceback


@pytest.mark.parametrize("name", ["run_out_of_memory_by_a_thread_pool", "allocate_asynchronously"])
def test_what_other_threads_of_the_process_allocate_counts(job_factory, name):
    too_much = execute(job_factory(**call(name, 200)))
    enough = execute(job_factory(**call(name, 10)))

    assert (too_much.status, too_much.error_type) == (FAILED, MEMORY)
    assert (enough.status, enough.result) == (FINISHED, 10 * 2**20)


def test_a_thread_that_gets_no_stack_is_for_want_of_memory(job_factory):
    job = execute(job_factory(**call("start_threads", 100)))

    assert (job.status, job.error_type) == (FAILED, MEMORY)
    assert "can't start new thread" in job.traceback


def test_jobs_after_one_over_its_limit_run_in_the_same_process_without_its_limit(job_factory):
    execute(job_factory(**call("allocate_at_most_100_mb", 200)))

    unlimited = execute(job_factory(**call("allocate", 200)))
    limited = execute(job_factory(**call("allocate_at_most_100_mb", 50)))

    assert (unlimited.status, unlimited.result) == (FINISHED, 200 * 2**20)
    assert (limited.status, limited.result, limited.progress) == (FINISHED, 50 * 2**20, 100)


def test_what_the_process_had_before_does_not_count(job_factory):
    held = bytearray(300 * 2**20)

    job = execute(job_factory(**call("allocate_at_most_100_mb", 50)))

    assert len(held)
    assert job.status == FINISHED


def test_a_job_may_do_with_less_when_it_gets_no_more(job_factory):
    job = execute(job_factory(**call("do_with_less_memory", 200)))

    assert (job.status, job.result) == (FINISHED, 2**20)


def test_other_errors_of_a_limited_job_stay_what_they_are(job_factory, settings):
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "QUEUE_LIMITS": {"file_processing": {"memory_mb": 50}}}

    job = execute(job_factory(**call("fail", "broken")))

    assert (job.error_type, job.error_message) == ("ValueError", "broken")


def test_a_memory_error_without_a_limit_stays_one(job_factory):
    job = execute(job_factory(**call("allocate", 10**9)))

    assert (job.status, job.error_type) == (FAILED, "MemoryError")


def test_a_lower_limit_of_the_process_is_left_as_it_is(job_factory, settings):
    # So much that what earlier tests have left free in this process cannot hold it.
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "QUEUE_LIMITS": {"file_processing": {"memory_mb": 4000}}}
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    lower = rlimits._data_bytes() + 1000 * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (lower, hard))
    try:
        job = execute(job_factory(**call("allocate", 2500)))

        assert (job.status, job.error_type) == (FAILED, "MemoryError")
        assert resource.getrlimit(resource.RLIMIT_DATA) == (lower, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def test_where_the_system_has_no_limits_of_memory_jobs_run_and_that_is_told_once(
    job_factory, monkeypatch, warned
):
    monkeypatch.setattr(sys, "platform", "darwin")

    found = [execute(job_factory(**call("allocate_at_most_100_mb", 200))).status for _ in range(2)]

    assert found == [FINISHED, FINISHED]
    assert warned() == ["Limits of memory are not enforced on this system; only Linux has them."]


# CPU time


def test_a_job_that_computes_longer_than_its_limit_fails_and_says_so(job_factory):
    job = execute(job_factory(**call("compute_for_a_fifth_of_a_second", 30)))

    assert (job.status, job.error_type) == (FAILED, CPU)
    assert job.error_message == (
        "tests.tasks.compute_for_a_fifth_of_a_second used more than 0.2 seconds of CPU time, the limit of "
        "the task; have it do less at a time, or raise @task(cpu_seconds=…)."
    )
    assert "in compute\n" in job.traceback


def test_only_what_it_computes_itself_counts(job_factory):
    tasks.compute(0.3)  # As the jobs before it did.

    slept = execute(job_factory(**call("sleep_on", 0.5)))
    waited = execute(job_factory(**call("compute_in_a_process", 0.5)))

    assert (slept.status, slept.result) == (FINISHED, "slept")
    assert (waited.status, waited.result) == (FINISHED, "computed\n")


def test_code_in_c_is_ended_when_it_returns(job_factory, tmp_path):
    job = execute(job_factory(**call("derive_keys", str(tmp_path / "keys"), 1_500_000)))

    assert (job.status, job.error_type) == (FAILED, CPU)
    assert len(lines(tmp_path / "keys")) <= 1


@pytest.mark.parametrize("name", ["compute_in_a_thread", "compute_between_awaits"])
def test_what_its_threads_compute_counts_and_ends_what_waits_for_them(job_factory, name):
    began = time.process_time()

    job = execute(job_factory(**call(name, 5)))

    assert (job.status, job.error_type) == (FAILED, CPU)
    assert time.process_time() - began < 4


def test_jobs_after_one_over_its_limit_compute_on_their_own_account(job_factory):
    execute(job_factory(**call("compute_for_a_fifth_of_a_second", 30)))

    limited = execute(job_factory(**call("compute_for_a_fifth_of_a_second", 0.05)))
    unlimited = execute(job_factory(**call("compute", 0.3)))

    assert [limited.status, unlimited.status] == [FINISHED, FINISHED]


def test_the_handler_of_a_project_is_back_afterwards(job_factory):
    def own(*args):
        raise AssertionError

    former = signal.signal(signal.SIGXCPU, own)
    try:
        execute(job_factory(**call("compute_for_a_fifth_of_a_second", 30)))

        assert signal.getsignal(signal.SIGXCPU) is own
    finally:
        signal.signal(signal.SIGXCPU, former)


def test_a_time_limit_that_strikes_while_the_limits_end_leaves_nothing_behind(job_factory, monkeypatch):
    class Struck(Exception):
        pass

    def strike(self):
        monkeypatch.undo()
        raise Struck

    monkeypatch.setattr(rlimits._CpuWatch, "end", strike)

    job = execute(job_factory(**call("compute_for_a_fifth_of_a_second", 0.01)))

    assert (job.status, job.error_type.rpartition(".")[2]) == (FAILED, "Struck")


def test_other_processes_see_when_a_job_is_over_its_limit(job_factory):
    deadline = SharedMoment(time.monotonic)
    seen = []

    def look():
        seen.append((deadline.get(), rlimits.cpu_seconds_used(os.getpid())))

    watcher = threading.Timer(0.1, look)
    watcher.start()
    began = time.process_time()
    executor.run(claim(job_factory(**call("sleep_on", 0.3))), no_time_limit, cpu_deadline=deadline)
    watcher.join()

    [(moment, used)] = seen
    assert began < moment - 0.2 < time.process_time()
    assert began - 0.05 < used < time.process_time() + 0.05
    assert deadline.get() == 0


def test_the_cpu_time_of_another_process_beyond_its_limit_is_told():
    deadline = SharedMoment(time.monotonic)
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        assert rlimits.cpu_seconds_over(busy.pid, deadline) == 0

        deadline.set(0.2)
        wait_until(lambda: rlimits.cpu_seconds_over(busy.pid, deadline) > 0.1)

        deadline.set(1000)
        assert rlimits.cpu_seconds_over(busy.pid, deadline) == 0
    finally:
        busy.kill()
        busy.wait()
    assert rlimits.cpu_seconds_used(busy.pid) is None
    assert rlimits.cpu_seconds_over(busy.pid, deadline) == 0


def test_in_another_thread_than_the_main_one_nothing_is_enforced_and_that_is_told_once(job_factory, warned):
    jobs = [job_factory(**call("compute_for_a_fifth_of_a_second", 0.4)) for _ in range(2)]

    def run():
        for job in jobs:
            execute(job)
        connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()

    assert [fresh(job).status for job in jobs] == [FINISHED, FINISHED]
    [told] = warned()
    assert "compute_for_a_fifth_of_a_second are not enforced" in told


# Whose limit


@pytest.fixture
def queue_limits(settings):
    def set_limits(**limits):
        settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "QUEUE_LIMITS": {"kg_extraction": limits}}

    return set_limits


def test_a_queue_limits_the_jobs_on_it(job_factory, queue_limits):
    queue_limits(cpu_seconds=0.2, memory_mb=50)

    computes = execute(job_factory(**call("compute", 30, queue="kg_extraction")))
    allocates = execute(job_factory(**call("allocate", 200, queue="kg_extraction")))
    elsewhere = execute(job_factory(**call("allocate", 200, queue="file_processing")))

    assert [computes.error_type, allocates.error_type, elsewhere.status] == [CPU, MEMORY, FINISHED]
    assert 'the limit of the queue "kg_extraction"' in computes.error_message
    assert 'raise DJANGO_JOBS["QUEUE_LIMITS"]["kg_extraction"]["memory_mb"]' in allocates.error_message


def test_the_limit_of_the_task_wins_and_what_it_leaves_open_is_the_queues(job_factory, queue_limits):
    queue_limits(cpu_seconds=0.2, memory_mb=20)

    more_than_the_queue = execute(job_factory(**call("allocate_at_most_100_mb", 50, queue="kg_extraction")))
    more_than_its_own = execute(job_factory(**call("allocate_at_most_100_mb", 200, queue="kg_extraction")))
    of_the_queue = execute(
        job_factory(**call("compute_for_a_fifth_of_a_second", 0.01, queue="kg_extraction"))
    )

    assert more_than_the_queue.status == FINISHED
    assert "the limit of the task" in more_than_its_own.error_message
    assert of_the_queue.status == FINISHED


def test_a_task_that_was_renamed_keeps_its_limits_under_its_old_name(forget_declared):
    renamed = task(name="allocating", memory_mb=64)(tasks.undeclared)
    function = registry.load("tests.tasks.undeclared")

    limits = rlimits.limits_of("tests.tasks.undeclared", function, "default")

    assert renamed.name == "allocating"
    assert limits._limits["memory_mb"].amount == 64


def test_a_queue_limit_of_no_use_fails_the_job_and_says_so(job_factory, queue_limits):
    queue_limits(cpu=60)

    job = execute(job_factory(**call("add", 1, queue="kg_extraction")))

    assert (job.status, job.error_type) == (FAILED, "django.core.exceptions.ImproperlyConfigured")
    assert "{'kg_extraction': {'cpu': 60}}; allowed is a dict of names of queues" in job.error_message
