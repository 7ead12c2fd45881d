"""Enqueueing where databases that do not hold the jobs are in transactions."""

from contextlib import suppress

import pytest
from django.db import transaction

from django_jobs import enqueue_many
from django_jobs.models import Job
from django_jobs.states import FINISHED, QUEUED, SCHEDULED
from tests import tasks
from tests.conftest import fresh

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "other", "third"]),
    pytest.mark.usefixtures("valkey"),
]


def delivery_of(job):
    return f"{job.pk.hex}-1-0"


def test_a_job_enqueued_while_another_database_is_in_a_transaction_is_written_when_that_commits(queued_ids):
    with transaction.atomic(using="other"):
        job = tasks.add.enqueue(1)
        promised = job.pk

        assert not Job.objects.exists()
        assert queued_ids("file_processing") == []

    assert (job.pk, fresh(job).status, fresh(job).args) == (promised, QUEUED, [1])
    assert queued_ids("file_processing") == [delivery_of(job)]
    assert not Job.objects.using("other").exists()


def test_rolled_back_there_it_is_never_written(queued_ids):
    with pytest.raises(LookupError), transaction.atomic(using="other"):
        tasks.add.enqueue(1)
        raise LookupError

    assert not Job.objects.exists()
    assert queued_ids("file_processing") == []


def test_a_savepoint_rolled_back_there_takes_only_its_own_jobs_along():
    with transaction.atomic(using="other"):
        kept = tasks.add.enqueue(1)
        with pytest.raises(LookupError), transaction.atomic(using="other"):
            tasks.add.enqueue(2)
            raise LookupError

    assert Job.objects.get() == kept


def test_a_database_that_is_merely_in_use_is_not_waited_for():
    Job.objects.using("other").exists()

    job = tasks.add.enqueue(1)

    assert fresh(job).status == QUEUED


def test_the_transaction_of_the_jobs_own_database_counts_before_others():
    with transaction.atomic(), pytest.raises(LookupError), transaction.atomic(using="other"):
        job = tasks.add.enqueue(1)
        assert fresh(job).status == QUEUED
        raise LookupError

    assert fresh(job).status == QUEUED


def test_the_database_whose_transaction_counts_can_be_named():
    with transaction.atomic():
        with transaction.atomic(using="other"):
            job = tasks.add.using(database="other").enqueue(1)
            assert not Job.objects.exists()
        assert fresh(job).status == QUEUED

        with pytest.raises(LookupError), transaction.atomic(using="other"):
            tasks.add.using(database="other").enqueue(2)
            raise LookupError

    assert Job.objects.get() == job


def test_a_named_database_that_is_in_no_transaction_is_not_waited_for():
    job = tasks.add.using(database="other").enqueue(1)

    assert fresh(job).status == QUEUED


def test_the_jobs_own_database_can_be_named_too():
    with pytest.raises(LookupError), transaction.atomic(using="other"):
        job = tasks.add.using(database="default").enqueue(1)
        raise LookupError

    assert fresh(job).status == QUEUED


def test_named_or_not_the_jobs_own_transaction_holds_the_row_before_its_commit():
    with transaction.atomic():
        job = tasks.add.using(database="default").enqueue(1)
        assert fresh(job).status == QUEUED
        transaction.set_rollback(True)

    assert not Job.objects.exists()


@pytest.mark.parametrize(("outer", "inner"), [("other", "third"), ("third", "other")])
def test_of_two_other_databases_both_are_waited_for(outer, inner):
    with transaction.atomic(using=outer):
        with transaction.atomic(using=inner):
            job = tasks.add.enqueue(1)
        assert not Job.objects.exists()

    assert fresh(job).status == QUEUED


@pytest.mark.parametrize(("outer", "inner"), [("other", "third"), ("third", "other")])
@pytest.mark.parametrize("rolled_back", ["inner", "outer"])
def test_when_one_of_two_other_databases_rolls_back_the_job_is_never_written(outer, inner, rolled_back):
    with suppress(LookupError), transaction.atomic(using=outer):
        with suppress(LookupError), transaction.atomic(using=inner):
            tasks.add.enqueue(1)
            if rolled_back == "inner":
                raise LookupError
        if rolled_back == "outer":
            raise LookupError

    assert not Job.objects.exists()


def test_many_jobs_are_written_together_when_the_other_database_commits(queued_ids):
    with transaction.atomic(using="other"):
        jobs = enqueue_many(tasks.add.call(number) for number in range(3))
        assert not Job.objects.exists()

    assert list(Job.objects.order_by("id")) == jobs
    assert queued_ids("file_processing") == [delivery_of(job) for job in jobs]


def test_calls_that_wait_for_different_databases_are_not_enqueued_together():
    calls = [tasks.add.using(database=alias).call(1) for alias in ("default", "other", None)]

    with pytest.raises(ValueError, match=r"database= \(None, default, other\) do not go together"):
        enqueue_many(calls)

    assert not Job.objects.exists()


def test_a_job_that_is_written_later_has_the_arguments_it_was_given():
    numbers, meta = [1], {"of": [1]}

    with transaction.atomic(using="other"):
        job = tasks.echo.using(meta=meta).enqueue(numbers, named=numbers)
        numbers.append(2)
        meta["of"].append(2)

    assert (fresh(job).args, fresh(job).kwargs, fresh(job).meta) == ([[1]], {"named": [1]}, {"of": [1]})


def test_a_delayed_job_that_is_written_later_is_scheduled():
    with transaction.atomic(using="other"):
        job = tasks.add.using(delay=60).enqueue(1)

    assert (fresh(job).status, job.scheduled_for) == (SCHEDULED, fresh(job).scheduled_for)


def test_a_unique_job_that_is_written_later_turns_into_the_holder_of_its_key():
    holder = tasks.add.using(unique="file:42").enqueue(1)

    with transaction.atomic(using="other"):
        job = tasks.add.using(unique="file:42").enqueue(2)
        assert job != holder

    assert (job, job.args, job.deduplicated) == (holder, [1], True)
    assert Job.objects.get() == holder


def test_a_unique_job_that_is_written_later_is_new_if_the_holder_has_ended_by_then():
    holder = tasks.add.using(unique="file:42").enqueue(1)

    with transaction.atomic(using="other"):
        job = tasks.add.using(unique="file:42").enqueue(2)
        Job.objects.filter(pk=holder.pk).update(status=FINISHED)

    assert (job == holder, job.deduplicated, fresh(job).args) == (False, False, [2])
