"""The maintainer: one of many works, the others stand by."""

import threading
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db import OperationalError, connections
from django.utils import timezone
from rq import Queue as RQQueue

from django_jobs import figures, maintainer, relay, retention
from django_jobs.models import Census, FigureDelta, Job, Lease, Rollup, tallies
from django_jobs.reconciler import Reconciler
from django_jobs.states import FINISHED, SCHEDULED, STARTED
from tests.conftest import fresh, make_worker, remember_witnesses, wait_until

pytestmark = pytest.mark.django_db


@contextmanager
def running_maintainer():
    stopping = threading.Event()

    def run():
        try:
            maintainer.run(stopping)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def hold_for_an_hour(name):
    Lease.objects.create(name="maintainer", holder=name, expires_at=timezone.now() + timedelta(hours=1))


def expire_lease():
    Lease.objects.update(expires_at=timezone.now() - timedelta(seconds=1))


def test_the_first_to_ask_holds_the_lease_and_renews_it():
    assert maintainer.hold_lease("a") is True
    first = Lease.objects.get().expires_at

    assert maintainer.hold_lease("a") is True

    assert Lease.objects.get().expires_at > first


def test_the_lease_lasts_five_seconds():
    before = timezone.now()
    maintainer.hold_lease("a")
    after = timezone.now()

    begun = Lease.objects.get().expires_at - timedelta(seconds=5)
    rounding = timedelta(milliseconds=100)
    assert before - rounding <= begun <= after + rounding


def test_a_lease_has_one_holder():
    maintainer.hold_lease("a")

    assert maintainer.hold_lease("b") is False
    assert Lease.objects.get().holder == "a"


def test_an_expired_lease_is_taken_and_its_former_holder_stands_back():
    maintainer.hold_lease("a")
    expire_lease()

    assert maintainer.hold_lease("b") is True
    assert maintainer.hold_lease("a") is False


def test_a_released_lease_is_free_at_once():
    maintainer.hold_lease("a")

    maintainer.release_lease("a")

    assert maintainer.hold_lease("b") is True


def test_only_its_holder_releases_a_lease():
    maintainer.hold_lease("a")

    maintainer.release_lease("b")

    assert Lease.objects.get().holder == "a"


@pytest.mark.django_db(transaction=True)
def test_of_many_that_ask_at_once_one_holds_the_lease():
    start, holders = threading.Barrier(6), []

    def ask(name):
        try:
            start.wait()
            if maintainer.hold_lease(name):
                holders.append(name)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=ask, args=[str(number)]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert holders == [Lease.objects.get().holder]


@pytest.mark.django_db(transaction=True)
def test_it_delivers_what_is_due_and_lets_go_of_the_lease_at_its_end(job_factory, queued_ids):
    job = job_factory(status=SCHEDULED, scheduled_for=timezone.now() + timedelta(seconds=0.5))

    with running_maintainer():
        wait_until(lambda: queued_ids("file_processing") == [f"{job.pk.hex}-1-0"])
        assert Lease.objects.exists()

    assert not Lease.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_it_makes_a_delivery_anew_that_is_gone_from_its_queue(job_factory, valkey, queued_ids, monkeypatch):
    monkeypatch.setattr(maintainer, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(maintainer, "RECONCILE_EVERY_SECONDS", 0.2)
    job = job_factory()
    relay.run_once()
    Job.objects.update(delivered_at=timezone.now() - timedelta(seconds=30))
    valkey.delete("rq:queue:file_processing")

    with running_maintainer():
        wait_until(lambda: queued_ids("file_processing") == [f"{job.pk.hex}-1-1"])

    assert job.events.get().kind == "redelivered"


@pytest.mark.django_db(transaction=True)
def test_a_standby_does_nothing_and_takes_over_when_the_lease_is_over(job_factory, queued_ids):
    hold_for_an_hour("another")
    job_factory()

    with running_maintainer():
        with pytest.raises(AssertionError):
            wait_until(lambda: queued_ids("file_processing"), timeout_seconds=1.5)
        expire_lease()
        wait_until(lambda: queued_ids("file_processing"))


@pytest.mark.django_db(transaction=True)
def test_a_standby_that_takes_over_ends_lost_attempts_in_its_first_pass(
    job_factory, settings, valkey, monkeypatch
):
    settings.DJANGO_JOBS = {"LEASE_SECONDS": 1}
    remember_witnesses(valkey)
    monkeypatch.setattr(maintainer, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(maintainer, "RECONCILE_EVERY_SECONDS", 3600)
    reconciler = Reconciler()
    monkeypatch.setattr(maintainer, "Reconciler", lambda: reconciler)
    silent = make_worker(leased_until=timezone.now() - timedelta(seconds=1))
    job = job_factory(status=STARTED, worker=silent)
    hold_for_an_hour("another")

    with running_maintainer():
        wait_until(lambda: reconciler._contact_at - reconciler._contact_since > 1.2)
        assert fresh(job).status == STARTED
        expire_lease()
        wait_until(lambda: fresh(job).is_interrupted)


@pytest.mark.django_db(transaction=True)
def test_a_pass_that_fails_is_logged_and_followed_by_the_next(job_factory, queued_ids, monkeypatch, caplog):
    passes = []
    run_once = relay.run_once

    def stumble():
        passes.append(1)
        if len(passes) == 1:
            raise LookupError("stumbled")
        return run_once()

    monkeypatch.setattr(relay, "run_once", stumble)
    job_factory()

    with running_maintainer():
        wait_until(lambda: queued_ids("file_processing"))

    assert "The maintainer's relay failed and will be tried again." in caplog.text


# The chores beside the relay


@pytest.mark.django_db(transaction=True)
def test_it_deletes_what_was_kept_long_enough_and_clears_results_whose_time_is_over(job_factory, valkey):
    old = job_factory(status=FINISHED, finished_at=timezone.now() - timedelta(days=8))
    expired = job_factory(status=FINISHED, result=3, result_expires_at=timezone.now() + timedelta(seconds=1))

    with running_maintainer():
        wait_until(lambda: not Job.objects.filter(pk=old.pk).exists())
        wait_until(lambda: fresh(expired).result is None)

    assert fresh(expired).status == FINISHED


@pytest.mark.django_db(transaction=True)
def test_it_goes_on_deleting_at_once_while_there_is_more(valkey, monkeypatch):
    monkeypatch.setattr(maintainer, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(retention, "LONGEST_PASS_SECONDS", 0)
    ended_at = timezone.now() - timedelta(days=8)
    Job.objects.bulk_create(
        Job(task="t", queue="q", status=FINISHED, finished_at=ended_at) for _ in range(3 * retention.PAGE)
    )

    with running_maintainer():
        wait_until(lambda: not Job.objects.exists())


@pytest.mark.django_db(transaction=True)
def test_it_folds_the_tallies(valkey):
    for _ in range(20):
        tallies.tally({("mail", FINISHED): 1})

    with running_maintainer():
        wait_until(lambda: tallies.Tally.objects.get().amount == 20)


@pytest.mark.django_db(transaction=True)
def test_it_folds_the_figures_however_many_there_are(valkey, monkeypatch):
    monkeypatch.setattr(figures, "MOST_FOLDED", 10)
    FigureDelta.objects.bulk_create(
        FigureDelta(queue="mail", task="shop.pay", outcome="finished", amount=2) for _ in range(35)
    )

    with running_maintainer():
        wait_until(lambda: not FigureDelta.objects.exists())

    assert figures.total(timedelta(hours=1)).finished == 70


@pytest.mark.django_db(transaction=True)
def test_it_deletes_figures_that_were_kept_long_enough(valkey):
    for period in ("minute", "day"):
        Rollup.objects.create(period=period, start=timezone.now() - timedelta(days=8))

    with running_maintainer():
        wait_until(lambda: Rollup.objects.get().period == "day")


@pytest.mark.django_db(transaction=True)
def test_it_takes_a_census_in_each_minute(job_factory, valkey, monkeypatch):
    monkeypatch.setattr(maintainer, "LOOK_FOR_CENSUS_EVERY_SECONDS", 0)
    monkeypatch.setattr(maintainer, "TICK_SECONDS", 0.05)
    before = Census.objects.create(
        start=figures.start_of("minute", timezone.now()) - timedelta(minutes=1),
        running=0,
        waiting=0,
        workers=0,
    )
    job_factory(status=STARTED, worker=make_worker())

    with running_maintainer():
        wait_until(lambda: Census.objects.exclude(pk=before.pk).exists())

    row = Census.objects.latest("start")
    assert (row.running, row.workers) == (1, 1)


@pytest.mark.django_db(transaction=True)
def test_it_observes_the_jobs_of_plain_rq(valkey):
    RQQueue("file_processing", connection=valkey).enqueue("tests.tasks.undeclared", 1, job_id="plain")

    with running_maintainer():
        wait_until(lambda: Job.objects.filter(observed_id="plain").exists())


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("error", [LookupError("stumbled"), OperationalError("locked")])
def test_a_chore_that_fails_keeps_no_other_from_being_done(job_factory, valkey, monkeypatch, caplog, error):
    monkeypatch.setattr(maintainer, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(maintainer, "PAUSE_AFTER_FAILURE_SECONDS", 0.1)
    tries = []

    def fail():
        tries.append(1)
        raise error

    for chore in ("reconciler.Reconciler.run_once", "observer.run_once", "retention.Retention.run_once"):
        monkeypatch.setattr(f"django_jobs.{chore}", lambda *given: fail())
    expired = job_factory(status=FINISHED, result=3, result_expires_at=timezone.now())
    for _ in range(2):
        tallies.tally({("mail", FINISHED): 1})

    with running_maintainer():
        wait_until(lambda: fresh(expired).result is None)
        wait_until(lambda: tallies.Tally.objects.get().amount == 2)
        wait_until(lambda: len(tries) > 5)

    assert "The maintainer's observer failed and will be tried again" in caplog.text
    assert str(error) in caplog.text


@pytest.mark.django_db(transaction=True)
def test_a_chore_that_takes_long_does_not_hold_up_what_is_due(job_factory, queued_ids, monkeypatch):
    is_at_it, release = threading.Event(), threading.Event()

    def take_long(keeping):
        is_at_it.set()
        release.wait(timeout=120)

    monkeypatch.setattr(retention.Retention, "run_once", take_long)

    with running_maintainer():
        try:
            assert is_at_it.wait(timeout=60)
            job = job_factory(status=SCHEDULED, scheduled_for=timezone.now())
            wait_until(lambda: queued_ids("file_processing") == [f"{job.pk.hex}-1-0"])
        finally:
            release.set()


@pytest.mark.django_db(transaction=True)
def test_a_standby_does_no_chores(job_factory, valkey, monkeypatch):
    monkeypatch.setattr(maintainer, "TICK_SECONDS", 0.05)
    old = job_factory(status=FINISHED, finished_at=timezone.now() - timedelta(days=8))
    hold_for_an_hour("another")

    with running_maintainer():
        with pytest.raises(AssertionError):
            wait_until(lambda: not Job.objects.filter(pk=old.pk).exists(), timeout_seconds=1)
        expire_lease()
        wait_until(lambda: not Job.objects.filter(pk=old.pk).exists())
