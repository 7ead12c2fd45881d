"""All jobs of a transaction are pushed together when it commits."""

import pytest
from django.db import transaction

from django_jobs.engines.rq.engine import RQEngine
from django_jobs.models import Job
from django_jobs.states import QUEUED
from tests import tasks
from tests.conftest import fresh

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("valkey")]


@pytest.fixture
def pushes(monkeypatch):
    """How many deliveries each push of the real engine carried."""
    sizes = []
    push = RQEngine.push

    def counted(self, deliveries):
        sizes.append(len(deliveries))
        return push(self, deliveries)

    monkeypatch.setattr(RQEngine, "push", counted)
    return sizes


def test_jobs_of_one_transaction_are_one_push(pushes, queued_ids):
    with transaction.atomic():
        jobs = [tasks.add.enqueue(number) for number in range(20)]
        assert pushes == []

    assert pushes == [20]
    assert queued_ids("file_processing") == [f"{job.pk.hex}-1-0" for job in jobs]


def test_jobs_of_a_savepoint_that_rolled_back_are_not_pushed(pushes, queued_ids):
    with transaction.atomic():
        before = tasks.add.enqueue(1)
        with pytest.raises(LookupError), transaction.atomic():
            tasks.add.enqueue(2)
            raise LookupError
        after = tasks.add.enqueue(3)

    assert queued_ids("file_processing") == [f"{job.pk.hex}-1-0" for job in (before, after)]
    assert Job.objects.count() == 2


def test_jobs_of_a_transaction_that_rolled_back_are_not_pushed_with_the_next(pushes):
    with pytest.raises(LookupError), transaction.atomic():
        tasks.add.enqueue(1)
        raise LookupError

    with transaction.atomic():
        tasks.add.enqueue(2)

    assert pushes == [1]


def test_a_job_enqueued_first_in_a_savepoint_that_rolled_back_does_not_hold_up_the_others(queued_ids):
    with transaction.atomic():
        with pytest.raises(LookupError), transaction.atomic():
            tasks.add.enqueue(1)
            raise LookupError
        after = tasks.add.enqueue(2)

    assert queued_ids("file_processing") == [f"{after.pk.hex}-1-0"]


def test_under_transactions_by_hand_the_loop_delivers(pushes):
    transaction.set_autocommit(False)
    try:
        job = tasks.add.enqueue(1)
        transaction.commit()
    finally:
        transaction.set_autocommit(True)

    assert (fresh(job).status, pushes) == (QUEUED, [])
