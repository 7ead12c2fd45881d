"""What children tell: when it is heard and recorded."""

import time
from types import SimpleNamespace
from uuid import uuid4

import pytest
from django_rq import get_queue

from django_jobs import batches
from django_jobs.batches import Claimed, Report
from django_jobs.engines.rq import hearing
from django_jobs.engines.rq.prefork import PreforkWorker
from django_jobs.engines.rq.taking import Arrivals, Taken
from django_jobs.pool import lines
from django_jobs.pool.children import Child
from django_jobs.pool.holdings import Held
from django_jobs.pool.seats import Seats
from django_jobs.pool.workload import MOST_IN_ADVANCE, MOST_UNKEPT, Workload
from django_jobs.states import FINISHED
from tests import tasks


class ForksLater:
    """Stands for a forker that has not come to it: what a child is handed stays on its line."""

    def fork(self, options, *ends):
        pass


@pytest.fixture
def worker(valkey, monkeypatch):
    monkeypatch.setattr(hearing, "GATHER_SECONDS", 60)  # No busy machine takes as long.
    monkeypatch.setattr(hearing, "LATER_SECONDS", 60)
    worker = PreforkWorker([get_queue("file_processing")], connection=valkey)
    children = []
    worker._nursery = SimpleNamespace(
        children=children,
        staying=lambda: children,
        fill=lambda: None,
        processes=1,
        max_jobs=None,
        unsettled=set(),
    )
    worker._arrivals = Arrivals(valkey, worker.queues)
    worker._workload.note("shop.pay", 6)
    yield worker
    for child in worker._nursery.children:
        child.close()


@pytest.fixture
def handed(worker):
    """Makes a child that was handed so many jobs of a task, and maybe some that run beside these."""
    seats = Seats(10, 1 + 100)

    def make(count, task="shop.pay", beside=0, async_concurrency=2):
        child = Child(ForksLater(), seats, len(worker._nursery.children), "w1", async_concurrency)
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


def test_not_more_reports_wait_than_may_be_in_memory_alone(worker, handed):
    child = handed(2 * MOST_UNKEPT)

    for _ in range(MOST_UNKEPT):
        end_one(worker, child)
    assert worker._outbox.seconds_to_wait() > 0

    end_one(worker, child)
    assert worker._outbox.seconds_to_wait() == 0


def test_nothing_is_handed_out_while_too_many_reports_are_in_memory_alone(worker, handed):
    child, waiting = handed(MOST_UNKEPT + 1), Claimed(uuid4(), 1, "shop.pay", "mail", "[]")
    while child.handed:
        end_one(worker, child)
    worker._backlog.append(waiting)
    worker._holdings.held[waiting.job_id] = Held(waiting, uuid4(), Taken("mail", "2"))

    worker._hand_out()
    assert not child.handed

    worker._outbox._waiting.popitem()  # As if it was recorded.
    worker._hand_out()
    assert list(child.handed) == [waiting.job_id]


@pytest.mark.parametrize(("unkept", "rests"), [(MOST_UNKEPT, False), (MOST_UNKEPT + 1, True)])
def test_nothing_is_taken_that_could_not_be_handed_out(worker, handed, monkeypatch, unkept, rests):
    child = handed(unkept)
    while child.handed:
        end_one(worker, child)
    monkeypatch.setattr(worker._outbox, "_resting_until", time.monotonic() + 600)

    worker._record()

    assert (worker._rests_until > time.monotonic()) == rests


def test_async_jobs_that_have_to_wait_are_no_more_than_others(worker, handed):
    task, worker._workload = tasks.add_slowly.name, Workload()
    worker._workload.note(task, 0.000001)
    child, another = handed(0, beside=2 + MOST_IN_ADVANCE - 1), Claimed(uuid4(), 1, task, "mail", "[]")
    assert worker._may_have(child, 0, another)

    assert child.hand(another)

    assert not worker._may_have(child, 0, another)
    assert worker._room(None)[0] <= 1  # For a job that is not async.


@pytest.mark.parametrize("concurrency", [1, 2, 100])
def test_a_child_is_handed_no_more_than_is_remembered_beside_the_reports_in_memory(
    worker, handed, concurrency
):
    worker._workload = Workload()
    child = handed(0, async_concurrency=concurrency)
    for task in (tasks.add_slowly.name, tasks.add.name):
        worker._workload.note(task, 0.000001)
        while worker._may_have(child, 0, claimed := Claimed(uuid4(), 1, task, "mail", "[]")):
            assert child.hand(claimed)

    seats = Seats(1, 1 if concurrency == 1 else 1 + concurrency)
    assert MOST_IN_ADVANCE <= len(child.handed) < seats.remembered - MOST_UNKEPT


@pytest.mark.parametrize(("beside", "has_a_turn"), [(1, True), (2, False)])
def test_what_runs_in_turn_waits_for_no_place_of_an_async_job(worker, handed, beside, has_a_turn):
    """A child takes nothing from its line while all of these are taken; other workers may have it."""
    worker._workload = Workload()
    child = handed(0, beside=beside)

    assert worker._may_have(child, 3600, Claimed(uuid4(), 1, "shop.pay", "mail", "[]")) == has_a_turn
    assert worker._room(None)[0] == has_a_turn


def test_who_may_not_begin_what_others_may_hold_begins_nothing_until_its_children_have_ended(worker, handed):
    child, worker._is_void = handed(0), True
    child.ending = "it reached neither the database nor Redis"

    worker._give_all_back()
    assert worker._is_void

    worker._nursery.children.remove(child)
    worker._give_all_back()
    assert not worker._is_void
    child.close()


def test_progress_of_a_job_whose_row_is_locked_is_written_later(worker, handed, monkeypatch):
    busy, free = handed(2).handed
    tries = []

    def record(documents):
        tries.append(documents)
        return {free} if len(tries) == 1 else {busy}

    monkeypatch.setattr(batches, "record_progress", record)
    worker._progress = {busy: "50 %", free: "20 %", uuid4(): "of one that has ended"}

    worker._record_progress()
    worker._record_progress()
    assert (tries, worker._progress) == ([["50 %", "20 %"]], {busy: "50 %"})

    worker._progress_at = 0
    worker._record_progress()
    assert (tries[1:], worker._progress) == ([["50 %"]], {})


@pytest.mark.django_db
def test_the_seat_of_a_child_that_was_killed_is_spared_until_its_job_is_settled(worker, handed):
    child = handed(1)
    job_id, _ = lines.receive_job(child._jobs_behind)  # As if it had come to that.
    with child.seats[0].running(job_id, None):
        pass
    worker._nursery.remove = lambda child: "its process was ended by signal 9 (Killed)"

    worker._bury(child)
    assert worker._nursery.unsettled == {child.number}

    worker._record()  # There is no such job any more.
    assert (worker._nursery.unsettled, job_id in worker._holdings.held) == (set(), False)


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
