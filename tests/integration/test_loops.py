"""Coroutines and the database: which thread and connection they use, and what they see of their job."""

import asyncio
from contextlib import contextmanager

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connection, connections, transaction
from rq.timeouts import JobTimeoutException, UnixSignalDeathPenalty

from django_jobs import current, current_job, loops, progress
from django_jobs.models import Queue
from django_jobs.reporter import Reporter

pytestmark = pytest.mark.django_db


def names():
    return sorted(Queue.objects.values_list("name", flat=True))


def test_a_coroutine_is_inside_the_callers_transaction():
    async def work():
        seen = await Queue.objects.aget(name="outside")
        await Queue.objects.acreate(name="inside")
        return seen.name, [queue.name async for queue in Queue.objects.order_by("name")]

    with transaction.atomic():
        Queue.objects.create(name="outside")
        seen = loops.run(work())
        within = names()
        transaction.set_rollback(True)

    assert seen == ("outside", ["inside", "outside"])
    assert within == ["inside", "outside"]
    assert names() == []


def test_a_transaction_of_a_called_function_is_rolled_back_with_its_error():
    @transaction.atomic
    def create_and_fail():
        Queue.objects.create(name="lost")
        raise LookupError("no")

    async def work():
        await sync_to_async(create_and_fail)()

    with pytest.raises(LookupError):
        loops.run(work())

    assert names() == []


def test_the_connection_is_the_callers():
    async def work():
        return await sync_to_async(lambda: connections["default"].connection)()

    connection.ensure_connection()

    assert loops.run(work()) is connection.connection


def test_a_query_on_the_loop_itself_stays_forbidden():
    async def work():
        Queue.objects.exists()

    with pytest.raises(SynchronousOnlyOperation):
        loops.run(work())


def test_a_query_in_a_task_that_outlives_its_coroutine_is_refused():
    async def ask(go):
        await go.wait()
        await Queue.objects.aexists()

    async def begin():
        go = asyncio.Event()
        return go, asyncio.create_task(ask(go))

    async def end(go, task):
        go.set()
        await task

    go, task = loops.run(begin())

    with pytest.raises(RuntimeError, match="has exited"):
        loops.run(end(go, task))


def test_a_time_limit_ends_a_coroutine_whose_last_words_reach_the_database():
    async def work():
        try:
            await asyncio.sleep(60)
        finally:
            await Queue.objects.acreate(name="last words")

    with (
        pytest.raises(JobTimeoutException, match="1 seconds"),
        UnixSignalDeathPenalty(1, JobTimeoutException),
    ):
        loops.run(work())

    assert names() == ["last words"]


@contextmanager
def running(job):
    reporter = Reporter(job)
    with current.running(job), reporter.recording():
        yield reporter


@pytest.mark.django_db(transaction=True)
def test_a_coroutine_knows_its_job_and_tells_its_progress(job_factory):
    async def work():
        progress.update(40, message="read")
        await sync_to_async(progress.update)(60)
        return current_job()

    job = job_factory()
    with running(job) as reporter:
        known = loops.run(work())

    assert known is job
    assert (reporter.fields()["progress"], reporter.fields()["progress_message"]) == (60, "read")
