"""The relay: due rows become deliveries, whatever happens to the server."""

import os
import time
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from django_jobs import embedded, relay
from django_jobs.engines import get_engine
from django_jobs.engines.base import Delivery
from django_jobs.models import Job, Queue
from django_jobs.states import CANCELED, FINISHED, QUEUED, SCHEDULED, STARTED
from tests import tasks
from tests.conftest import Stopwatch, fresh
from tests.threads import holding_locks

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]


def ago(**duration):
    return timezone.now() - timedelta(**duration)


def ids(*jobs):
    return [f"{job.pk.hex}-{job.attempt}-{job.delivery}" for job in jobs]


def test_a_due_job_is_queued_and_delivered(job_factory, queued_ids):
    job = job_factory(status=SCHEDULED, scheduled_for=ago(seconds=1), queued_at=None)

    assert relay.run_once() == 1

    row = fresh(job)
    assert row.status == QUEUED
    assert timedelta(0) <= timezone.now() - row.queued_at < timedelta(minutes=1)
    assert queued_ids("file_processing") == ids(job)


def test_a_job_not_due_yet_stays_scheduled(job_factory, queued_ids):
    job = job_factory(status=SCHEDULED, scheduled_for=ago(hours=-1))

    assert relay.run_once() == 0

    assert fresh(job).status == SCHEDULED
    assert queued_ids("file_processing") == []


def test_the_job_due_longest_is_queued_first(job_factory, queued_ids, monkeypatch):
    monkeypatch.setattr(relay, "BATCH", 1)
    later = job_factory(status=SCHEDULED, scheduled_for=ago(seconds=1))
    sooner = job_factory(status=SCHEDULED, scheduled_for=ago(seconds=9))

    relay.run_once()

    assert fresh(later).status == SCHEDULED
    assert queued_ids("file_processing") == ids(sooner)


def test_undelivered_jobs_are_delivered_in_the_order_they_were_enqueued(job_factory, queued_ids):
    jobs = [job_factory() for _ in range(5)]

    assert relay.run_once() == 5

    assert queued_ids("file_processing") == ids(*jobs)


def test_each_queue_gets_its_own(job_factory, queued_ids):
    here, there = job_factory(queue="vectorization"), job_factory(queue="kg_extraction")

    relay.run_once()

    assert queued_ids("vectorization") == ids(here)
    assert queued_ids("kg_extraction") == ids(there)


def test_a_pass_does_a_bounded_amount_of_work(job_factory, queued_ids, monkeypatch):
    monkeypatch.setattr(relay, "BATCH", 2)
    for _ in range(3):
        job_factory()

    assert [relay.run_once(), relay.run_once(), relay.run_once()] == [2, 1, 0]
    assert len(queued_ids("file_processing")) == 3


def test_a_delivered_job_says_when_and_in_which_epoch(job_factory):
    job = job_factory()

    relay.run_once()

    row = fresh(job)
    assert timezone.now() - row.delivered_at < timedelta(minutes=1)
    assert row.delivered_epoch == get_engine("rq").epoch("file_processing")


@pytest.mark.parametrize("status", [STARTED, FINISHED, CANCELED])
def test_a_job_that_is_not_queued_is_not_delivered(job_factory, queued_ids, status):
    job_factory(status=status)

    assert relay.run_once() == 0
    assert queued_ids("file_processing") == []


def test_a_delivered_job_is_left_alone(job_factory, queued_ids):
    job_factory()
    relay.run_once()

    assert relay.run_once() == 0
    assert len(queued_ids("file_processing")) == 1


def test_pushed_twice_a_job_has_one_delivery(job_factory, queued_ids):
    job = job_factory()

    for _ in range(2):
        get_engine("rq").push([Delivery.of(job)])

    assert queued_ids("file_processing") == ids(job)


def test_a_job_that_moved_on_during_the_push_is_not_marked_as_delivered(job_factory, monkeypatch):
    job = job_factory()
    Job.objects.filter(pk=job.pk).update(attempt=2)

    relay._mark([Delivery.of(job)], "an epoch")

    assert fresh(job).delivered_at is None


def test_a_paused_queue_gets_nothing_and_the_others_go_on(job_factory, queued_ids):
    Queue.objects.create(name="vectorization", paused=True)
    paused, other = job_factory(queue="vectorization"), job_factory()

    relay.run_once()

    assert (queued_ids("vectorization"), queued_ids("file_processing")) == ([], ids(other))
    assert fresh(paused).delivered_at is None


def test_a_resumed_queue_gets_what_waited(job_factory, queued_ids):
    queue = Queue.objects.create(name="vectorization", paused=True)
    job = job_factory(queue="vectorization")
    relay.run_once()

    queue.paused = False
    queue.save()
    relay.run_once()

    assert queued_ids("vectorization") == ids(job)


def test_after_a_flush_everything_queued_is_delivered_again(job_factory, queued_ids, valkey):
    jobs = [job_factory(), job_factory(queue="vectorization")]
    job_factory(status=STARTED)
    relay.run_once()

    valkey.flushall()
    assert relay.run_once() == 2

    assert queued_ids("file_processing") + queued_ids("vectorization") == ids(*jobs)


def test_after_a_restart_everything_is_looked_up_again_and_nothing_doubled(
    job_factory, settings, tmp_path, queued_ids
):
    folder = tmp_path / "restarted"
    settings.RQ_QUEUES = {"file_processing": {"URL": embedded.start(folder).url}}
    job = job_factory()
    relay.run_once()
    before = fresh(job)

    embedded.stop(folder)
    embedded.start(folder)
    try:
        assert relay.run_once() == 1
        assert queued_ids("file_processing") == ids(job)
        assert fresh(job).delivered_epoch not in {"", before.delivered_epoch}
    finally:
        embedded.stop(folder)


def test_a_server_restored_from_an_older_state_gets_what_it_lacks(
    job_factory, settings, tmp_path, queued_ids
):
    folder = tmp_path / "restored"
    settings.RQ_QUEUES = {"file_processing": {"URL": embedded.start(folder).url}}
    get_engine("rq").epoch("file_processing")
    embedded.stop(folder)
    older = {path: path.read_bytes() for path in (folder / "appendonlydir").iterdir()}
    embedded.start(folder)
    job = job_factory()
    relay.run_once()

    embedded.stop(folder)
    for path in (folder / "appendonlydir").iterdir():
        path.unlink()
    for path, content in older.items():
        path.write_bytes(content)
    embedded.start(folder)
    try:
        assert queued_ids("file_processing") == []
        relay.run_once()
        assert queued_ids("file_processing") == ids(job)
    finally:
        embedded.stop(folder)


def test_a_server_that_is_away_does_not_keep_the_others_waiting(job_factory, settings, queued_ids, caplog):
    settings.RQ_QUEUES = {"away": {"URL": "redis://:secret@127.0.0.1:1/0"}, **settings.RQ_QUEUES}
    waiting, delivered = job_factory(queue="away"), job_factory()

    relay.run_once()

    assert fresh(waiting).delivered_at is None
    assert queued_ids("file_processing") == ids(delivered)
    assert "Nothing can be delivered to away: Redis at redis://:***@127.0.0.1:1/0" in caplog.text


def test_due_jobs_are_queued_while_their_server_is_away(job_factory, settings):
    settings.RQ_QUEUES = {"file_processing": {"URL": "redis://127.0.0.1:1/0"}}
    job = job_factory(status=SCHEDULED, scheduled_for=ago(seconds=1))

    relay.run_once()

    assert fresh(job).status == QUEUED


@pytest.mark.django_db(transaction=True)
def test_after_a_failure_pushes_at_commit_rest_and_are_tried_again_later(settings, monkeypatch, queued_ids):
    declared = settings.RQ_QUEUES
    settings.RQ_QUEUES = {"file_processing": {"URL": "redis://127.0.0.1:1/0"}}
    tasks.add.enqueue(1)
    assert relay._resting_until["redis://127.0.0.1:1/0"] > time.monotonic()

    settings.RQ_QUEUES = declared
    [server] = get_engine("rq").servers()
    monkeypatch.setitem(relay._resting_until, server, time.monotonic() + 60)
    tasks.add.enqueue(2)
    assert queued_ids("file_processing") == []

    monkeypatch.setitem(relay._resting_until, server, time.monotonic() - 0.01)
    job = tasks.add.enqueue(3)
    assert queued_ids("file_processing") == ids(job)


def test_jobs_of_a_queue_that_is_no_longer_declared_stay_in_the_database(job_factory):
    job = job_factory(queue="gone")

    assert relay.run_once() == 0
    assert (fresh(job).status, fresh(job).delivered_at) == (QUEUED, None)


def test_more_jobs_than_a_batch_are_delivered_by_repeated_passes(job_factory, queued_ids):
    values = [Job(task="tests.tasks.add", queue="file_processing") for _ in range(relay.BATCH + 1)]
    Job.objects.bulk_create(values)

    assert [relay.run_once(), relay.run_once()] == [relay.BATCH, 1]
    assert len(set(queued_ids("file_processing"))) == relay.BATCH + 1


CROWD = int(os.environ.get("CROWD", 3 * relay.BATCH))
"""How many jobs are due at once: with 100,000 it takes half a minute."""


@pytest.mark.django_db(transaction=True)
def test_thousands_that_are_due_at_once_do_not_keep_new_ones_waiting(queued_ids):
    due_at = timezone.now()
    due = (
        Job(task="tests.tasks.add", queue="file_processing", status=SCHEDULED, scheduled_for=due_at)
        for _ in range(CROWD)
    )
    Job.objects.bulk_create(due, batch_size=5_000)

    relay.run_once()
    new = tasks.add.enqueue(1)
    elsewhere = tasks.add.using(queue="vectorization").enqueue(1)

    assert queued_ids("file_processing").index(*ids(new)) == relay.BATCH
    assert queued_ids("vectorization") == ids(elsewhere)
    with Stopwatch() as watch:
        while relay.run_once() >= relay.BATCH:
            pass
    print(f"{CROWD:,} jobs that were due at once were delivered in {watch.seconds:.1f} s.")
    assert len(set(queued_ids("file_processing"))) == CROWD + 1


def test_thousands_that_are_due_on_a_paused_queue_do_not_keep_later_ones_waiting(job_factory, queued_ids):
    Queue.objects.create(name="vectorization", paused=True)
    values = {"task": "tests.tasks.add", "status": SCHEDULED, "scheduled_for": ago(seconds=9)}
    Job.objects.bulk_create([Job(queue="vectorization", **values) for _ in range(3 * relay.BATCH)])
    later = job_factory(status=SCHEDULED, scheduled_for=ago(seconds=1))

    while relay.run_once() >= relay.BATCH:
        pass

    assert queued_ids("file_processing") == ids(later)


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite locks no rows.")
@pytest.mark.django_db(transaction=True)
def test_a_row_that_somebody_holds_locked_holds_up_no_other(job_factory, queued_ids):
    locked_due, due = (job_factory(status=SCHEDULED, scheduled_for=timezone.now()) for _ in range(2))
    locked_waiting, waiting = job_factory(), job_factory()

    held = Job.objects.filter(pk__in=[locked_due.pk, locked_waiting.pk])
    with holding_locks(lambda: list(held.select_for_update())):
        relay.run_once()
        assert (fresh(locked_due).status, fresh(due).status) == (SCHEDULED, QUEUED)
        assert fresh(waiting).delivered_at
    relay.run_once()

    assert fresh(locked_due).status == QUEUED
    assert sorted(queued_ids("file_processing")) == sorted(ids(locked_due, due, locked_waiting, waiting))


def test_a_queue_that_is_no_list_holds_up_no_other(job_factory, valkey, queued_ids):
    valkey.set("rq:queue:file_processing", "made by somebody")
    stuck, free = job_factory(), job_factory(queue="vectorization")

    relay.run_once()

    assert queued_ids("vectorization") == [f"{free.pk.hex}-1-0"]
    assert (fresh(stuck).delivered_at, bool(fresh(free).delivered_at)) == (None, True)
