"""Steering: cancel and requeue, who may, and the trace they leave."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission, User
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.utils import timezone

from django_jobs import control, relay
from django_jobs.exceptions import NotRequeueable
from django_jobs.models import Job
from django_jobs.outcomes import Outcome, lose, report
from django_jobs.states import (
    CANCELED,
    DEFERRED,
    FAILED,
    FINISHED,
    QUEUED,
    SCHEDULED,
    STARTED,
    TERMINAL,
    UNFINISHED,
)
from tests import tasks
from tests.conftest import claim, execute, fresh

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]


@pytest.fixture
def user_who_may(db):
    def make(*codenames, name="ada"):
        user = User.objects.create_user(name)
        user.user_permissions.set(
            Permission.objects.filter(content_type__app_label="django_jobs", codename__in=codenames)
        )
        return user

    return make


def events(job):
    return [(event.kind, event.attempt, event.by) for event in job.events.all()]


@pytest.mark.parametrize("status", [QUEUED, SCHEDULED, DEFERRED])
def test_a_waiting_job_is_canceled_at_once(job_factory, status):
    job = job_factory(status=status, scheduled_for=timezone.now() if status == SCHEDULED else None)

    assert control.cancel(job) is True

    assert (job.status, fresh(job).status) == (CANCELED, CANCELED)
    assert job.finished_at is not None
    assert events(job) == [("canceled", 1, None)]


def test_a_started_job_is_asked_to_stop_and_stays_started(job_factory):
    job = job_factory(status=STARTED)

    assert job.cancel() is True

    assert (fresh(job).status, fresh(job).is_canceling, fresh(job).finished_at) == (STARTED, True, None)
    assert events(job) == [("cancel_requested", 1, None)]


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_a_job_that_has_ended_is_not_canceled(job_factory, status):
    job = job_factory(status=status)

    assert control.cancel(job) is False

    assert (fresh(job).status, fresh(job).cancel_requested_at, events(job)) == (status, None, [])


def test_what_became_of_the_job_meanwhile_counts_and_not_what_the_caller_read(job_factory):
    job = job_factory()
    claim(job)
    assert job.status == QUEUED

    control.cancel(job)

    assert (fresh(job).status, fresh(job).is_canceling) == (STARTED, True)


def test_a_canceled_job_cannot_be_claimed(job_factory):
    job = job_factory()

    control.cancel(job)

    assert claim(job) is None
    assert fresh(job).status == CANCELED


def test_a_canceled_scheduled_job_never_becomes_due(job_factory):
    job = job_factory(status=SCHEDULED, scheduled_for=timezone.now() - timedelta(seconds=1))

    control.cancel(job)
    relay.run_once()

    assert fresh(job).status == CANCELED


@pytest.mark.django_db(transaction=True)
def test_canceling_withdraws_the_delivery_when_it_commits(valkey, queued_ids):
    job, other = tasks.add.enqueue(1), tasks.add.enqueue(2)

    with transaction.atomic():
        control.cancel(job)
        assert len(queued_ids("file_processing")) == 2

    assert queued_ids("file_processing") == [f"{other.pk.hex}-1-0"]
    assert not valkey.exists(f"rq:job:{job.pk.hex}-1-0")


@pytest.mark.django_db(transaction=True)
def test_canceling_works_while_the_server_is_away(settings):
    job = tasks.add.enqueue(1)
    settings.RQ_QUEUES = {"file_processing": {"URL": "redis://127.0.0.1:1/0"}}

    assert control.cancel(job) is True

    assert fresh(job).status == CANCELED


def test_who_lacks_the_permission_cannot_cancel(job_factory, user_who_may):
    job, user = job_factory(), user_who_may("requeue_job", "change_job")

    with pytest.raises(PermissionDenied, match=r"User ada lacks the permission django_jobs\.cancel_job"):
        control.cancel(job, by=user)

    assert (fresh(job).status, events(job)) == (QUEUED, [])


def test_who_has_the_permission_cancels_and_is_named_in_the_trace(job_factory, user_who_may):
    job, user = job_factory(), user_who_may("cancel_job")

    job.cancel(by=user)

    assert (fresh(job).status, events(job)) == (CANCELED, [("canceled", 1, user)])


@pytest.mark.parametrize("status", [FAILED, CANCELED])
def test_a_failed_or_canceled_job_is_reopened_with_one_attempt_more(job_factory, status):
    job = job_factory(
        status=status,
        attempt=2,
        max_attempts=2,
        losses=3,
        delivery=1,
        delivered_epoch="epoch",
        cancel_requested_at=timezone.now(),
        finished_at=timezone.now(),
        started_at=timezone.now(),
        error_type="ValueError",
        error_message="why",
        traceback="…",
        progress=40,
        stage="a",
        stages={"a": {"status": "processing", "progress": 40}},
    )

    assert job.requeue() == job

    row = fresh(job)
    assert (row.status, row.attempt, row.max_attempts, row.losses) == (QUEUED, 3, 3, 0)
    assert (row.delivery, row.delivered_epoch, row.cancel_requested_at) == (0, "", None)
    assert (row.started_at, row.finished_at) == (None, None)
    assert (row.error_type, row.error_message, row.traceback) == ("", "", "")
    assert (row.progress, row.stage, row.stages) == (0, "", {})
    assert events(job) == [("requeued", 3, None)]


@pytest.mark.django_db(transaction=True)
def test_a_requeued_job_is_delivered_when_it_commits_and_runs(job_factory, queued_ids):
    job = execute(job_factory(task="tests.tasks.fail"))
    Job.objects.filter(pk=job.pk).update(task="tests.tasks.add", args=[1])

    with transaction.atomic():
        control.requeue(job)
        assert queued_ids("file_processing") == []

    assert queued_ids("file_processing") == [f"{job.pk.hex}-2-0"]
    assert execute(fresh(job)).status == FINISHED
    assert [(attempt.number, attempt.outcome) for attempt in job.attempts.all()] == [
        (1, "failed"),
        (2, "finished"),
    ]


def test_a_requeued_job_has_no_retries_but_the_attempt_it_was_given(job_factory):
    job = job_factory(status=FAILED, attempt=3, max_attempts=3)
    control.requeue(job)

    report(claim(fresh(job)), Outcome.failed("ValueError", "again", "…"), worker_name="w1")

    assert (fresh(job).status, fresh(job).attempt) == (FAILED, 4)


def test_a_job_canceled_before_its_last_attempt_keeps_its_retries(job_factory):
    job = job_factory(status=CANCELED, attempt=1, max_attempts=3)

    control.requeue(job)

    assert (fresh(job).attempt, fresh(job).max_attempts) == (2, 3)


@pytest.mark.django_db(transaction=True)
def test_a_finished_job_stays_as_it_is_and_a_new_one_with_the_same_call_runs(job_factory, queued_ids):
    owner = User.objects.create_user("ada")
    call = {
        "args": [1],
        "kwargs": {"right": 2},
        "queue": "vectorization",
        "timeout_seconds": 7,
        "idempotent": True,
        "max_attempts": 3,
        "retry_intervals": [10],
        "owner": owner,
        "subject": "file:42",
        "tags": ["a"],
        "meta": {"b": 1},
    }
    job = execute(job_factory(**call))
    before = Job.objects.filter(pk=job.pk).values().get()

    again = control.requeue(job)

    assert Job.objects.filter(pk=job.pk).values().get() == before
    assert (again.pk != job.pk, fresh(again).requeued_from, fresh(again).status) == (True, job, QUEUED)
    assert {name: getattr(fresh(again), name) for name in call} == call
    assert (fresh(again).attempt, fresh(again).result, fresh(again).progress) == (1, None, 0)
    assert [event.message for event in job.events.all()] == [f"As new job {again.pk}."]
    assert queued_ids("vectorization") == [f"{again.pk.hex}-1-0"]


@pytest.mark.parametrize("status", sorted(UNFINISHED))
def test_a_job_that_has_not_ended_is_not_requeued(job_factory, status):
    job = job_factory(status=status)

    with pytest.raises(NotRequeueable, match=f"Job {job.pk} is {status}; only jobs that have ended"):
        job.requeue()

    assert (fresh(job).status, fresh(job).attempt, events(job)) == (status, 1, [])


def test_an_interrupted_job_can_be_requeued(job_factory):
    job = job_factory(status=STARTED)
    lose(job, "Worker w1 is gone.")

    control.requeue(fresh(job))

    assert (fresh(job).status, fresh(job).attempt, fresh(job).losses) == (QUEUED, 2, 0)


def test_who_lacks_the_permission_cannot_requeue(job_factory, user_who_may):
    job, user = job_factory(status=FAILED), user_who_may("cancel_job", "change_job")

    with pytest.raises(PermissionDenied, match=r"User ada lacks the permission django_jobs\.requeue_job"):
        control.requeue(job, by=user)

    assert (fresh(job).status, events(job)) == (FAILED, [])


def test_who_has_the_permission_requeues_and_is_named_in_the_trace(job_factory, user_who_may):
    job, user = job_factory(status=FAILED), user_who_may("requeue_job")

    job.requeue(by=user)

    assert (fresh(job).status, events(job)) == (QUEUED, [("requeued", 2, user)])


def test_someone_who_is_not_active_may_nothing(job_factory, user_who_may):
    user = user_who_may("cancel_job", "requeue_job")
    user.is_active = False
    user.save()

    with pytest.raises(PermissionDenied):
        control.cancel(job_factory(), by=User.objects.get(pk=user.pk))


def test_of_two_requeues_at_once_one_counts(job_factory):
    job = job_factory(status=FAILED)
    other_view = fresh(job)
    control.requeue(job)

    with pytest.raises(NotRequeueable):
        control.requeue(other_view)

    assert fresh(job).attempt == 2


def test_the_trace_survives_the_user(job_factory, user_who_may):
    job, user = job_factory(), user_who_may("cancel_job")
    control.cancel(job, by=user)

    user.delete()

    assert events(job) == [("canceled", 1, None)]
