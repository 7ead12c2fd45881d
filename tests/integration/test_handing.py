"""The hand between queues and children: what was taken begins."""

import errno
import os
import time
from types import SimpleNamespace
from uuid import uuid4

import pytest
from django_rq import get_queue

from django_jobs.batches import Claimed, Report
from django_jobs.engines.base import Delivery
from django_jobs.engines.rq import prefork
from django_jobs.engines.rq.prefork import PreforkWorker
from django_jobs.engines.rq.taking import Arrivals, Taken
from django_jobs.pool.holdings import Held, Holdings
from django_jobs.pool.workload import MOST_IN_ADVANCE
from django_jobs.states import FINISHED, STARTED
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


# Reports of children that have more to do


class Handed:
    """A child that was handed so many jobs of a task, of which some run beside others."""

    def __init__(self, worker, count, task="shop.pay", beside=0):
        self.beside = beside
        self.handed = {uuid4(): Claimed(uuid4(), 1, task, "mail", "[]") for _ in range(count)}
        for job_id, claimed in self.handed.items():
            worker._holdings.held[job_id] = Held(claimed, uuid4(), Taken("mail", "1"), child=self)

    is_idle = property(lambda self: not self.handed)
    in_turn = property(lambda self: len(self.handed) - self.beside)

    def in_turn_of(self):
        return self.handed.values()

    def ran_seconds(self):
        return 0.0

    def end_one(self, ran_seconds=6):
        job_id, _ = self.handed.popitem()
        return Report(job_id, "mail", "finished", FINISHED, ran_seconds, "{}")


@pytest.fixture
def worker(valkey, monkeypatch):
    monkeypatch.setattr(prefork, "GATHER_SECONDS", 60)  # No busy machine takes as long.
    worker = PreforkWorker([get_queue("file_processing")], connection=valkey)
    worker._nursery = SimpleNamespace(children=[])
    return worker


def test_a_report_waits_for_others_as_long_as_its_child_has_more_to_do(worker):
    child = Handed(worker, 2)

    worker._note_end(child.end_one())
    assert 0 < worker._outbox.seconds_to_wait() <= 60

    worker._note_end(child.end_one())
    assert worker._outbox.seconds_to_wait() == 0


def test_not_more_reports_wait_than_the_seats_remember_of(worker):
    child = Handed(worker, 2 * MOST_IN_ADVANCE)

    for _ in range(MOST_IN_ADVANCE):
        worker._note_end(child.end_one())
    assert worker._outbox.seconds_to_wait() > 0

    worker._note_end(child.end_one())
    assert worker._outbox.seconds_to_wait() == 0


def test_only_children_with_work_for_longer_go_unheard_while_reports_are_gathered(worker):
    worker._workload.note("shop.pay", 6)
    worker._workload.note("shop.pack", 3600)
    many, few, one_long = Handed(worker, 21), Handed(worker, 3), Handed(worker, 1, "shop.pack")
    with_places = Handed(worker, 21, beside=1)
    worker._nursery.children = [many, few, one_long, with_places]
    assert worker._supplied() == set()  # Nothing is gathered.

    worker._note_end(many.end_one())

    assert worker._supplied() == {many}


def test_while_the_database_is_away_all_children_are_heard(worker, monkeypatch):
    worker._workload.note("shop.pay", 6)
    many = Handed(worker, 21)
    worker._nursery.children = [many]
    worker._note_end(many.end_one())

    monkeypatch.setattr(worker._outbox, "_resting_until", time.monotonic() + 600)

    assert worker._supplied() == set()
