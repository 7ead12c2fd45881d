"""Work that a task starts and something else finishes."""

from datetime import timedelta

import pytest
from django.db.models.functions import Now
from django.utils import timezone

from django_jobs import Elsewhere, control, executor
from django_jobs.exceptions import NotPossible
from django_jobs.models import Job, tallies
from django_jobs.outcomes import Outcome
from django_jobs.reconciler import Reconciler
from django_jobs.reports import report
from django_jobs.states import CANCELED, FAILED, FINISHED, QUEUED, SCHEDULED, STARTED
from tests.conftest import claim, execute, fresh, make_worker, no_time_limit

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("valkey")]


@pytest.fixture
def handed_over(job_factory):
    """A job whose task has handed its work over."""

    def make(**values):
        return execute(job_factory(task="tests.tasks.hand_over", **values))

    return make


def overdue(job):
    Job.objects.filter(pk=job.pk).update(elsewhere_until=Now() - timedelta(seconds=1))
    return job


def attempts(job):
    return [(attempt.number, attempt.outcome) for attempt in job.attempts.all()]


def counted():
    return {status: amount for (_, status), amount in tallies.totals("file_processing").items() if amount}


def test_a_job_whose_work_was_handed_over_stays_started_and_is_held_by_no_worker(handed_over):
    job = handed_over()

    assert (job.status, job.worker, job.finished_at, job.result) == (STARTED, None, None, None)
    assert timedelta(minutes=58) < job.elsewhere_until - timezone.now() <= timedelta(hours=1)
    assert counted() == {}


def test_its_log_its_progress_and_its_attempt_are_kept(handed_over):
    job = handed_over()

    attempt = job.attempts.get()
    assert (attempt.outcome, attempt.worker_name, attempt.claim_id) == ("elsewhere", "w1", job.claim_id)
    assert attempt.log.endswith("INFO tests.tasks: handed over")
    assert (job.progress, job.stage, job.progress_message) == (60, "waiting", "sent")


def test_a_worker_whose_life_ends_takes_no_work_from_elsewhere_along(handed_over):
    job = handed_over()

    assert Reconciler().end_lost_attempts() == 0
    assert fresh(job).status == STARTED


def test_its_progress_is_told_from_outside(handed_over):
    job = handed_over()

    control.update_progress(job, 60, stage="waiting", message="at work")

    row = fresh(job)
    assert (row.status, row.progress, row.progress_message) == (STARTED, 80, "at work")
    assert row.ordered_stages == {
        "sending": {"status": "completed", "progress": 100},
        "waiting": {"status": "processing", "progress": 60},
    }


def test_it_is_finished_from_outside_with_a_result(handed_over):
    job = handed_over()

    control.complete(job.pk, {"pages": 3})

    row = fresh(job)
    assert (row.status, row.result, row.progress, row.error_type) == (FINISHED, {"pages": 3}, 100, "")
    assert row.finished_at >= row.started_at
    assert attempts(job) == [(1, "finished")]
    assert "handed over" in job.attempts.get().log
    assert [(event.kind, event.attempt) for event in job.events.all()] == [("reported", 1)]
    assert counted() == {"finished": 1}


def test_it_is_failed_from_outside(handed_over):
    job = handed_over()

    control.fail(job, "the service is closed")

    row = fresh(job)
    assert (row.status, row.error_type, row.error_message) == (
        FAILED,
        control.reports.REPORTED_FAILURE,
        "the service is closed",
    )
    attempt = job.attempts.get()
    assert (attempt.outcome, attempt.error_message) == ("failed", "the service is closed")
    assert counted() == {"failed": 1}


@pytest.mark.parametrize(("interval", "status"), [(0, QUEUED), (60, SCHEDULED)])
def test_failed_from_outside_it_is_retried_while_attempts_are_left(handed_over, interval, status):
    job = handed_over(max_attempts=2, retry_intervals=[interval])

    control.fail(job, ValueError("not now"))

    row = fresh(job)
    assert (row.status, row.attempt, row.elsewhere_until, row.claim_id) == (status, 2, None, None)
    assert (row.error_type, row.error_message) == ("ValueError", "not now")
    assert attempts(job) == [(1, "failed")]
    assert counted() == {}


def test_a_retry_of_it_may_hand_over_again_and_end_otherwise(handed_over):
    job = handed_over(max_attempts=2)
    control.fail(job, "not now")

    job = execute(fresh(job))
    assert (job.status, job.attempt, attempts(job)) == (STARTED, 2, [(1, "failed"), (2, "elsewhere")])
    control.complete(job, "at last")

    assert (fresh(job).status, fresh(job).result) == (FINISHED, "at last")
    assert attempts(job) == [(1, "failed"), (2, "finished")]
    assert counted() == {"finished": 1}


@pytest.mark.parametrize("end", [control.complete, lambda job: control.fail(job, "why")])
def test_it_ends_once(handed_over, end):
    job = handed_over()
    control.complete(job, "first")

    with pytest.raises(NotPossible, match="is finished; only jobs that have not ended"):
        end(job)
    with pytest.raises(NotPossible):
        control.update_progress(job, 5)

    assert (fresh(job).status, fresh(job).result, fresh(job).progress) == (FINISHED, "first", 100)
    assert counted() == {"finished": 1}


def test_a_report_of_the_hand_over_that_is_repeated_is_ignored(job_factory):
    started = claim(job_factory(task="tests.tasks.hand_over"))
    outcome, _ = executor.run(started, no_time_limit)
    report(started, outcome, worker_name="w1")
    first = fresh(started)

    report(started, outcome, worker_name="w1")

    assert (fresh(started).elsewhere_until, attempts(started)) == (first.elsewhere_until, [(1, "elsewhere")])
    assert started.events.count() == 0


@pytest.mark.parametrize("end", [control.complete, control.cancel, lambda job: control.fail(job, "why")])
def test_its_end_that_was_reported_before_the_hand_over_stays(job_factory, end):
    started = claim(job_factory(task="tests.tasks.hand_over"))
    outcome, _ = executor.run(started, no_time_limit)
    report(started, outcome, worker_name="w1")
    end(started)
    before = Job.objects.filter(pk=started.pk).values().get()

    report(started, outcome, worker_name="w1")

    assert Job.objects.filter(pk=started.pk).values().get() == before
    assert (len(attempts(started)), sum(counted().values())) == (1, 1)


def test_an_answer_that_is_faster_than_the_hand_over_counts(job_factory):
    started = claim(job_factory(task="tests.tasks.hand_over"))
    outcome, _ = executor.run(started, no_time_limit)
    control.complete(started.pk, "already")

    report(started, outcome, worker_name="w1")

    row = fresh(started)
    assert (row.status, row.result, attempts(row)) == (FINISHED, "already", [(1, "finished")])
    assert counted() == {"finished": 1}


@pytest.mark.parametrize(
    "outcome", [Outcome.finished(result="late"), Outcome.failed("E", "late", "")], ids=["finished", "failed"]
)
def test_what_a_worker_reports_after_the_end_was_told_from_outside_changes_nothing(job_factory, outcome):
    started = claim(job_factory(max_attempts=3))
    control.complete(started.pk, "from outside")
    before = Job.objects.filter(pk=started.pk).values().get()

    report(started, outcome, worker_name="w1")

    assert Job.objects.filter(pk=started.pk).values().get() == before
    assert (attempts(started), counted()) == ([(1, "finished")], {"finished": 1})


def test_work_that_is_not_reported_in_time_is_lost(handed_over):
    job = overdue(handed_over())

    assert Reconciler().end_lost_attempts() == 1

    row = fresh(job)
    assert (row.status, row.is_interrupted, row.losses, row.elsewhere_until) == (FAILED, True, 1, None)
    assert "Its work went on elsewhere, and nobody reported its end until" in row.error_message
    assert attempts(job) == [(1, "lost")]
    assert "handed over" in job.attempts.get().log
    assert [event.kind for event in job.events.all()] == ["worker_lost"]
    assert counted() == {"failed": 1}


def test_the_reconciler_ends_it_and_not_before_its_time(handed_over, settings):
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "LEASE_SECONDS": 1}
    in_time, late = handed_over(), overdue(handed_over())
    reconciler = Reconciler()
    reconciler._contact_since -= 2  # It has had contact with the database for longer than a lease.

    reconciler.run_once()

    assert (fresh(in_time).status, fresh(late).status) == (STARTED, FAILED)


def test_lost_work_is_retried_while_attempts_are_left(handed_over):
    job = overdue(handed_over(max_attempts=2))

    Reconciler().end_lost_attempts()

    row = fresh(job)
    assert (row.status, row.attempt, row.elsewhere_until) == (QUEUED, 2, None)
    assert (attempts(job), counted()) == ([(1, "lost")], {})


def test_lost_work_of_an_idempotent_task_is_started_again(handed_over):
    job = overdue(handed_over(idempotent=True))

    Reconciler().end_lost_attempts()

    assert (fresh(job).status, fresh(job).attempt) == (QUEUED, 2)


def test_what_is_told_after_it_was_lost_is_refused(handed_over):
    job = overdue(handed_over())
    Reconciler().end_lost_attempts()

    with pytest.raises(NotPossible, match="is failed; only jobs that have not ended"):
        control.complete(job, "late")

    assert (fresh(job).is_interrupted, counted()) == (True, {"failed": 1})


@pytest.mark.parametrize("verb", [control.cancel, control.stop])
def test_it_is_canceled_at_once(handed_over, verb):
    job = handed_over(max_attempts=3)

    verb(job)

    row = fresh(job)
    assert (row.status, row.finished_at is not None) == (CANCELED, True)
    assert attempts(job) == [(1, "canceled")]
    assert [event.kind for event in job.events.all()] == ["cancel_requested", "canceled"]
    assert counted() == {"canceled": 1}


def test_a_job_that_was_to_be_canceled_is_not_handed_over(job_factory):
    started = claim(job_factory(task="tests.tasks.hand_over"))
    started.cancel()
    outcome, _ = executor.run(started, no_time_limit)

    report(started, outcome, worker_name="w1")

    assert (fresh(started).status, counted()) == (CANCELED, {"canceled": 1})
    assert attempts(started) == [(1, "canceled")]


def test_it_is_marked_as_failed(handed_over):
    job = handed_over(max_attempts=3)

    control.mark_failed(job, reason="given up")

    assert (fresh(job).status, fresh(job).error_message, attempts(job)) == (
        FAILED,
        "given up",
        [(1, "failed")],
    )
    assert counted() == {"failed": 1}


def test_once_it_has_failed_it_can_be_requeued_and_hands_over_anew(handed_over):
    job = handed_over()
    control.fail(job, "why")

    control.requeue(job)
    assert (fresh(job).elsewhere_until, counted()) == (None, {})
    job = execute(fresh(job))

    assert (job.status, attempts(job)) == (STARTED, [(1, "failed"), (2, "elsewhere")])


def test_a_row_that_has_ended_awaits_nothing_from_elsewhere(handed_over):
    job = handed_over()

    control.complete(job)

    assert fresh(job).elsewhere_until is None


def test_a_waiting_job_is_finished_from_outside_without_an_attempt(job_factory):
    job = job_factory()

    control.complete(job, 7)

    assert (fresh(job).status, fresh(job).result, attempts(job)) == (FINISHED, 7, [])
    assert claim(fresh(job)) is None
    assert counted() == {"finished": 1}


def test_a_result_from_outside_has_to_be_json(handed_over):
    job = handed_over()

    with pytest.raises(TypeError, match="The result is a value of type set, which is not JSON"):
        control.complete(job, {1})

    assert fresh(job).status == STARTED


def test_handing_over_counts_as_the_workers_work(job_factory):
    worker = make_worker()

    execute(job_factory(task="tests.tasks.hand_over"), worker=worker)

    assert (fresh(worker).finished_count, fresh(worker).failed_count) == (1, 0)


def test_a_result_that_is_kept_for_a_time_is_kept_from_its_end_on(handed_over):
    job = handed_over(keep_result_seconds=3600)

    control.complete(job, 1)

    assert fresh(job).result_expires_at - fresh(job).finished_at == timedelta(hours=1)


@pytest.mark.parametrize("timeout", [0, -1, timedelta(0), float("nan"), float("inf"), 1e12])
def test_work_elsewhere_takes_a_time_that_ends(timeout):
    with pytest.raises(ValueError, match=r"Elsewhere\(timeout=.*\): give more than 0 seconds"):
        Elsewhere(timeout=timeout)


@pytest.mark.parametrize("timeout", ["1", None, True])
def test_its_time_is_a_duration(timeout):
    with pytest.raises(TypeError, match=r"Elsewhere\(timeout=.*\): give seconds or a timedelta"):
        Elsewhere(timeout=timeout)


def test_its_time_is_a_day_unless_told():
    assert (Elsewhere().seconds, Elsewhere(timeout=timedelta(hours=2)).seconds) == (86_400, 7200)
