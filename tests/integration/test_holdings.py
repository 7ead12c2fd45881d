"""What a worker holds, and how it gets rid of it: recorded, lost, or given back."""

from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from uuid import uuid4

import pytest
from django.db import OperationalError, connection
from django.db.models.functions import Now
from django_rq import get_queue

from django_jobs import batches, outcomes
from django_jobs.engines.rq import handing
from django_jobs.engines.rq.prefork import PreforkWorker
from django_jobs.models import Job, Queue
from django_jobs.outcomes import Outcome
from django_jobs.pool import holdings
from django_jobs.pool.holdings import Holdings
from django_jobs.states import CANCELED, FAILED, FINISHED, QUEUED, STARTED
from tests.conftest import fresh, make_worker, wait_until
from tests.threads import holding_locks, locked

pytestmark = pytest.mark.django_db
locks_rows = pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite locks no rows.")


@pytest.fixture
def worker(db):
    return make_worker()


@pytest.fixture
def held(worker):
    return Holdings(worker.pk)


@pytest.fixture
def hold(held, job_factory):
    """New jobs that the worker holds."""

    def claim(count=1, **values):
        jobs = [job_factory(**values) for _ in range(count)]
        held.claim({(job.pk, job.attempt): f"ticket {number}" for number, job in enumerate(jobs)})
        return jobs

    return claim


def claimed(held, *jobs):
    return [held.held[job.pk].claimed for job in jobs]


def test_what_is_claimed_is_held_with_its_ticket(held, job_factory, worker):
    job, second, paused = job_factory(), job_factory(attempt=2), job_factory(queue="vectorization")
    Queue.objects.create(name="vectorization", paused=True)
    assert not held

    told = held.claim({(job.pk, 1): "a", (second.pk, 2): "b", (paused.pk, 1): "c", (uuid4(), 1): "d"})

    assert held
    assert {each.job_id for each in told} == set(held.held) == {job.pk, second.pk}
    assert [held.held[each.pk].ticket for each in (job, second)] == ["a", "b"]
    assert {held.held[each.pk].claim_id for each in (job, second)} == {fresh(job).claim_id}
    assert fresh(job).worker_id == worker.pk


def test_a_claim_that_fails_holds_nothing_and_says_so(held, job_factory, monkeypatch):
    def fail(*args):
        raise OperationalError("away")

    monkeypatch.setattr(batches, "claim", fail)

    with pytest.raises(OperationalError):
        held.claim({(job_factory().pk, 1): "a"})

    assert (held.held, held._claiming) == ({}, set())


# Giving back


def test_what_is_given_back_others_run_as_the_same_attempt(held, hold):
    one, kept, other = hold(3)

    told = held.give_back(claimed(held, one, other))

    assert [each.claimed.job_id for each in told] == [one.pk, other.pk]
    assert set(held.held) == {kept.pk}
    for job in (one, other):
        row = fresh(job)
        assert (row.status, row.attempt, row.delivery) == (QUEUED, 1, 1)
        assert (row.worker_id, row.claim_id, row.started_at) == (None, None, None)
        assert (row.delivered_at, row.delivered_epoch, row.attempts.count()) == (None, "", 0)
    assert fresh(kept).status == STARTED


def test_what_others_hold_meanwhile_is_not_given_back(held, hold):
    job, ended = hold(2)
    Job.objects.filter(pk=job.pk).update(claim_id=uuid4())
    outcomes.record(fresh(ended), Outcome.finished(), "w1")

    held.give_back(claimed(held, job, ended))

    assert [fresh(each).status for each in (job, ended)] == [STARTED, FINISHED]
    assert not held


def test_what_could_not_be_given_back_is_held_still(held, hold, monkeypatch):
    (job,) = hold()

    def fail(*args, **kwargs):
        raise OperationalError("away")

    with monkeypatch.context() as patched:
        patched.setattr(holdings.Job.objects.__class__, "started", fail)
        with pytest.raises(OperationalError):
            held.give_back(claimed(held, job))

    assert set(held.held) == {job.pk}
    held.give_back(claimed(held, job))
    assert fresh(job).status == QUEUED


@locks_rows
@pytest.mark.django_db(transaction=True)
def test_what_is_locked_is_held_until_it_can_be_given_back(held, hold):
    busy, free = hold(2)

    with locked(Job.objects.filter(pk=busy.pk)):
        told = held.give_back(claimed(held, busy, free))

        assert [each.claimed.job_id for each in told] == [free.pk]
        assert set(held.held) == {busy.pk}
        assert [fresh(job).status for job in (busy, free)] == [STARTED, QUEUED]

    held.give_back(claimed(held, busy))
    assert (fresh(busy).status, held.held) == (QUEUED, {})


@locks_rows
@pytest.mark.django_db(transaction=True)
def test_a_worker_keeps_what_is_locked_and_gives_it_back_later(held, hold, valkey):
    busy, free = hold(2)
    worker = PreforkWorker([get_queue("file_processing")], connection=valkey)
    worker._holdings, worker._nursery = held, SimpleNamespace(children=[])
    worker._backlog.extend(claimed(held, busy, free))

    with locked(Job.objects.filter(pk=busy.pk)):
        worker._give_back(worker._backlog)
        assert [each.job_id for each in worker._backlog] == [busy.pk]
        assert worker._may_take()
    wait_until(lambda: worker._give_back(worker._backlog) or not worker._backlog)

    assert [fresh(job).status for job in (busy, free)] == [QUEUED] * 2
    assert [end.taken for end in worker._ends] == ["ticket 1", "ticket 0"]


# Orphans


def test_a_claim_that_was_not_answered_is_given_back(held, hold, worker, job_factory, caplog):
    (mine,) = hold()
    orphan, others = job_factory(), job_factory(status=STARTED)
    batches.claim([(orphan.pk, 1)], worker.pk, uuid4())

    held.give_back_orphans()

    assert [fresh(job).status for job in (mine, orphan, others)] == [STARTED, QUEUED, STARTED]
    assert (fresh(orphan).delivery, fresh(orphan).attempt) == (1, 1)
    assert f"Job {orphan.pk}, whose claim was not answered, is given back." in caplog.text


def test_a_job_that_is_held_by_an_earlier_claim_is_an_orphan_of_the_later(held, hold):
    (job,) = hold()
    Job.objects.filter(pk=job.pk).update(claim_id=uuid4())

    held.give_back_orphans()

    assert fresh(job).status == QUEUED


def test_what_is_just_being_claimed_is_no_orphan(held, job_factory, monkeypatch):
    job, claim = job_factory(), batches.claim

    def look_meanwhile(*args):
        told = claim(*args)
        held.give_back_orphans()
        return told

    monkeypatch.setattr(batches, "claim", look_meanwhile)

    held.claim({(job.pk, 1): "a"})

    assert fresh(job).status == STARTED


def test_what_is_claimed_while_orphans_are_sought_is_none(held, job_factory, monkeypatch):
    """The rows are read, then the claim ends."""
    job, claim_id, rows = job_factory(), uuid4(), []
    held._claiming.add(claim_id)
    batches.claim([(job.pk, 1)], held._worker_id, claim_id)
    started = Job.objects.started

    def claim_ends(*args):
        if rows:
            return started()
        rows.append(None)
        found = started()
        held._claiming.discard(claim_id)
        held.held[job.pk] = holdings.Held(None, claim_id, "a")
        return found

    monkeypatch.setattr(type(Job.objects), "started", lambda self: claim_ends())

    held.give_back_orphans()

    assert fresh(job).status == STARTED


def test_what_comes_to_be_held_just_after_it_was_looked_for_is_no_orphan(held, job_factory):
    job, claim_id = job_factory(), uuid4()

    class HeldSoon(dict):
        def get(self, job_id):
            found = super().get(job_id)
            self[job_id] = holdings.Held(None, claim_id, "a")  # The other thread's claim is answered.
            held._claiming.discard(claim_id)
            return found

    def claim_meanwhile(execute, *statement):
        """The rows are asked for before the claim begins, and read after it."""
        if not held._claiming and not held.held:
            held._claiming.add(claim_id)
            batches.claim([(job.pk, 1)], held._worker_id, claim_id)
        return execute(*statement)

    held.held = HeldSoon()
    with connection.execute_wrapper(claim_meanwhile):
        held.give_back_orphans()

    assert held.held
    assert fresh(job).status == STARTED


def test_what_is_handed_over_while_orphans_are_sought_is_none(held, hold):
    (job,) = hold()

    class HandedOver(dict):
        def get(self, job_id):
            outcomes.record(fresh(job), Outcome.elsewhere(60), "w1")
            return self.clear()

    held.held = HandedOver(held.held)
    held.give_back_orphans()

    assert fresh(job).status == STARTED


def test_work_that_goes_on_elsewhere_and_observed_jobs_are_no_orphans(held, worker, job_factory):
    job = job_factory()
    batches.claim([(job.pk, 1)], worker.pk, uuid4())
    outcomes.record(fresh(job), Outcome.elsewhere(60), "w1")
    observed = job_factory(status=STARTED, worker=worker, observed_id="abc")

    held.give_back_orphans()

    assert [fresh(each).status for each in (job, observed)] == [STARTED] * 2


@locks_rows
@pytest.mark.django_db(transaction=True)
def test_an_orphan_that_is_locked_waits_and_keeps_no_other_waiting(held, worker, job_factory):
    orphans = [job_factory() for _ in range(3)]
    batches.claim([(orphan.pk, 1) for orphan in orphans], worker.pk, uuid4())

    with locked(Job.objects.filter(pk=orphans[0].pk)):
        held.give_back_orphans()
        assert [fresh(orphan).status for orphan in orphans] == [STARTED, QUEUED, QUEUED]

    held.give_back_orphans()
    assert fresh(orphans[0]).status == QUEUED


# What is lost


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({}, FAILED),
        ({"max_attempts": 2}, QUEUED),
        ({"idempotent": True}, QUEUED),
        ({"cancel_requested_at": Now()}, CANCELED),
    ],
)
def test_what_is_lost_ends_as_interrupted_with_its_evidence(held, hold, values, status):
    lost, running = hold(2)
    Job.objects.filter(pk=lost.pk).update(**values)
    assert not held.has_lost

    held.lose(lost.pk, "Worker w1: killed.")

    assert held.has_lost
    ((told, evidence),) = held.end_lost()
    assert (told.ticket, evidence) == ("ticket 0", "Worker w1: killed.")
    assert (fresh(lost).status, lost.attempts.get().error_message) == (status, "Worker w1: killed.")
    assert (set(held.held), held.has_lost, held.end_lost()) == ({running.pk}, False, [])
    assert fresh(running).status == STARTED


@pytest.mark.parametrize("how", ["ended", "deleted", "taken by others"])
def test_what_was_settled_otherwise_is_not_lost(held, hold, how):
    (job,) = hold()
    if how == "ended":
        outcomes.record(fresh(job), Outcome.finished(), "w1")
    elif how == "deleted":
        Job.objects.filter(pk=job.pk).delete()
    else:
        Job.objects.filter(pk=job.pk).update(claim_id=uuid4())
    held.lose(job.pk, "Worker w1: killed.")

    assert len(held.end_lost()) == 1

    assert not held
    assert not held.has_lost
    assert (
        list(Job.objects.values_list("status", flat=True))
        == {
            "ended": [FINISHED],
            "deleted": [],
            "taken by others": [STARTED],
        }[how]
    )


def test_what_ends_otherwise_just_before_it_is_lost_needs_no_more_attention(held, hold, monkeypatch):
    (job,) = hold()
    held.lose(job.pk, "Worker w1: killed.")

    def come_too_late(lost, evidence):
        outcomes.record(lost, Outcome.finished(), "w1")
        return False

    monkeypatch.setattr(holdings, "lose_unless_locked", come_too_late)

    assert len(held.end_lost()) == 1
    assert not held.has_lost


def test_what_is_lost_while_the_database_is_away_is_ended_later(held, hold, monkeypatch):
    lost = hold(3)
    for job in lost:
        held.lose(job.pk, "Worker w1: killed.")
    lose, calls = holdings.lose_unless_locked, []

    def be_away_at_the_second(job, evidence):
        calls.append(job)
        if len(calls) == 2:
            raise OperationalError("away")
        return lose(job, evidence)

    monkeypatch.setattr(holdings, "lose_unless_locked", be_away_at_the_second)
    monkeypatch.setattr(holdings.connections, "close_all", lambda: None)

    assert len(held.end_lost()) == 1
    assert held.has_lost
    assert len(held.end_lost()) == 2
    assert [fresh(job).status for job in lost] == [FAILED] * 3


@locks_rows
@pytest.mark.django_db(transaction=True)
def test_what_is_lost_and_locked_waits_and_keeps_no_other_from_ending(held, hold):
    locked, free = hold(2)
    for job in (locked, free):
        held.lose(job.pk, "Worker w1: killed.")

    with holding_locks(partial(list, Job.objects.select_for_update().filter(pk=locked.pk))):
        assert [each.claimed.job_id for each, _ in held.end_lost()] == [free.pk]
        assert held.has_lost

    assert [each.claimed.job_id for each, _ in held.end_lost()] == [locked.pk]
    assert [fresh(job).status for job in (locked, free)] == [FAILED] * 2


# What is not to be had


def test_what_is_not_to_be_had_is_told_apart(job_factory):
    Queue.objects.create(name="vectorization", paused=True)
    on_paused = job_factory(queue="vectorization", delivered_at=Now(), delivered_epoch="a:b:1")
    waiting, superseded = job_factory(delivered_epoch="a:b:1"), job_factory(attempt=2)
    started, deleted = job_factory(status=STARTED), uuid4()
    wanted = {(job.pk, 1) for job in (on_paused, waiting, superseded, started)} | {(deleted, 1)}

    assert holdings.unknown(wanted) == {(deleted, 1)}
    assert holdings.still_await(wanted) == {(on_paused.pk, 1), (waiting.pk, 1)}
    assert holdings.await_resumption(wanted) == {(on_paused.pk, 1)}

    row = fresh(on_paused)
    assert (row.status, row.delivery, row.delivered_at, row.delivered_epoch) == (QUEUED, 1, None, "")
    assert (fresh(waiting).delivery, fresh(waiting).delivered_epoch) == (0, "a:b:1")


def test_an_old_delivery_does_not_have_the_awaited_attempt_delivered_anew(job_factory):
    Queue.objects.create(name="vectorization", paused=True)
    job = job_factory(queue="vectorization", attempt=2)

    assert holdings.await_resumption({(job.pk, 1)}) == set()

    assert fresh(job).delivery == 0


@locks_rows
@pytest.mark.django_db(transaction=True)
def test_what_waits_on_a_paused_queue_and_is_locked_is_asked_for_again(job_factory):
    Queue.objects.create(name="file_processing", paused=True)
    busy, free = job_factory(), job_factory()
    wanted = {(busy.pk, 1), (free.pk, 1)}

    with locked(Job.objects.filter(pk=busy.pk)):
        assert holdings.await_resumption(wanted) == {(free.pk, 1)}
        assert holdings.still_await(wanted) == wanted

    assert holdings.await_resumption({(busy.pk, 1)}) == {(busy.pk, 1)}
    assert [fresh(job).delivery for job in (busy, free)] == [1, 1]


def test_a_lease_that_is_over_changes_nothing_for_what_is_held(held, hold, worker):
    """It is the reconciler that decides."""
    (job,) = hold()
    worker.leased_until = Now() - timedelta(hours=1)
    worker.save()

    held.give_back_orphans()

    assert fresh(job).status == STARTED


def test_what_was_given_back_without_an_answer_is_not_run_here(held, hold, valkey, monkeypatch):
    (job,) = hold()
    worker = PreforkWorker([get_queue("file_processing")], connection=valkey)
    worker._holdings, worker._nursery = held, SimpleNamespace(children=[])
    worker._backlog.extend(claimed(held, job))
    give_back = held.give_back

    def lose_answer(returned):
        kept = dict(held.held)
        give_back(returned)
        held.held.update(kept)
        raise OperationalError("away")

    with monkeypatch.context() as patched:
        patched.setattr(held, "give_back", lose_answer)
        patched.setattr(handing.connections, "close_all", lambda: None)  # The test's own goes on.
        worker._give_back(worker._backlog)

    assert fresh(job).status == QUEUED
    assert list(worker._backlog)
    assert not worker._may_take()  # Thus nothing of it is handed out.

    worker._gives_back_at = 0.0
    worker._give_all_back()

    assert (fresh(job).status, fresh(job).delivery) == (QUEUED, 1)
    assert not worker._backlog
    assert not held
    assert worker._may_take()
