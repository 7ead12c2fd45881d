"""The maintainer: one of many works, the others stand by."""

import threading
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db import connections
from django.utils import timezone

from django_jobs import maintainer, relay
from django_jobs.models import Job, Lease
from django_jobs.states import SCHEDULED, STARTED
from tests.conftest import fresh, make_worker, wait_until

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


def expire_lease():
    Lease.objects.update(expires_at=timezone.now() - timedelta(seconds=1))


def test_the_first_to_ask_holds_the_lease_and_renews_it():
    assert maintainer.hold_lease("a") is True
    first = Lease.objects.get().expires_at

    assert maintainer.hold_lease("a") is True

    assert Lease.objects.get().expires_at > first


def test_the_lease_lasts_five_seconds():
    maintainer.hold_lease("a")

    left = Lease.objects.get().expires_at - timezone.now()
    assert timedelta(seconds=3) < left <= timedelta(seconds=5, milliseconds=100)


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
    maintainer.hold_lease("another")
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
    monkeypatch.setattr(maintainer, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(maintainer, "RECONCILE_EVERY_SECONDS", 3600)
    silent = make_worker(leased_until=timezone.now() - timedelta(seconds=1))
    job = job_factory(status=STARTED, worker=silent)
    maintainer.hold_lease("another")

    with running_maintainer():
        with pytest.raises(AssertionError):
            wait_until(lambda: fresh(job).status != STARTED, timeout_seconds=1.5)
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

    assert "A pass of the maintainer failed" in caplog.text
