"""Retries that the task itself asks for, with `Retry` as what it raises or returns."""

from datetime import timedelta

import pytest
from django.utils import timezone

from django_jobs import Retry, executor
from django_jobs.models import Job, tallies
from django_jobs.reports import report
from django_jobs.signals import job_finished
from django_jobs.states import CANCELED, FAILED, QUEUED, SCHEDULED
from tests.conftest import claim, execute, fresh, make_worker, no_time_limit

pytestmark = pytest.mark.django_db(transaction=True)

ASKING = ["ask_for_another", "return_a_retry"]


def asking(task, *args):
    return {"task": f"tests.tasks.{task}", "args": list(args)}


def attempts(job):
    return [(attempt.number, attempt.outcome) for attempt in job.attempts.all()]


@pytest.mark.parametrize("task", ASKING)
def test_a_task_that_asks_is_tried_again_after_its_interval(job_factory, task):
    job = execute(job_factory(**asking(task, 2, 60)))

    assert (job.status, job.attempt, job.max_attempts, job.started_at) == (SCHEDULED, 2, 1, None)
    assert timedelta(0) < job.scheduled_for - timezone.now() <= timedelta(seconds=60)
    assert attempts(job) == [(1, "retried")]


@pytest.mark.parametrize("task", ASKING)
def test_without_an_interval_it_is_tried_again_at_once(job_factory, task):
    job = execute(job_factory(**asking(task, 2)))

    assert (job.status, job.attempt, job.scheduled_for) == (QUEUED, 2, None)


@pytest.mark.parametrize("task", ASKING)
def test_a_task_that_asks_on_after_its_last_retry_has_failed(job_factory, task):
    job = job_factory(**asking(task, 2))

    for _ in range(3):
        job = execute(job)

    assert (job.status, job.attempt, job.max_attempts) == (FAILED, 3, 1)
    assert attempts(job) == [(1, "retried"), (2, "retried"), (3, "failed")]
    assert tallies.totals("file_processing") == {("file_processing", "failed"): 1}


@pytest.mark.parametrize("task", ASKING)
def test_an_error_after_a_task_asked_is_followed_by_no_more_than_the_tasks_own_retries(job_factory, task):
    job = execute(job_factory(**asking(task, 5)))
    Job.objects.filter(pk=job.pk).update(task="tests.tasks.fail", args=["no paper"])

    job = execute(fresh(job))

    assert (job.status, attempts(job)) == (FAILED, [(1, "retried"), (2, "failed")])


def test_without_any_retry_asking_is_failing(job_factory):
    job = execute(job_factory(**asking("ask_for_another", 0)))

    assert (job.status, attempts(job)) == (FAILED, [(1, "failed")])


def test_all_attempts_count_also_those_that_failed_otherwise(job_factory):
    job = execute(job_factory(**asking("ask_for_another", 2), attempt=3, max_attempts=3))

    assert (job.status, job.attempt) == (FAILED, 3)


def test_who_asks_for_less_than_the_jobs_own_retries_gets_what_it_asks_for(job_factory):
    job = execute(job_factory(**asking("ask_for_another", 1), attempt=2, max_attempts=9))

    assert (job.status, attempts(job)) == (FAILED, [(2, "failed")])


def test_the_jobs_own_retries_stay(job_factory):
    job = execute(job_factory(**asking("ask_for_another", 1), max_attempts=9, retry_intervals=[60]))

    assert (job.status, job.attempt, job.max_attempts) == (QUEUED, 2, 9)


@pytest.mark.parametrize("task", ["ask_for_another_from_a_cause", "ask_for_another_while_handling"])
def test_the_error_of_one_that_asks_because_of_another_error_is_that(job_factory, task):
    job = execute(job_factory(**asking(task, 1)))
    asked = job.attempts.get()
    job = execute(job)

    assert (asked.outcome, asked.error_type, asked.error_message) == ("retried", "ValueError", "the cause")
    assert (job.status, job.error_type, job.error_message) == (FAILED, "ValueError", "the cause")
    assert f"in {task}" in job.traceback
    assert "in fail" in job.traceback


@pytest.mark.parametrize("task", ASKING)
def test_one_that_asks_for_no_such_reason_tells_what_it_asked_for(job_factory, task):
    asked = execute(job_factory(**asking(task, 2, 60))).attempts.get()

    assert "another attempt in 60 s, at most 2 retries" in asked.error_message
    assert asked.error_type == "django_jobs.retries.Retry"


@pytest.mark.parametrize("task", ASKING)
def test_what_it_told_is_kept_until_the_next_attempt(job_factory, task):
    job = execute(job_factory(**asking(task, 2)))

    assert (job.progress, job.progress_message) == (30, "so far")
    assert fresh(claim(job)).progress == 0


@pytest.mark.parametrize("most", [0, 1], ids=["the last", "not the last"])
def test_a_report_that_is_repeated_is_ignored(job_factory, most):
    started = claim(job_factory(**asking("ask_for_another", most)))
    outcome, _ = executor.run(started, no_time_limit)

    for _ in range(2):
        report(started, outcome, worker_name="w1")

    job = fresh(started)
    assert (job.attempt, len(attempts(job)), job.events.count()) == (1 + most, 1, 0)
    assert sum(tallies.totals().values()) == 1 - most


def test_a_job_that_is_to_be_canceled_is_not_tried_again(job_factory):
    started = claim(job_factory(**asking("ask_for_another", 3)))
    started.cancel()
    outcome, _ = executor.run(started, no_time_limit)

    report(started, outcome, worker_name="w1")

    assert (fresh(started).status, fresh(started).attempt) == (CANCELED, 1)
    assert tallies.totals() == {("file_processing", "canceled"): 1}


def test_asking_is_no_failure_of_the_worker_until_the_last_time(job_factory):
    job, worker = job_factory(**asking("ask_for_another", 1)), make_worker()

    job = execute(job, worker=worker)
    assert (fresh(worker).finished_count, fresh(worker).failed_count) == (1, 0)

    execute(job, worker=worker)
    assert (fresh(worker).finished_count, fresh(worker).failed_count) == (1, 1)


def test_receivers_are_told_whether_it_is_tried_again(job_factory):
    told = []

    def note(outcome, **kwargs):
        told.append(outcome)

    job_finished.connect(note)
    job = job_factory(**asking("ask_for_another", 1))
    execute(execute(job))
    job_finished.disconnect(note)

    assert told == ["retried", "failed"]


def test_a_worker_that_raises_a_retry_raises_nothing_for_its_engine(job_factory):
    outcome, raised = executor.run(claim(job_factory(**asking("ask_for_another", 1))), no_time_limit)

    assert (outcome.retry, raised) == (Retry(max=1), None)
