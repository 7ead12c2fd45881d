"""`async def` tasks, claimed, run and reported as a worker does it."""

import threading

import pytest
from django.db import connections, transaction
from rq.timeouts import JobTimeoutException, UnixSignalDeathPenalty

from django_jobs import executor
from django_jobs.models import Queue
from django_jobs.reports import report
from django_jobs.states import FAILED, FINISHED, QUEUED
from tests import tasks
from tests.conftest import claim, execute, fresh, lines, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


def coroutine_task(name, *args):
    return {"task": f"tests.tasks.{name}", "args": list(args)}


def limited(seconds):
    """The time limit of a real worker: an exception raised by a signal."""
    return UnixSignalDeathPenalty(seconds, JobTimeoutException)


def queues():
    return sorted(Queue.objects.values_list("name", flat=True))


def test_its_result_is_that_of_the_coroutine(job_factory):
    job = execute(job_factory(**coroutine_task("add_slowly", 1, 2)))

    assert (job.status, job.result, job.progress) == (FINISHED, 3, 100)


def test_calling_it_makes_a_coroutine_and_enqueues_nothing(job_factory):
    coroutine = tasks.add_slowly(1, 2)

    assert coroutine.cr_code.co_name == "add_slowly"
    coroutine.close()


def test_a_decorator_that_knows_nothing_of_coroutines_does_no_harm(job_factory):
    job = execute(job_factory(**coroutine_task("add_decorated", 1, 2)))

    assert (job.status, job.result, job.result_error) == (FINISHED, 3, "")


def test_its_failure_tells_where_in_the_users_code(job_factory):
    job = execute(job_factory(**coroutine_task("fail_asynchronously", "why")))

    assert (job.status, job.error_type, job.error_message) == (FAILED, "ValueError", "why")
    assert "in fail_asynchronously" in job.traceback
    assert "django_jobs/" not in job.traceback
    assert job.attempts.get().traceback == job.traceback


def test_a_failed_one_is_retried(job_factory):
    job = execute(job_factory(**coroutine_task("fail_asynchronously", "why"), max_attempts=2))

    assert (job.status, job.attempt) == (QUEUED, 2)


def test_it_uses_the_orm_knows_its_job_and_tells_its_progress(job_factory):
    job = execute(job_factory(**coroutine_task("count_queues_in_async_steps", ["a", "b"])))

    assert (job.status, job.result) == (FINISHED, [["a", "b"], False, str(job.pk)])
    assert job.stages == {"creating": {"status": "completed", "progress": 100}}
    assert queues() == ["a", "b"]


def test_a_transaction_in_it_is_rolled_back_with_its_error_and_nothing_else(job_factory):
    job = execute(job_factory(**coroutine_task("create_in_a_transaction_and_fail", "a")))

    assert (job.status, job.error_message) == (FAILED, "a")
    assert queues() == ["before a"]


def test_a_query_that_blocks_the_loop_fails_it(job_factory):
    job = execute(job_factory(**coroutine_task("query_in_a_loop")))

    assert (job.status, job.error_type) == (FAILED, "django.core.exceptions.SynchronousOnlyOperation")


def test_it_enqueues_jobs(job_factory, valkey, queued_ids):
    job = execute(job_factory(**coroutine_task("add_by_another", 7)))

    assert (job.status, queues()) == (FINISHED, ["queue 7"])
    assert len(queued_ids("file_processing")) == 1


def test_a_time_limit_interrupts_what_it_awaits_and_its_finally_blocks_run(job_factory, tmp_path):
    effects, never = tmp_path / "effects", tmp_path / "never"
    started = claim(
        job_factory(**coroutine_task("hold_asynchronously", str(effects), str(never)), timeout_seconds=1)
    )

    outcome, _ = executor.run(started, limited)
    report(started, outcome, worker_name="w1")

    job = fresh(started)
    assert (job.status, job.error_type) == (FAILED, "rq.timeouts.JobTimeoutException")
    assert "1 seconds" in job.error_message
    assert lines(effects) == ["CancelledError", "cleaned up"]
    assert queues() == ["cleaned up"]
    assert job.progress == 40


def test_its_progress_is_seen_while_it_runs(job_factory, tmp_path):
    effects, go = tmp_path / "effects", tmp_path / "go"
    job = job_factory(**coroutine_task("hold_asynchronously", str(effects), str(go)))

    def run():
        try:
            execute(job)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_until(lambda: (fresh(job).progress, fresh(job).progress_message) == (40, "attempt 1"))
    finally:
        go.touch()
        thread.join()

    assert (fresh(job).status, fresh(job).result, lines(effects)) == (FINISHED, "released", ["cleaned up"])


def test_after_one_another_runs_in_the_same_process(job_factory):
    for number in range(3):
        assert execute(job_factory(**coroutine_task("add_slowly", number, 1))).result == number + 1


def test_its_work_is_inside_a_transaction_that_is_open_around_it(job_factory):
    with transaction.atomic():
        executor.run_here(job_factory(**coroutine_task("count_queues_in_async_steps", ["a"])))
        assert queues() == ["a"]
        transaction.set_rollback(True)

    assert queues() == []
