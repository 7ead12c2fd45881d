"""The hand between queues and children: what was taken begins."""

import errno
import os

import pytest
from django_rq import get_queue

from django_jobs.engines.base import Delivery
from django_jobs.engines.rq.prefork import PreforkWorker
from django_jobs.engines.rq.taking import Arrivals, Taken
from django_jobs.pool.holdings import Holdings
from django_jobs.states import STARTED
from tests import tasks
from tests.conftest import fresh, make_worker


@pytest.mark.django_db(transaction=True)
def test_a_plain_job_that_cannot_be_started_costs_nothing_that_was_taken_with_it(
    job_factory, valkey, monkeypatch
):
    def fail():
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    queue, job = get_queue("file_processing"), job_factory()
    worker = PreforkWorker([queue], connection=valkey)
    worker._holdings, worker._arrivals = Holdings(make_worker().pk), Arrivals(valkey, [queue])
    plain = Taken(queue.name, queue.enqueue(tasks.add.function, 1).id)
    monkeypatch.setattr(os, "fork", fail)

    worker._begin([plain, Taken(queue.name, Delivery.of(job).id)])

    assert [each.job_id for each in worker._backlog] == [job.pk]
    assert fresh(job).status == STARTED
