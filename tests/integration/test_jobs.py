"""The job as callers see it: waiting for it, finding it, how far it is."""

import threading
import time
from datetime import timedelta
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, connection, connections, transaction
from django.utils import timezone

from django_jobs import get_job
from django_jobs.exceptions import JobDoesNotExist, WaitTimeout
from django_jobs.models import Attempt, Job, JobEvent, Worker
from django_jobs.states import CANCELED, FAILED, FINISHED, QUEUED, SCHEDULED, STARTED, Status
from tests import tasks
from tests.conftest import execute, fresh, make_worker

pytestmark = pytest.mark.django_db


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("status", [FINISHED, FAILED, CANCELED])
def test_waiting_for_a_job_that_has_ended_returns_it_as_it_is_now(job_factory, status):
    job = job_factory()
    Job.objects.filter(pk=job.pk).update(status=status, result=7)

    assert job.wait(timeout=60) is job
    assert (job.status, job.result) == (status, 7)


@pytest.mark.django_db(transaction=True)
def test_waiting_ends_when_the_job_does(job_factory):
    job = job_factory(args=[1, 2])

    def run():
        try:
            execute(fresh(job))
        finally:
            connections.close_all()

    timer = threading.Timer(0.3, run)
    timer.start()
    assert job.wait(timeout=60).result == 3
    timer.join()


@pytest.mark.django_db(transaction=True)
def test_waiting_too_long_says_what_the_job_is_still(job_factory):
    job, began = job_factory(), time.monotonic()

    with pytest.raises(WaitTimeout, match=f"Job {job.pk} is still queued after 0.2 s"):
        job.wait(timeout=0.2)

    assert 0.2 <= time.monotonic() - began < 2


@pytest.mark.django_db(transaction=True)
def test_a_wait_that_times_out_is_a_timeout_error_too(job_factory):
    with pytest.raises(TimeoutError):
        job_factory(status=STARTED).wait(timeout=0)


@pytest.mark.django_db(transaction=True)
def test_waiting_for_a_job_that_was_deleted_is_told_so(job_factory):
    job = job_factory()
    Job.objects.filter(pk=job.pk).delete()

    with pytest.raises(JobDoesNotExist, match=f"There is no job {job.pk} any more; it was deleted"):
        job.wait(timeout=60)


class ReadsElsewhere:
    def db_for_read(self, model, **hints):
        return "other"

    def db_for_write(self, model, **hints):
        return "default"


@pytest.mark.django_db(transaction=True)
def test_a_job_is_read_where_it_was_written_and_not_on_a_replica(settings, valkey):
    settings.DATABASE_ROUTERS = [ReadsElsewhere()]
    job = tasks.add.enqueue(1)

    assert job.created_at <= job.queued_at
    job.refresh_from_db()
    assert execute(job).wait(timeout=0).status == FINISHED


@pytest.mark.django_db(transaction=True)
def test_waiting_inside_a_transaction_is_refused(job_factory):
    job = job_factory()

    with transaction.atomic(), pytest.raises(RuntimeError, match="would wait for ever"):
        job.wait(timeout=60)


def test_a_job_is_found_by_its_id_in_any_spelling(job_factory):
    job = job_factory()

    assert get_job(job.pk) == get_job(str(job.pk)) == get_job(job.pk.hex) == job


def test_an_unknown_id_says_that_there_is_no_such_job():
    missing = uuid4()

    with pytest.raises(JobDoesNotExist, match=f"There is no job {missing}; it may have been deleted"):
        get_job(missing)


@pytest.mark.parametrize("job_id", ["", "42", 42, None, "x" * 36])
def test_what_is_not_an_id_says_what_one_looks_like(job_id):
    with pytest.raises(JobDoesNotExist, match="is not the id of a job; an id looks like "):
        get_job(job_id)


def test_the_stages_about_a_subject_are_those_of_the_newest_job_that_began_them(job_factory):
    job_factory(
        subject="file:42",
        stages={
            "chunking": {"status": "completed", "progress": 100},
            "vectorization": {"status": "processing", "progress": 30},
        },
    )
    job_factory(
        subject="file:42",
        stages={
            "chunking": {"status": "pending", "progress": 0},
            "vectorization": {"status": "processing", "progress": 50},
            "storage": {"status": "pending", "progress": 0},
        },
    )
    job_factory(subject="file:4", stages={"other": {"status": "completed", "progress": 100}})
    job_factory(subject="file:42")

    assert Job.objects.for_subject("file:42").stages() == {
        "chunking": {"status": "completed", "progress": 100},
        "vectorization": {"status": "processing", "progress": 50},
        "storage": {"status": "pending", "progress": 0},
    }


def test_a_subject_without_jobs_has_no_stages():
    assert Job.objects.for_subject("file:42").stages() == {}


def test_jobs_about_a_subject_come_oldest_first(job_factory):
    jobs = [job_factory(subject="file:42") for _ in range(3)]
    job_factory(subject="file:4")

    assert list(Job.objects.for_subject("file:42")) == jobs


def test_jobs_about_a_subject_are_found_by_its_index(db):
    Job.objects.bulk_create(Job(task="t", subject=f"file:{number % 100}") for number in range(2_000))
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE django_jobs_job")

    assert "django_jobs_subject" in Job.objects.for_subject("file:42").explain()


def test_jobs_about_nothing_are_found(job_factory):
    job = job_factory()
    job_factory(subject="file:42")

    assert list(Job.objects.for_subject("")) == [job]


def test_querysets_read_as_sentences(job_factory):
    here = job_factory(queue="vectorization", status=STARTED)
    job_factory(queue="vectorization")
    job_factory(status=STARTED)

    assert list(Job.objects.started().on_queue("vectorization", "kg_extraction")) == [here]


@pytest.mark.parametrize("status", list(Status))
def test_each_state_has_its_queryset(job_factory, status):
    jobs = {each: job_factory(status=each) for each in Status}

    assert list(getattr(Job.objects, status)()) == [jobs[status]]


def test_unfinished_are_all_that_have_not_ended(job_factory):
    for status in Status:
        job_factory(status=status)

    found = Job.objects.unfinished().values_list("status", flat=True)

    assert sorted(found) == ["deferred", "queued", "scheduled", "started"]


def test_a_job_waits_for_its_retry_and_not_for_its_first_time(job_factory):
    at = timezone.now() + timedelta(minutes=1)

    assert job_factory(status=SCHEDULED, scheduled_for=at, attempt=2).will_retry_at == at
    assert job_factory(status=SCHEDULED, scheduled_for=at, attempt=1).will_retry_at is None


def test_a_job_lasts_from_its_start_to_its_end(job_factory):
    began = timezone.now()

    ended = job_factory(status=FINISHED, started_at=began, finished_at=began + timedelta(seconds=3))

    assert ended.duration == timedelta(seconds=3)
    assert job_factory().duration is None


def test_a_job_tells_its_call_as_python(job_factory):
    job = job_factory(args=[42, "a"], kwargs={"force": True})

    assert job.call == "tests.tasks.add(42, 'a', force=True)"


def test_ids_sort_by_the_time_of_enqueueing(job_factory):
    jobs = [job_factory() for _ in range(20)]

    assert list(Job.objects.order_by("id")) == jobs
    assert list(Job.objects.all()) == jobs[::-1]


def test_one_unfinished_job_holds_a_unique_key(job_factory):
    job_factory(unique_key="file:42", status=FINISHED)
    job_factory(unique_key="file:42", status=QUEUED)

    with pytest.raises(IntegrityError), transaction.atomic():
        job_factory(unique_key="file:42", status=STARTED)

    job_factory(unique_key=None)
    job_factory(unique_key=None)


def test_a_job_survives_its_owner_and_its_worker(job_factory):
    owner, worker = User.objects.create_user("ada"), make_worker()
    job = job_factory(status=STARTED, owner=owner, worker=worker)

    Worker.objects.all().delete()
    owner.delete()

    assert (fresh(job).owner, fresh(job).worker_id) == (None, worker.pk)


@pytest.mark.django_db(transaction=True)
def test_a_deleted_job_takes_its_attempts_and_events_along(job_factory):
    job = execute(job_factory())
    JobEvent.objects.create(job=job, kind=JobEvent.Kind.REDELIVERED, attempt=1)

    job.delete()

    assert [model.objects.count() for model in (Job, Attempt, JobEvent)] == [0, 0, 0]
