"""Leftovers: what a server keeps and no row awaits is removed; nothing else."""

import pytest
from rq import Queue as RQQueue
from rq.executions import Execution
from rq.job import Job as RQJob
from rq.registry import StartedJobRegistry

from django_jobs import leftovers, relay
from django_jobs.engines import get_engine
from django_jobs.engines.base import Delivery
from django_jobs.engines.rq import keeping
from django_jobs.leftovers import Leftovers
from django_jobs.models import Installation, Job
from django_jobs.models.workers import installation_id
from django_jobs.states import CANCELED, FAILED, FINISHED, QUEUED, SCHEDULED, STARTED
from tests.conftest import everything_in, fresh

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]


def looked_twice():
    tidying = Leftovers()
    return tidying.run_once() + tidying.run_once()


@pytest.fixture
def delivered(job_factory):
    """A job whose delivery waits in its queue, changed behind the server's back."""

    def make(**values):
        job = job_factory()
        relay.run_once()
        Job.objects.filter(pk=job.pk).update(**values)
        return job

    return make


@pytest.mark.parametrize(
    "values", [{"status": status} for status in (CANCELED, FAILED, FINISHED, SCHEDULED)] + [{"attempt": 2}]
)
def test_a_delivery_that_no_row_awaits_is_removed(delivered, queued_ids, valkey, values):
    job = delivered(**values)

    assert looked_twice() == 1

    assert queued_ids("file_processing") == []
    assert job.pk.hex not in everything_in(valkey)


def test_the_delivery_of_a_deleted_row_is_removed(delivered, queued_ids):
    job = delivered()
    fresh(job).delete()

    assert looked_twice() == 1

    assert queued_ids("file_processing") == []


@pytest.mark.parametrize("values", [{}, {"status": STARTED}, {"delivery": 1}])
def test_a_delivery_that_may_yet_be_claimed_stays(delivered, queued_ids, values):
    delivered(**values)

    assert looked_twice() == 0

    assert len(queued_ids("file_processing")) == 1


def test_what_was_unawaited_once_and_is_awaited_again_stays(delivered, queued_ids):
    job, tidying = delivered(status=SCHEDULED), Leftovers()

    tidying.run_once()
    Job.objects.filter(pk=job.pk).update(status=QUEUED)

    assert (tidying.run_once(), len(queued_ids("file_processing"))) == (0, 1)


def test_deliveries_of_another_installation_stay(delivered, queued_ids):
    delivered(status=FINISHED)
    Installation.objects.all().delete()
    installation_id.cache_clear()

    assert (looked_twice(), len(queued_ids("file_processing"))) == (0, 1)


def test_plain_jobs_stay(valkey, queued_ids):
    RQQueue("file_processing", connection=valkey).enqueue("tests.tasks.record", "x", "y")

    assert (looked_twice(), len(queued_ids("file_processing"))) == (0, 1)


def test_what_a_killed_worker_had_taken_is_removed(delivered, valkey):
    taken, running = delivered(), delivered()
    queue = RQQueue("file_processing", connection=valkey)
    for _ in range(2):
        valkey.lmove(queue.key, queue.intermediate_queue_key)
    carrier = RQJob.fetch(Delivery.of(running).id, connection=valkey)
    with valkey.pipeline() as pipeline:
        Execution.create(carrier, 60, pipeline, worker_name="w1")
        pipeline.execute()
    Job.objects.update(status=FAILED)

    assert looked_twice() == 2

    assert valkey.lrange(queue.intermediate_queue_key, 0, -1) == []
    assert StartedJobRegistry("file_processing", connection=valkey).get_job_count(cleanup=False) == 0
    left = everything_in(valkey).replace("rq:worker:w1:executions", "")
    assert taken.pk.hex not in left


def test_a_long_queue_is_walked_through(delivered, queued_ids, monkeypatch):
    monkeypatch.setattr(leftovers, "BATCH", 2)
    jobs = [delivered() for _ in range(5)]
    Job.objects.filter(pk=jobs[-1].pk).update(status=CANCELED)
    tidying = Leftovers()

    assert [tidying.run_once() for _ in range(4)] == [0, 0, 0, 1]

    assert len(queued_ids("file_processing")) == 4


def test_a_long_queue_is_looked_through_for_few_at_once(delivered, queued_ids, monkeypatch):
    monkeypatch.setattr(keeping, "MOST_LOOKED_THROUGH", 12)
    for _ in range(5):
        delivered(status=CANCELED)
    tidying = Leftovers()

    told = [tidying.run_once() for _ in range(6)]

    assert [removed for removed in told if removed] == [2, 3]
    assert queued_ids("file_processing") == []


def test_a_queue_with_plain_jobs_in_it_is_walked_through(delivered, valkey, monkeypatch):
    monkeypatch.setattr(leftovers, "BATCH", 2)
    for _ in range(3):
        RQQueue("file_processing", connection=valkey).enqueue("tests.tasks.record", "x", "y")
    delivered(status=FINISHED)
    tidying = Leftovers()

    assert sum(tidying.run_once() for _ in range(4)) == 1


def test_a_foreign_delivery_keeps_no_other_place_from_being_looked_at(delivered, monkeypatch, queued_ids):
    monkeypatch.setattr(leftovers, "BATCH", 1)
    delivered(status=FINISHED)
    Installation.objects.all().delete()
    installation_id.cache_clear()
    mine = delivered(status=FINISHED)
    tidying = Leftovers()

    assert [tidying.run_once() for _ in range(4)] == [0, 0, 0, 1]

    assert Delivery.of(mine).id not in queued_ids("file_processing")


def test_a_server_that_is_away_is_left_for_later(settings):
    settings.RQ_QUEUES = {"file_processing": {"URL": "redis://127.0.0.1:1/0"}}

    assert Leftovers().run_once() == 0


def test_nothing_that_is_kept_costs_no_query(django_assert_num_queries):
    get_engine("rq").epoch("file_processing")

    with django_assert_num_queries(0):
        Leftovers().run_once()
