"""Unique jobs: one unfinished job per key, whoever enqueues when."""

import threading

import pytest
from django.contrib.auth.models import User
from django.db import connection, connections, transaction

from django_jobs import Retry, enqueue_many, sql
from django_jobs.exceptions import NotEnqueued
from django_jobs.models import Job
from django_jobs.signals import job_enqueued
from django_jobs.states import DEFERRED, FAILED, FINISHED, QUEUED, SCHEDULED, STARTED, TERMINAL, UNFINISHED
from tests import tasks
from tests.conftest import claim, execute, fresh, wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("valkey")]

only = tasks.add.using(unique="file:42")


def in_threads(count, work):
    """Have `work(number)` done in so many threads that begin at once; what each returned."""
    start, done = threading.Barrier(count), {}

    def run(number):
        try:
            start.wait()
            done[number] = work(number)
        except Exception as error:
            done[number] = error
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=[number]) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [done[number] for number in range(count)]


def test_while_a_job_of_its_key_is_unfinished_that_one_is_returned(queued_ids):
    first = only.enqueue(1)
    second = only.enqueue(2)

    assert (first.deduplicated, second.deduplicated) == (False, True)
    assert (second, second.args) == (first, [1])
    assert Job.objects.get() == first
    assert queued_ids("file_processing") == [f"{first.pk.hex}-1-0"]


def test_the_key_counts_whatever_the_task_and_the_queue():
    first = only.enqueue(1)

    second = tasks.echo.using(unique="file:42", queue="vectorization", delay=60).enqueue("x")

    assert (second, second.deduplicated, second.task) == (first, True, "tests.tasks.add")


def test_other_keys_and_none_do_not_count():
    only.enqueue(1)

    jobs = [tasks.add.using(unique="file:4").enqueue(1), tasks.add.enqueue(1), tasks.add.enqueue(1)]

    assert [job.deduplicated for job in jobs] == [False] * 3
    assert Job.objects.count() == 4


@pytest.mark.parametrize("status", [QUEUED, SCHEDULED, DEFERRED, STARTED])
def test_a_job_in_each_unfinished_state_holds_its_key(job_factory, status):
    assert status in UNFINISHED
    holder = job_factory(status=status, unique_key="file:42")

    assert (only.enqueue(1), Job.objects.count()) == (holder, 1)


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_a_job_that_has_ended_frees_its_key(job_factory, status):
    ended = job_factory(status=status, unique_key="file:42")

    job = only.enqueue(1)

    assert (job == ended, job.deduplicated, fresh(job).status) == (False, False, QUEUED)


def test_a_job_holds_its_key_while_it_runs_and_while_it_waits_for_a_retry():
    job = tasks.fail.using(unique="file:42", retry=Retry(max=1, interval=60)).enqueue()

    started = claim(job)
    assert only.enqueue(1) == job
    Job.objects.filter(pk=started.pk).update(status=QUEUED)
    execute(fresh(job))
    assert (fresh(job).status, only.enqueue(1)) == (SCHEDULED, job)
    Job.objects.filter(pk=job.pk).update(status=QUEUED)
    execute(fresh(job))

    assert (fresh(job).status, only.enqueue(1) == job) == (FAILED, False)


def test_the_callers_transaction_survives_and_goes_on():
    holder = only.enqueue(1)

    with transaction.atomic():
        User.objects.create_user("before")
        job = only.enqueue(2)
        User.objects.create_user("after")

    assert (job, User.objects.count()) == (holder, 2)


def test_a_key_taken_in_a_transaction_that_rolls_back_is_free():
    with pytest.raises(LookupError), transaction.atomic():
        only.enqueue(1)
        raise LookupError

    assert only.enqueue(2).deduplicated is False


def test_twice_in_one_call_is_one_job_in_both_places(queued_ids):
    later = tasks.add.using(unique="file:42", delay=60)

    first, second, third = enqueue_many([only.call(1), only.call(2), later.call(3)])

    assert first == second == third == Job.objects.get()
    assert [job.deduplicated for job in (first, second, third)] == [False, True, True]
    assert fresh(first).args == [1]
    assert queued_ids("file_processing") == [f"{first.pk.hex}-1-0"]


def test_among_many_each_stands_in_the_place_of_its_call(job_factory):
    held = {key: job_factory(unique_key=key) for key in ("b", "d")}

    jobs = enqueue_many(
        [tasks.add.using(unique=key).call(number) for number, key in enumerate("abcde")] + [tasks.add.call(9)]
    )

    assert [job.deduplicated for job in jobs] == [False, True, False, True, False, False]
    assert (jobs[1], jobs[3]) == (held["b"], held["d"])
    assert [fresh(jobs[place]).args for place in (0, 2, 4, 5)] == [[0], [2], [4], [9]]
    assert Job.objects.count() == 6


def test_more_keys_than_one_statement_takes():
    keys = [tasks.add.using(unique=f"file:{number}").call(number) for number in range(1100)]
    first = enqueue_many(keys)

    again = enqueue_many(reversed(keys))

    assert again == first[::-1]
    assert all(job.deduplicated for job in again)
    assert Job.objects.count() == 1100


def test_when_the_holder_ends_meanwhile_a_new_job_is_enqueued(monkeypatch):
    holder, insert = only.enqueue(1), sql.insert

    def insert_and_look_away(*args, **kwargs):
        inserted = insert(*args, **kwargs)
        Job.objects.filter(pk=holder.pk).update(status=FINISHED)
        return inserted

    monkeypatch.setattr(sql, "insert", insert_and_look_away)
    job = only.enqueue(2)

    assert (job == holder, job.deduplicated, fresh(job).args) == (False, False, [2])


def test_a_key_that_is_held_by_a_job_nobody_sees_is_told(monkeypatch):
    monkeypatch.setattr(sql, "insert", lambda *args, **kwargs: set())

    with pytest.raises(NotEnqueued, match='The unique key "file:42" is held by another job whenever'):
        only.enqueue(1)


def test_receivers_are_not_told_of_the_holder_again():
    only.enqueue(1)
    told = []

    def note(**kwargs):
        told.append(kwargs)

    job_enqueued.connect(note)
    only.enqueue(2)
    job_enqueued.disconnect(note)

    assert told == []


def test_of_many_that_enqueue_at_once_one_wins(queued_ids):
    for round_number in range(5):
        own = tasks.add.using(unique=f"round {round_number}")
        jobs = in_threads(6, own.enqueue)

        assert len({job.pk for job in jobs}) == 1
        assert sorted(job.deduplicated for job in jobs) == [False] + [True] * 5
    assert Job.objects.count() == len(queued_ids("file_processing")) == 5


def somebody_waits():
    """Whether another transaction waits for a lock; SQLite does not tell."""
    if connection.vendor == "sqlite":
        return True
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted)")
        return cursor.fetchone()[0]


@pytest.mark.parametrize("commits", [True, False])
def test_who_comes_while_the_holder_is_not_committed_waits_for_that(commits):
    inserted = threading.Event()

    def hold(_):
        with transaction.atomic():
            job = only.enqueue(1)
            inserted.set()
            wait_until(somebody_waits)
            if not commits:
                transaction.set_rollback(True)
        return job

    def come(_):
        assert inserted.wait(60)
        return only.enqueue(2)

    first, second = in_threads(2, lambda number: (come if number else hold)(number))

    assert (second == first, second.deduplicated) == (commits, commits)
    assert Job.objects.get() == second


def test_many_with_the_same_keys_in_different_orders_do_not_block_each_other():
    keys = [f"file:{number}" for number in range(400)]

    for round_number in range(5):

        def enqueue_all(number, prefix=f"{round_number} "):
            ordered = keys if number % 2 else reversed(keys)
            return enqueue_many(tasks.add.using(unique=prefix + key).call(1) for key in ordered)

        for jobs in in_threads(2, enqueue_all):
            assert not isinstance(jobs, Exception), jobs

    assert Job.objects.count() == 5 * 400
