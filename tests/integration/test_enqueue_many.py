"""Enqueueing many jobs with few statements: all or none, in order, and pushed together."""

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext

from django_jobs import enqueue_many, relay, sql
from django_jobs.engines.rq.engine import RQEngine
from django_jobs.exceptions import UnknownQueue
from django_jobs.models import Job
from django_jobs.signals import job_enqueued
from django_jobs.states import QUEUED, SCHEDULED
from tests import tasks
from tests.conftest import fresh

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("valkey")]


@pytest.fixture
def pushes(monkeypatch):
    """How many deliveries each push of the real engine carried."""
    sizes = []
    push = RQEngine.push

    def counted(self, deliveries):
        sizes.append(len(deliveries))
        return push(self, deliveries)

    monkeypatch.setattr(RQEngine, "push", counted)
    return sizes


def deliveries_of(jobs):
    return [f"{job.pk.hex}-1-0" for job in jobs]


def numbers(count):
    return [tasks.add.call(number) for number in range(count)]


def inserts(queries):
    return sum(f'INSERT INTO "{Job._meta.db_table}"' in query["sql"] for query in queries)


def test_jobs_stand_in_the_order_of_their_calls_everywhere(queued_ids):
    jobs = enqueue_many(numbers(20))

    assert [job.args for job in jobs] == [[number] for number in range(20)]
    assert list(Job.objects.order_by("id")) == jobs
    assert queued_ids("file_processing") == deliveries_of(jobs)


def test_calls_may_come_from_a_generator_and_from_several_tasks(queued_ids):
    def calls():
        yield tasks.add.call(1, right=2)
        yield tasks.echo.using(queue="vectorization", subject="file:42").call("x")

    first, second = enqueue_many(calls())

    assert (fresh(first).task, fresh(first).kwargs) == ("tests.tasks.add", {"right": 2})
    assert (fresh(second).queue, fresh(second).subject) == ("vectorization", "file:42")
    assert queued_ids("file_processing") + queued_ids("vectorization") == deliveries_of([first, second])


def test_no_calls_are_no_jobs_and_no_statement(django_assert_num_queries):
    with django_assert_num_queries(0):
        assert enqueue_many([]) == []


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: tasks.add.call({1}), TypeError),
        (lambda: tasks.add.call(), TypeError),
        (lambda: tasks.add.using(queue="nowhere").call(1), UnknownQueue),
        (lambda: 1 / 0, ZeroDivisionError),
    ],
)
def test_when_one_call_is_refused_none_is_enqueued(call, error, queued_ids):
    with pytest.raises(error):
        enqueue_many(each() for each in [lambda: tasks.add.call(1), call, lambda: tasks.add.call(2)])

    assert not Job.objects.exists()
    assert queued_ids("file_processing") == []


def test_when_the_database_refuses_one_none_is_written(queued_ids):
    owner = User.objects.create_user("ada")
    owned = tasks.add.using(owner=owner).call(1)
    User.objects.all().delete()

    with pytest.raises(IntegrityError):
        enqueue_many([*numbers(600), owned])

    assert not Job.objects.exists()
    assert queued_ids("file_processing") == []


def test_a_rollback_takes_all_along(queued_ids):
    with pytest.raises(LookupError), transaction.atomic():
        enqueue_many(numbers(3))
        raise LookupError

    assert not Job.objects.exists()
    assert queued_ids("file_processing") == []


def test_a_savepoint_rolled_back_takes_its_own_along(queued_ids):
    with transaction.atomic():
        kept = enqueue_many(numbers(2))
        with pytest.raises(LookupError), transaction.atomic():
            enqueue_many(numbers(2))
            raise LookupError

    assert list(Job.objects.order_by("id")) == kept
    assert queued_ids("file_processing") == deliveries_of(kept)


@pytest.mark.parametrize("wrong", [tasks.add, 3, ("tests.tasks.add", 1), None])
def test_what_is_no_call_is_refused(wrong):
    with pytest.raises(TypeError, match=r"is no call of a task; give task\.call\(…\)"):
        enqueue_many([tasks.add.call(1), wrong])

    assert not Job.objects.exists()


def test_a_single_call_is_refused_with_what_to_write():
    with pytest.raises(TypeError, match=r"takes a list of calls: enqueue_many\(\[task\.call\(…\)\]\)"):
        enqueue_many(tasks.add.call(1))


def test_1200_jobs_take_a_handful_of_statements_and_one_push(valkey, pushes, queued_ids):
    calls = numbers(1200)
    tasks.add.using(queue="vectorization").enqueue(1)  # Now the server knows the scripts.
    pushes.clear()
    valkey.config_resetstat()

    with CaptureQueriesContext(connection) as queries:
        jobs = enqueue_many(calls)

    assert inserts(queries) == 3
    assert len(queries) <= 6
    assert pushes == [500]
    assert valkey.info("commandstats")["cmdstat_evalsha"]["calls"] <= 1 + 5 + 1
    assert queued_ids("file_processing") == deliveries_of(jobs[:500])


def test_what_was_not_pushed_at_commit_is_pushed_by_the_relay_once_and_in_order(queued_ids):
    jobs = enqueue_many(numbers(1200))

    while relay.run_once():
        pass

    assert queued_ids("file_processing") == deliveries_of(jobs)


def test_several_calls_in_one_transaction_are_pushed_together(pushes, queued_ids):
    with transaction.atomic():
        jobs = [*enqueue_many(numbers(300)), tasks.add.enqueue(1), *enqueue_many(numbers(300))]

    assert pushes == [500]
    assert queued_ids("file_processing") == deliveries_of(jobs[:500])


def test_jobs_of_all_kinds_go_together(queued_ids):
    Job.objects.create(task="tests.tasks.add", queue="vectorization", unique_key="b", status=QUEUED)

    plain, later, unique, held, elsewhere, urgent = enqueue_many(
        [
            tasks.add.call(1),
            tasks.add.using(delay=60).call(2),
            tasks.add.using(unique="a").call(3),
            tasks.add.using(unique="b").call(4),
            tasks.add.using(unique="c", queue="kg_extraction", delay=60).call(5),
            tasks.add.using(at_front=True, timeout=7).call(6),
        ]
    )

    assert [fresh(job).status for job in (plain, later, unique, elsewhere, urgent)] == [
        QUEUED,
        SCHEDULED,
        QUEUED,
        SCHEDULED,
        QUEUED,
    ]
    assert (held.deduplicated, held.args, fresh(held).unique_key) == (True, [], "b")
    assert [fresh(job).args for job in (plain, later, unique, elsewhere, urgent)] == [[1], [2], [3], [5], [6]]
    assert queued_ids("file_processing") == deliveries_of([urgent, plain, unique])
    assert queued_ids("vectorization") == queued_ids("kg_extraction") == []
    assert Job.objects.count() == 6


def test_delays_of_one_call_count_from_one_moment():
    jobs = enqueue_many(tasks.add.using(delay=60).call(number) for number in range(3))

    assert len({fresh(job).scheduled_for for job in jobs}) == 1


def test_receivers_are_told_of_each_new_job_and_of_no_other():
    told = []

    def note(job, **kwargs):
        told.append(job)

    job_enqueued.connect(note)
    first, _, third = enqueue_many(
        [tasks.add.using(unique="a").call(1), tasks.add.using(unique="a").call(2), tasks.add.call(3)]
    )
    job_enqueued.disconnect(note)

    assert told == [first, third]


def test_jobs_with_large_arguments_take_more_statements(monkeypatch):
    monkeypatch.setattr(sql, "MOST_BYTES", 10_000)

    with CaptureQueriesContext(connection) as queries:
        jobs = enqueue_many(tasks.first.call(letter * 4000) for letter in "abcde")

    assert inserts(queries) == 3
    assert [fresh(job).args for job in jobs] == [[letter * 4000] for letter in "abcde"]


def test_a_job_larger_than_a_statement_is_meant_to_be_is_written_all_the_same(monkeypatch):
    monkeypatch.setattr(sql, "MOST_BYTES", 10)

    jobs = enqueue_many(tasks.first.using(unique=letter).call(letter) for letter in "abab")

    assert [job.args for job in jobs] == [["a"], ["b"], ["a"], ["b"]]
    assert Job.objects.count() == 2
