"""Enqueueing and waiting in async code."""

import asyncio
import threading
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connections, transaction

from django_jobs import (
    aenqueue,
    aenqueue_many,
    aget_task_result,
    await_task_result,
    enqueue,
)
from django_jobs.exceptions import JobDoesNotExist, ResultExpired, TaskNotFound, UnknownQueue, WaitTimeout
from django_jobs.models import Job
from django_jobs.states import FAILED, FINISHED, QUEUED, SCHEDULED
from tests import tasks
from tests.conftest import execute, fresh

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("valkey")]


def awaited(function, *args, **kwargs):
    """What an async function returns; its queries run in this thread, on the connections of the test."""

    async def call():
        return await function(*args, **kwargs)

    return async_to_sync(call)()


def run_in_thread(job):
    """Have the job run in a thread, as if by a worker."""

    def run():
        try:
            execute(fresh(job))
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_task_is_enqueued_in_async_code(queued_ids):
    job = awaited(tasks.add.aenqueue, 1, right=2)

    assert (fresh(job).status, fresh(job).args, fresh(job).kwargs) == (QUEUED, [1], {"right": 2})
    assert queued_ids("file_processing") == [f"{job.pk.hex}-1-0"]


def test_so_is_one_with_options(queued_ids):
    job = awaited(tasks.add.using(delay=60, subject="file:42").aenqueue, 1)

    assert (fresh(job).status, fresh(job).subject) == (SCHEDULED, "file:42")


@pytest.mark.parametrize("function", [tasks.add, "tests.tasks.add"])
def test_so_is_a_function_or_its_name(function):
    job = awaited(aenqueue, function, 1, right=2)

    assert (fresh(job).task, fresh(job).queue, fresh(job).args) == ("tests.tasks.add", "file_processing", [1])


def test_so_are_many(queued_ids):
    jobs = awaited(aenqueue_many, (tasks.add.call(number) for number in range(3)))

    assert list(Job.objects.order_by("id")) == jobs
    assert queued_ids("file_processing") == [f"{job.pk.hex}-1-0" for job in jobs]


@pytest.mark.parametrize(
    ("way", "error"),
    [
        (lambda: tasks.add.using(queue="x").aenqueue(1), UnknownQueue),
        (lambda: tasks.add.aenqueue({1}), TypeError),
        (lambda: aenqueue("tests.tasks.gone"), TaskNotFound),
        (lambda: aenqueue_many([1]), TypeError),
    ],
)
def test_what_is_refused_is_refused_where_it_is_awaited(way, error):
    with pytest.raises(error):
        awaited(way)

    assert not Job.objects.exists()


def test_in_the_callers_transaction_it_is_delivered_at_the_commit(queued_ids):
    with transaction.atomic():
        job = awaited(tasks.add.aenqueue, 1)
        assert queued_ids("file_processing") == []

    assert queued_ids("file_processing") == [f"{job.pk.hex}-1-0"]


def test_enqueueing_in_a_thread_of_async_code_needs_no_other_name():
    job = awaited(sync_to_async(lambda: enqueue(tasks.add, 1)))

    assert fresh(job).status == QUEUED


@pytest.mark.parametrize("wait", [lambda job: job.await_result(timeout=60), lambda job: await_of(job)])
def test_the_loop_goes_on_while_a_job_is_awaited(wait):
    job = tasks.add.enqueue(1, 2)

    async def turn():
        for _ in range(20):
            await asyncio.sleep(0.01)
        return run_in_thread(job)

    async def view():
        turning = asyncio.create_task(turn())
        ended = await wait(job)
        return ended, await turning

    ended, thread = async_to_sync(view)()
    thread.join()

    assert getattr(ended, "result", getattr(ended, "return_value", None)) == 3


async def await_of(job):
    return await await_task_result(job.pk, timeout=60)


def test_an_awaited_job_is_the_same_object_as_it_is_then():
    job = tasks.fail.enqueue("why")
    execute(fresh(job))

    assert awaited(job.await_result, timeout=60) is job
    assert (job.status, job.error_message) == (FAILED, "why")


@pytest.mark.parametrize(
    "wait", [lambda job: job.await_result, lambda job: lambda **how: await_of_now(job, **how)]
)
@pytest.mark.parametrize("timeout", [0, 0.1])
def test_a_job_that_does_not_end_in_time_is_told(wait, timeout):
    job = tasks.add.enqueue(1)

    with pytest.raises(WaitTimeout, match=f"Job {job.pk} is still queued after {timeout} s"):
        awaited(wait(job), timeout=timeout)


async def await_of_now(job, timeout):
    return await await_task_result(job.pk, timeout)


def test_awaiting_inside_a_transaction_is_refused():
    job = tasks.add.enqueue(1)

    with transaction.atomic(), pytest.raises(RuntimeError, match="would wait for ever"):
        awaited(job.await_result)


def test_the_result_is_none_until_the_job_has_ended():
    job = tasks.add.enqueue(1, 2)
    assert awaited(aget_task_result, job.pk) is None

    execute(fresh(job))

    assert awaited(aget_task_result, str(job.pk)).return_value == 3
    assert awaited(await_task_result, job.pk, 0).return_value == 3


def test_the_result_of_a_failed_job_tells_its_error():
    job = execute(tasks.fail.enqueue("why"))

    result = awaited(await_task_result, job.pk)

    assert (result.is_err, result.error) == (True, "ValueError: why")


@pytest.mark.parametrize("ask", [aget_task_result, await_task_result])
def test_the_result_of_no_job_is_an_error(ask):
    with pytest.raises(JobDoesNotExist):
        awaited(ask, uuid4())


@pytest.mark.parametrize("ask", [aget_task_result, await_task_result])
def test_a_result_that_was_kept_for_a_time_has_expired(ask):
    job = execute(tasks.add.using(keep_result_for=0).enqueue(1))

    assert job.status == FINISHED
    with pytest.raises(ResultExpired):
        awaited(ask, job.pk)
