"""What children tell: when it is heard and recorded."""

import time
from types import SimpleNamespace
from uuid import uuid4

import pytest
from django_rq import get_queue

from django_jobs.batches import Claimed, Report
from django_jobs.engines.rq import hearing
from django_jobs.engines.rq.prefork import PreforkWorker
from django_jobs.engines.rq.taking import Arrivals, Taken
from django_jobs.pool.children import Child
from django_jobs.pool.holdings import Held
from django_jobs.pool.seats import Seats
from django_jobs.pool.workload import MOST_IN_ADVANCE
from django_jobs.states import FINISHED
from tests import tasks


class ForksLater:
    """Stands for a forker that has not come to it: what a child is handed stays on its line."""

    def fork(self, options, *ends):
        pass


@pytest.fixture
def worker(valkey, monkeypatch):
    monkeypatch.setattr(hearing, "GATHER_SECONDS", 60)  # No busy machine takes as long.
    worker = PreforkWorker([get_queue("file_processing")], connection=valkey)
    worker._nursery, worker._arrivals = SimpleNamespace(children=[]), Arrivals(valkey, worker.queues)
    worker._workload.note("shop.pay", 6)
    yield worker
    for child in worker._nursery.children:
        child.close()


@pytest.fixture
def handed(worker):
    """Makes a child that was handed so many jobs of a task, and maybe some that run beside these."""
    seats = Seats(10, 2)

    def make(count, task="shop.pay", beside=0):
        child = Child(ForksLater(), seats, len(worker._nursery.children), "w1", async_concurrency=2)
        for name in [task] * count + [tasks.add_slowly.name] * beside:
            claimed = Claimed(uuid4(), 1, name, "mail", "[]")
            assert child.hand(claimed)
            worker._holdings.held[claimed.job_id] = Held(claimed, uuid4(), Taken("mail", "1"), child)
        worker._nursery.children.append(child)
        return child

    return make


def end_one(worker, child):
    job_id, _ = child.handed.popitem()
    worker._note_end(Report(job_id, "mail", "finished", FINISHED, 6, "{}"))


def test_a_report_waits_for_others_as_long_as_its_child_has_more_to_do(worker, handed):
    child = handed(2)

    end_one(worker, child)
    assert 0 < worker._outbox.seconds_to_wait() <= 60

    end_one(worker, child)
    assert worker._outbox.seconds_to_wait() == 0


def test_not_more_reports_wait_than_the_seats_remember_of(worker, handed):
    child = handed(2 * MOST_IN_ADVANCE)

    for _ in range(MOST_IN_ADVANCE):
        end_one(worker, child)
    assert worker._outbox.seconds_to_wait() > 0

    end_one(worker, child)
    assert worker._outbox.seconds_to_wait() == 0


def test_nothing_is_handed_out_while_more_reports_are_in_memory_alone_than_a_child_remembers(
    worker, handed, monkeypatch
):
    child, waiting = handed(MOST_IN_ADVANCE + 1), Claimed(uuid4(), 1, "shop.pay", "mail", "[]")
    monkeypatch.setattr(worker._outbox, "_resting_until", time.monotonic() + 600)
    monkeypatch.setattr(worker, "_may_take", lambda: True)
    worker._nursery.fill, worker._nursery.staying = lambda: None, lambda: [child]
    worker._nursery.max_jobs = None
    while child.handed:
        end_one(worker, child)
    worker._backlog.append(waiting)
    worker._holdings.held[waiting.job_id] = Held(waiting, uuid4(), Taken("mail", "2"))

    worker._hand_out()
    assert not child.handed

    worker._outbox._waiting.popitem()  # As if it was recorded.
    worker._hand_out()
    assert list(child.handed) == [waiting.job_id]


def test_nothing_is_taken_while_reports_find_no_database(worker, handed, monkeypatch):
    end_one(worker, handed(1))
    monkeypatch.setattr(worker._outbox, "flush", list)
    monkeypatch.setattr(worker._outbox, "_resting_until", time.monotonic() + 600)

    worker._record()

    assert worker._rests_until > time.monotonic()


def test_only_children_with_work_for_longer_go_unheard_while_reports_are_gathered(worker, handed):
    worker._workload.note("shop.pack", 3600)
    many, _few, _one_long, _with_places = handed(21), handed(3), handed(1, "shop.pack"), handed(21, beside=1)
    assert worker._supplied() == set()  # Nothing is gathered.

    end_one(worker, many)

    assert worker._supplied() == {many}


def test_while_the_database_is_away_all_children_are_heard(worker, handed, monkeypatch):
    many = handed(21)
    end_one(worker, many)

    monkeypatch.setattr(worker._outbox, "_resting_until", time.monotonic() + 600)

    assert worker._supplied() == set()
