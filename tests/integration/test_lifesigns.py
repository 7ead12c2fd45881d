"""Life signs: the lease in the database, the witness on the server, the fence that closes without either."""

import threading

import pytest
from django.db import connection, connections, transaction

from django_jobs.exceptions import EngineUnavailable
from django_jobs.lifesigns import LifeSigns
from django_jobs.models import Queue, Worker
from tests.conftest import fresh, wait_until
from tests.threads import holding_locks

pytestmark = pytest.mark.django_db(transaction=True)

on_postgresql = pytest.mark.skipif(connection.vendor == "sqlite", reason="On SQLite no fence closes.")


@pytest.fixture
def start(settings):
    settings.DJANGO_JOBS = {"LEASE_SECONDS": 1.5}
    started = []

    def make(**callbacks):
        callbacks.setdefault("witness", lambda worker_id: None)
        callbacks.setdefault("holds", lambda: True)
        callbacks.setdefault("on_fence", lambda: None)
        signs = LifeSigns("w1", engine="rq", queues=["file_processing"], **callbacks)
        signs.start()
        started.append(signs)
        return signs

    yield make
    for signs in started:
        signs.stop()


def away(worker_id):
    raise EngineUnavailable("away")


def lease_of(signs):
    return fresh(signs.worker).leased_until


def test_the_lease_is_renewed_until_the_end_which_removes_the_row(start):
    signs = start()
    first = lease_of(signs)

    wait_until(lambda: lease_of(signs) > first)
    signs.stop()

    assert not Worker.objects.exists()


def test_the_witness_hears_of_this_worker_again_and_again(start):
    told = []
    signs = start(witness=told.append)

    wait_until(lambda: len(told) > 2)

    assert set(told) == {signs.worker.pk}


def test_a_row_that_somebody_deleted_is_written_again(start):
    signs = start()
    Worker.objects.all().delete()

    wait_until(lambda: fresh(signs.worker))


@on_postgresql
def test_the_fence_stays_open_while_one_store_is_reached(start):
    signs, renewed = start(witness=away), threading.Semaphore(0)
    signs._on_renewal = renewed.release
    first = signs.fence._closes.get()

    for _ in range(10):  # As many as take longer than a lease.
        assert renewed.acquire(timeout=60)

    wait_until(lambda: not signs.fence.has_closed())  # A machine that stands still closes it for a moment.
    assert signs.fence._closes.get() > first > 0


@on_postgresql
def test_the_fence_stays_open_while_the_database_hangs_and_a_witness_is_there(start):
    told = threading.Semaphore(0)
    signs = start(witness=lambda worker_id: told.release())

    with holding_locks(lambda: Worker.objects.select_for_update().get()):
        for _ in range(12):
            assert told.acquire(timeout=60)
        assert lease_of(signs) < database_now()
        wait_until(lambda: not signs.fence.has_closed())


@on_postgresql
@pytest.mark.parametrize(("holds", "is_ended"), [(False, True), (True, False)])
def test_a_fence_that_closed_opens_for_what_is_still_held_and_ends_the_rest(start, holds, is_ended):
    ended, asked = [], []
    signs = start(witness=away, holds=lambda: asked.append(1) or holds, on_fence=lambda: ended.append(1))
    wait_until(lambda: signs.fence._closes.get())

    signs.fence._closes.set(1)  # Long ago; the next renewal finds it so.
    wait_until(lambda: asked and not signs.fence.has_closed())

    assert bool(ended) is is_ended


@on_postgresql
def test_without_both_stores_what_runs_is_ended(start):
    ended = threading.Event()
    start(witness=away, on_fence=ended.set)

    with holding_locks(lambda: Worker.objects.select_for_update().get()):
        assert ended.wait(60)


@on_postgresql
def test_a_witness_alone_does_not_open_a_fence_that_has_closed(start):
    ended = threading.Event()
    signs = start(on_fence=ended.set)

    with holding_locks(lambda: Worker.objects.select_for_update().get()):
        signs.fence._closes.set(1)
        assert ended.wait(60)
        assert signs.fence.has_closed()


@on_postgresql
def test_what_follows_a_renewal_and_hangs_does_not_keep_the_next_one_from_coming_in_time(start, settings):
    settings.DJANGO_JOBS = {"LEASE_SECONDS": 6}
    Queue.objects.create(name="file_processing")
    ended, begun = threading.Event(), threading.Semaphore(0)

    def ask_for_the_queue():
        with transaction.atomic():
            return Queue.objects.select_for_update().get()

    def hang():
        begun.release()
        ask_for_the_queue()

    with holding_locks(ask_for_the_queue):
        start(witness=away, on_renewal=hang, on_fence=ended.set)

        for _ in range(3):
            assert begun.acquire(timeout=60)
        assert not ended.is_set()


def database_now():
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        return cursor.fetchone()[0]
