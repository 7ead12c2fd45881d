"""Around an enqueue: the committed is delivered once, what is rolled back nowhere, the caller is spared."""

import signal
import threading
from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from django.db import OperationalError, connections, transaction
from django.utils import timezone

from django_jobs import aenqueue, aenqueue_many, enqueue, enqueue_at, enqueue_in, enqueue_many, relay
from django_jobs.models import Job
from django_jobs.states import FINISHED, QUEUED
from tests import tasks
from tests.conftest import Stopwatch, fresh
from tests.faults.proxy import HANG, PASS, REFUSE, FaultProxy
from tests.faults.servers import ValkeyServer

pytestmark = pytest.mark.django_db(transaction=True)

WAYS = {
    "task.enqueue": lambda: tasks.add.enqueue(1),
    "task.using.enqueue": lambda: tasks.add.using(delay=1).enqueue(1),
    "task.aenqueue": lambda: async_to_sync(tasks.add.aenqueue)(1),
    "enqueue": lambda: enqueue("tests.tasks.add", 1),
    "aenqueue": lambda: async_to_sync(aenqueue)("tests.tasks.add", 1),
    "enqueue_in": lambda: enqueue_in(timedelta(seconds=1), tasks.add, 1),
    "enqueue_at": lambda: enqueue_at(timezone.now(), tasks.add, 1),
    "enqueue_many": lambda: enqueue_many([tasks.add.call(1), tasks.add.call(2)]),
    "aenqueue_many": lambda: async_to_sync(aenqueue_many)([tasks.add.call(1), tasks.add.call(2)]),
}


@pytest.fixture
def line(redis_server, queues_on):
    """A way to Redis that a test can break; all queues are there, and a job was delivered before."""
    with FaultProxy(redis_server.address) as line:
        queues_on(f"redis://127.0.0.1:{line.port}/0")
        tasks.add.enqueue(0)  # Connects, and has the server load the scripts.
        Job.objects.all().delete()
        redis_server.client.flushall()
        yield line


def delivery_ids(jobs):
    return [f"{job.pk.hex}-1-0" for job in jobs]


def deliver_all():
    """What the maintainer does."""
    relay.run_once()
    assert relay.run_once() == 0


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_whatever_is_enqueued_in_a_transaction_that_rolls_back_is_nowhere(valkey, way):
    with pytest.raises(LookupError), transaction.atomic():
        way()
        assert Job.objects.exists()
        raise LookupError

    relay.run_once()
    assert not Job.objects.exists()
    assert valkey.keys("rq:job:*") == valkey.keys("rq:queue*") == []


def test_a_push_that_was_done_and_whose_reply_was_lost_makes_one_delivery(line, queued_ids):
    line.drop_reply_to = b"EVALSHA"

    job = tasks.add.enqueue(1)

    assert line.hits == 1
    assert queued_ids("file_processing") == delivery_ids([job])
    deliver_all()
    assert queued_ids("file_processing") == delivery_ids([job])
    assert fresh(job).delivered_at


def test_a_push_of_the_relay_whose_reply_was_lost_is_repeated_and_makes_one_delivery(line, queued_ids):
    with relay.withheld():
        jobs = enqueue_many(tasks.add.call(number) for number in range(3))
    line.drop_reply_to = b"EVALSHA"

    relay.run_once()
    assert line.hits == 1
    assert not Job.objects.exclude(delivered_at=None).exists()
    deliver_all()

    assert queued_ids("file_processing") == delivery_ids(jobs)
    assert not Job.objects.filter(delivered_at=None).exists()


@pytest.mark.parametrize("fault", [REFUSE, HANG])
def test_a_redis_that_breaks_off_costs_the_caller_a_second_at_most_and_nothing_else(
    line, queued_ids, caplog, fault
):
    line.mode = fault
    told = []

    with Stopwatch() as watch_of_first, transaction.atomic():
        first = tasks.add.enqueue(1)
        transaction.on_commit(lambda: told.append("a later hook"))
    with Stopwatch() as watch_of_following:
        following = [tasks.add.enqueue(number) for number in range(5)]

    assert told == ["a later hook"]
    assert watch_of_first.seconds < 2
    assert watch_of_following.seconds < 0.7
    assert Job.objects.queued().filter(delivered_at=None).count() == 6
    assert "wait in the database" in caplog.text or "waits in the database" in caplog.text

    line.mode = PASS  # What hung arrives now.
    deliver_all()
    assert sorted(queued_ids("file_processing")) == sorted(delivery_ids([first, *following]))


def test_a_hook_of_the_callers_that_fails_before_the_push_delays_the_delivery_and_no_more(valkey, queued_ids):
    def fail():
        raise LookupError("of the caller's own")

    with pytest.raises(LookupError, match="of the caller's own"), transaction.atomic():
        transaction.on_commit(fail)
        job = tasks.add.enqueue(1)

    assert (fresh(job).status, queued_ids("file_processing")) == (QUEUED, [])
    deliver_all()
    assert queued_ids("file_processing") == delivery_ids([job])


def test_a_job_whose_process_is_killed_between_commit_and_push_runs(start_worker, queued_ids):
    killed = start_worker(
        "-c",
        "import os, signal\n"
        "from django.db import transaction\n"
        "from tests import tasks\n"
        "with transaction.atomic():\n"
        "    transaction.on_commit(lambda: os.kill(os.getpid(), signal.SIGKILL))\n"
        "    tasks.add.enqueue(1, 2)\n",
        command="shell",
    )
    assert killed.process.wait(timeout=60) == -signal.SIGKILL
    job = Job.objects.get()
    assert (job.status, queued_ids("file_processing")) == (QUEUED, [])

    start_worker("file_processing", LEASE_SECONDS="30")

    assert (job.wait(timeout=60).status, job.attempt, job.result) == (FINISHED, 1, 3)


def test_without_a_database_the_caller_gets_its_error_and_redis_nothing(redis_server, cluster, queued_ids):
    cluster.kill()
    connections.close_all()

    with pytest.raises(OperationalError):
        tasks.add.enqueue(1)
    with pytest.raises(OperationalError), transaction.atomic():
        enqueue_many([tasks.add.call(1), tasks.add.call(2)])

    assert redis_server.client.dbsize() == 0
    cluster.start()
    connections.close_all()
    job = tasks.add.enqueue(1)
    assert queued_ids("file_processing") == delivery_ids([job])


@pytest.mark.parametrize("count", [1, 3])
def test_jobs_whose_database_stops_between_commit_and_push_are_delivered_once(
    redis_server, cluster, queued_ids, count
):
    with transaction.atomic():
        transaction.on_commit(lambda: cluster.stop("immediate"))
        jobs = enqueue_many(tasks.add.call(number) for number in range(count))

    cluster.start()
    connections.close_all()
    deliver_all()
    assert queued_ids("file_processing") == delivery_ids(jobs)


@pytest.mark.parametrize("fault", [REFUSE, HANG])
def test_a_sentinel_that_breaks_off_costs_the_caller_a_second_at_most(
    redis_server, settings, tmp_path, fault
):
    with (
        ValkeyServer(tmp_path / "sentinel", sentinel_of=redis_server) as sentinel,
        FaultProxy(sentinel.address) as line,
    ):
        queue = {"SENTINELS": [("127.0.0.1", line.port)], "MASTER_NAME": "main"}
        settings.RQ_QUEUES = dict.fromkeys(settings.RQ_QUEUES, queue)
        line.mode = fault
        let_go = threading.Timer(10, setattr, [line, "mode", PASS])  # So that this test ends in any case.
        let_go.start()

        with Stopwatch() as watch:
            job = tasks.add.enqueue(1)

        let_go.cancel()
        let_go.join()
        assert watch.seconds < 2
        assert (fresh(job).status, fresh(job).delivered_at) == (QUEUED, None)
        line.mode = PASS
        relay.run_once()
        assert fresh(job).delivered_at
