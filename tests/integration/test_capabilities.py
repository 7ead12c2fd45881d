"""What an engine cannot do is refused, with the reason; all else works on it as on any other."""

from datetime import timedelta
from typing import get_args

import pytest
from django.conf import settings
from django.db.models.functions import Now
from django.utils import translation

from django_jobs import (
    control,
    enqueue_many,
    executor,
    leftovers,
    monitor,
    observer,
    operations,
    relay,
    verdict,
)
from django_jobs.doctor import examine
from django_jobs.engines import get_engine, lack_of
from django_jobs.engines.capabilities import Capability
from django_jobs.exceptions import UnsupportedByEngine
from django_jobs.models import Job, JobEvent, Queue, Worker
from django_jobs.reconciler import Reconciler
from django_jobs.reports import report
from django_jobs.states import CANCELED, FAILED, QUEUED, SCHEDULED, STARTED
from tests import tasks
from tests.conftest import claim, execute, fresh, make_worker, no_time_limit

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bare_engine")]

letter = tasks.add.using(engine="bare", queue="letters")


@pytest.fixture
def waiting_ids(valkey):
    """The ids of the deliveries that wait in the queue of the bare engine."""
    return lambda: [item.decode() for item in valkey.lrange("bare:letters", 0, -1)]


@pytest.fixture
def letters(job_factory):
    """Jobs of the bare engine."""
    return lambda **values: job_factory(engine="bare", queue="letters", **values)


def kinds(job):
    return list(JobEvent.objects.filter(job=job).order_by("id").values_list("kind", flat=True))


# What is asked


def test_rq_has_all_capabilities_and_the_other_engine_none():
    for capability in get_args(Capability):
        assert lack_of("rq", capability) is None
        assert "bare" in lack_of("bare", capability).reason


def test_nothing_is_said_of_an_engine_that_is_used_no_longer():
    assert lack_of("gone", "stop") is None


@pytest.mark.parametrize("capability", get_args(Capability))
def test_a_reason_is_told_in_the_language_of_its_reader(capability):
    with translation.override("en"):
        english = lack_of("bare", capability)
    with translation.override("zh-hans"):
        chinese = lack_of("bare", capability)

    assert english.reason.isascii()
    assert not chinese.reason.isascii()
    assert not chinese.instead.isascii()


# Refusals


def test_a_job_that_is_to_go_first_is_refused_before_anything_is_written(waiting_ids):
    first = letter.using(at_front=True)

    with pytest.raises(UnsupportedByEngine) as refused:
        enqueue_many([letter.call(1), first.call(2)])

    assert str(refused.value) == (
        "at_front=True for tests.tasks.add: The engine bare lets no job go before the others of its queue. "
        "Leave at_front out, or have a queue of its own for what is urgent."
    )
    assert Job.objects.count() == 0
    assert waiting_ids() == []


@pytest.mark.parametrize("verb", [control.stop, control.cancel])
def test_a_job_that_runs_is_not_asked_to_stop_where_nobody_would_hear_it(letters, verb):
    job = letters(status=STARTED)

    with pytest.raises(UnsupportedByEngine) as refused:
        verb(job)

    assert str(refused.value) == (
        f"Job {job.pk}: The engine bare cannot stop a job that runs. Wait until it has ended, or mark it as "
        "failed; its function goes on, but changes nothing more."
    )
    assert not fresh(job).is_canceling
    assert kinds(job) == []


@pytest.mark.parametrize("verb", ["stop", "cancel"])
def test_of_many_jobs_those_that_cannot_be_stopped_are_counted_with_the_reason(letters, job_factory, verb):
    letters(status=STARTED)
    job_factory(status=STARTED)

    steered = getattr(control, verb)(Job.objects.started())
    operation = operations.start(verb, "engine:bare status:started")
    operations.run_once()

    assert (steered.done, steered.refused) == (1, {"not supported by bare": 1})
    assert (fresh(operation).done, fresh(operation).refused) == (0, {"not supported by bare": 1})


def test_a_job_whose_work_goes_on_elsewhere_is_stopped_on_any_engine(letters):
    job = letters(status=STARTED, worker=None, elsewhere_until=Now() + timedelta(hours=1))

    control.stop(job)

    assert fresh(job).status == CANCELED


@pytest.mark.parametrize("verb", [control.quiet_worker, control.unquiet_worker, control.stop_worker])
def test_a_worker_that_takes_no_orders_is_given_none(verb):
    worker = make_worker(engine="bare", queues=["letters"])

    with pytest.raises(UnsupportedByEngine, match=r"Worker w1: Workers of the engine bare take no orders\."):
        verb(worker)

    assert fresh(worker).order == Worker.Order.NONE


# What works all the same


def test_a_job_is_delivered_and_run(waiting_ids):
    job = letter.enqueue(40, 2)
    delivered = waiting_ids()

    assert delivered == [f"{job.pk.hex}-1-0"]
    assert execute(job, worker=make_worker(engine="bare")).result == 42


def test_delay_uniqueness_pause_move_and_cancel_are_ours(letters):
    later = letter.using(delay=3600, unique="x").enqueue(1)
    again = letter.using(unique="x").enqueue(1)
    control.pause("letters")
    waiting = letters()

    control.run_now(later)
    control.move(waiting, queue="parcels")
    control.cancel(later)

    assert again.pk == later.pk
    assert Queue.objects.get(name="letters").paused
    assert (fresh(later).status, fresh(waiting).queue) == (CANCELED, "parcels")


def test_a_job_that_is_marked_failed_while_it_runs_stays_failed_when_its_function_ends(letters):
    job, worker = letters(args=[1]), make_worker(engine="bare")
    started = claim(job, worker=worker)

    control.mark_failed(job, reason="enough")
    outcome, _ = executor.run(started, no_time_limit)
    report(started, outcome, worker_name=worker.name)

    assert (fresh(job).status, fresh(job).error_message) == (FAILED, "enough")
    assert kinds(job) == ["marked_failed", "late_report"]


def test_all_loops_of_the_maintainer_serve_it(letters, waiting_ids, valkey):
    due = letters(status=SCHEDULED, scheduled_for=Now() - timedelta(minutes=1))
    lost = letters(
        status=STARTED, worker=make_worker(leased_until=Now() - timedelta(hours=1)), idempotent=True
    )
    gone = letters(
        delivered_at=Now() - timedelta(minutes=1), delivered_epoch=get_engine("bare").epoch("letters")
    )
    healer = Reconciler()

    healer.end_lost_attempts()
    for _ in range(2):
        healer.run_once()
        relay.run_once()
        observer.run_once()
        leftovers.Leftovers().run_once()

    assert {fresh(job).status for job in (due, lost, gone)} == {QUEUED}
    assert {each[:32] for each in waiting_ids()} == {job.pk.hex for job in (due, lost, gone)}


def test_of_plain_jobs_that_it_does_not_tell_of_nothing_is_concluded(letters):
    job = letters(status=STARTED, observed_id="x", worker=None)

    observer.run_once()

    assert fresh(job).status == STARTED


# Figures


def test_figures_of_its_queue_are_those_of_any_other(letters):
    letters()
    make_worker(engine="bare", queues=["letters"], slots=3)

    queue, _ = [each for each in monitor.queues() if each.engine == "bare"]

    assert (queue.name, queue.queued, queue.workers, queue.slots, queue.error) == ("letters", 1, 1, 3, "")


def test_the_verdict_knows_its_queues_and_whether_its_server_is_away(letters, monkeypatch):
    letters()
    assert "No live worker listens on letters, where 1 job waits." in _reasons()

    monkeypatch.setitem(settings.BARE_QUEUES, "letters", "redis://127.0.0.1:1/0")

    assert any("127.0.0.1:1" in text and "cannot be reached" in text for text in _reasons())
    assert verdict.examine().undelivered is None


def _reasons():
    verdict._kept = None
    return [reason.text for reason in verdict.examine().reasons]


def test_the_doctor_says_that_nothing_is_told_of_its_server_and_claims_nothing(letters):
    found = [each for each in examine() if "bare" in each.found]

    assert [each.level for each in found if "answers in" in each.found] == ["ok"]
    assert [each.level for each in found if "does not tell how its server is" in each.found] == ["ok"]
    assert {each.level for each in found} == {"ok"}
