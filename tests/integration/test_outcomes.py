"""How attempts end: reported in time, late or twice, or lost with their worker."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from django_jobs.models import Attempt, Job, Worker
from django_jobs.outcomes import MOST_LOSSES, Outcome, lose
from django_jobs.reports import report
from django_jobs.states import CANCELED, FAILED, FINISHED, QUEUED, SCHEDULED, STARTED
from tests.conftest import claim, fresh, make_worker

pytestmark = pytest.mark.django_db

EVIDENCE = "Worker w1 last answered at 10:02:11."


def failed(message="why", **told):
    return Outcome.failed("ValueError", message, "Traceback …", **told)


def events(job):
    return [(event.kind, event.attempt, event.message) for event in job.events.all()]


def attempts(job):
    return [(attempt.number, attempt.outcome) for attempt in job.attempts.all()]


def test_a_finished_attempt_finishes_its_job(job_factory):
    job = job_factory(status=STARTED)
    progress = {"progress": 100, "progress_message": "done", "stage": "b", "stages": {"b": {}}}

    report(job, Outcome.finished(result=[1], log="a line", progress=progress), worker_name="w7")

    row = fresh(job)
    assert (row.status, row.result, row.progress_message, row.stages) == (FINISHED, [1], "done", {"b": {}})
    assert row.finished_at is not None
    attempt = job.attempts.get()
    assert (attempt.number, attempt.outcome, attempt.worker_name, attempt.log) == (
        1,
        "finished",
        "w7",
        "a line",
    )
    assert (attempt.claim_id, attempt.started_at) == (job.claim_id, job.started_at)
    assert events(job) == []


def test_a_failed_attempt_without_another_fails_its_job(job_factory):
    job = job_factory(status=STARTED)

    report(job, failed(log="a line"), worker_name="w7")

    row = fresh(job)
    assert (row.status, row.error_type, row.error_message) == (FAILED, "ValueError", "why")
    assert (row.traceback, row.attempt) == ("Traceback …", 1)
    attempt = job.attempts.get()
    assert (attempt.outcome, attempt.error_type, attempt.error_message) == ("failed", "ValueError", "why")
    assert (attempt.traceback, attempt.log) == ("Traceback …", "a line")


def test_a_failed_attempt_is_followed_by_the_next_after_its_interval(job_factory):
    job = job_factory(status=STARTED, max_attempts=3, retry_intervals=[10, 60], delivered_epoch="epoch")

    report(job, failed(), worker_name="w7")

    row = fresh(job)
    assert (row.status, row.attempt, row.delivery, row.delivered_epoch) == (SCHEDULED, 2, 0, "")
    pause = row.scheduled_for - job.attempts.get().finished_at
    assert timedelta(seconds=9) < pause < timedelta(seconds=11)
    assert row.will_retry_at == row.scheduled_for
    assert (row.worker, row.claim_id, row.started_at, row.finished_at) == (None, None, None, None)
    assert (row.error_type, row.traceback) == ("ValueError", "Traceback …")
    assert attempts(job) == [(1, "failed")]


def test_each_retry_has_its_own_interval_and_the_last_counts_on(job_factory):
    due = {}
    for attempt in (1, 2, 3, 4):
        job = job_factory(status=STARTED, attempt=attempt, max_attempts=9, retry_intervals=[10, 60, 300])
        report(job, failed(), worker_name="w7")
        due[attempt] = round((fresh(job).scheduled_for - job.attempts.get().finished_at).total_seconds(), -1)

    assert due == {1: 10, 2: 60, 3: 300, 4: 300}


@pytest.mark.parametrize("intervals", [[], [0]])
def test_without_an_interval_the_next_attempt_is_queued_at_once(job_factory, intervals):
    job = job_factory(status=STARTED, max_attempts=2, retry_intervals=intervals)

    report(job, failed(), worker_name="w7")

    row = fresh(job)
    assert (row.status, row.attempt, row.delivery, row.scheduled_for) == (QUEUED, 2, 0, None)
    assert row.queued_at >= job.queued_at


def test_the_last_attempt_fails_its_job(job_factory):
    job = job_factory(status=STARTED, attempt=3, max_attempts=3, retry_intervals=[10])

    report(job, failed(), worker_name="w7")

    assert (fresh(job).status, fresh(job).attempt) == (FAILED, 3)


def test_a_retry_that_finishes_leaves_no_error_and_both_attempts(job_factory):
    job = job_factory(status=STARTED, max_attempts=2)
    report(job, failed(), worker_name="w7")
    second = claim(fresh(job))

    report(second, Outcome.finished(result=1), worker_name="w8")

    row = fresh(job)
    assert (row.status, row.error_type, row.error_message, row.traceback) == (FINISHED, "", "", "")
    assert attempts(job) == [(1, "failed"), (2, "finished")]


def test_our_own_report_repeated_is_ignored(job_factory):
    job = job_factory(status=STARTED)

    for _ in range(2):
        report(job, Outcome.finished(result=1), worker_name="w7")

    assert (attempts(job), events(job)) == ([(1, "finished")], [])


def test_our_own_report_of_a_failure_repeated_is_ignored_even_when_the_next_attempt_runs(job_factory):
    job = job_factory(status=STARTED, max_attempts=3)
    report(job, failed(), worker_name="w7")
    claim(fresh(job))

    report(job, failed(), worker_name="w7")

    assert (fresh(job).status, fresh(job).attempt) == (STARTED, 2)
    assert (attempts(job), events(job)) == ([(1, "failed")], [])


@pytest.mark.parametrize("outcome", [Outcome.finished(result="late"), failed()], ids=["finished", "failed"])
def test_a_late_report_of_a_superseded_attempt_changes_nothing_and_is_noted(job_factory, outcome):
    job = job_factory(status=STARTED, idempotent=True, worker=make_worker(name="w1"))
    lose(job, EVIDENCE)
    second = claim(fresh(job))
    before = Job.objects.filter(pk=job.pk).values().get()

    report(job, outcome, worker_name="w1")

    assert Job.objects.filter(pk=job.pk).values().get() == before
    assert attempts(job) == [(1, "lost")]
    late = job.events.last()
    assert (late.kind, late.attempt) == ("late_report", 1)
    assert late.message == f"w1 reported attempt 1 as {outcome.kind} after it was taken for lost."
    report(second, Outcome.finished(result="in time"), worker_name="w2")
    assert fresh(job).result == "in time"


def test_a_late_report_of_a_job_canceled_meanwhile_is_noted(job_factory):
    job = job_factory(status=STARTED, cancel_requested_at=timezone.now())
    lose(job, EVIDENCE)

    report(job, Outcome.finished(result="late"), worker_name="w1")

    assert (fresh(job).status, fresh(job).result) == (CANCELED, None)
    assert job.events.last().kind == "late_report"


def test_a_report_with_another_claim_changes_nothing(job_factory):
    job = job_factory(status=STARTED)
    imposter = fresh(job)
    imposter.claim_id = uuid4()

    report(imposter, Outcome.finished(result="forged"), worker_name="w9")

    assert (fresh(job).status, attempts(job)) == (STARTED, [])
    assert job.events.get().kind == "late_report"


def test_an_interrupted_job_whose_report_arrives_after_all_is_finished(job_factory):
    job = job_factory(status=STARTED)
    lose(job, EVIDENCE)
    assert fresh(job).is_interrupted

    report(job, Outcome.finished(result=1, log="a line"), worker_name="w1")

    row = fresh(job)
    assert (row.status, row.result, row.error_type, row.error_message) == (FINISHED, 1, "", "")
    attempt = job.attempts.get()
    assert (attempt.number, attempt.outcome, attempt.log, attempt.error_type) == (1, "finished", "a line", "")


def test_the_report_that_replaced_an_interruption_is_our_own_when_it_is_repeated(job_factory):
    job = claim(job_factory())
    Worker.objects.all().delete()
    lose(job, "The worker is gone.")

    for _ in range(2):
        report(job, Outcome.finished(), worker_name="w1")

    assert (fresh(job).status, job.attempts.get().worker_name) == (FINISHED, "w1")
    assert [event.kind for event in job.events.all()] == ["worker_lost"]


def test_an_interrupted_job_whose_failure_is_reported_after_all_stays_failed_and_it_is_noted(job_factory):
    job = job_factory(status=STARTED)
    lose(job, EVIDENCE)

    report(job, failed(), worker_name="w1")

    assert fresh(job).is_interrupted
    assert job.events.last().kind == "late_report"


def test_an_interrupted_job_requeued_meanwhile_is_not_finished_by_the_late_report(job_factory):
    job = job_factory(status=STARTED)
    lose(job, EVIDENCE)
    fresh(job).requeue()

    report(job, Outcome.finished(result="late"), worker_name="w1")

    assert (fresh(job).status, fresh(job).attempt) == (QUEUED, 2)
    assert job.events.last().kind == "late_report"


def test_the_report_of_a_deleted_job_is_dropped(job_factory):
    job = job_factory(status=STARTED)
    Job.objects.filter(pk=job.pk).delete()

    report(job, Outcome.finished(), worker_name="w1")

    assert not Attempt.objects.exists()


def test_a_job_to_be_canceled_gets_no_further_attempt(job_factory):
    job = job_factory(status=STARTED, max_attempts=3, cancel_requested_at=timezone.now())

    report(job, failed(), worker_name="w1")

    row = fresh(job)
    assert (row.status, row.attempt, row.error_type) == (CANCELED, 1, "ValueError")
    assert (row.finished_at is not None, row.claim_id) == (True, job.claim_id)
    assert attempts(job) == [(1, "failed")]


def test_a_job_that_finishes_before_it_is_canceled_is_finished(job_factory):
    job = job_factory(status=STARTED, cancel_requested_at=timezone.now())

    report(job, Outcome.finished(result=1), worker_name="w1")

    assert (fresh(job).status, fresh(job).result) == (FINISHED, 1)


def test_a_lost_attempt_is_retried_while_attempts_are_left(job_factory):
    job = job_factory(status=STARTED, max_attempts=2, retry_intervals=[60], worker=make_worker(name="w7"))

    assert lose(job, EVIDENCE) is True

    row = fresh(job)
    assert (row.status, row.attempt, row.losses, row.delivery) == (SCHEDULED, 2, 1, 0)
    assert row.scheduled_for > timezone.now()
    attempt = job.attempts.get()
    assert (attempt.number, attempt.outcome, attempt.worker_name) == (1, "lost", "w7")
    assert (attempt.error_type, attempt.error_message) == ("WorkerLost", EVIDENCE)
    assert events(job) == [("worker_lost", 1, f"{EVIDENCE} Attempt 1 was cut; it will be retried.")]


def test_a_lost_attempt_of_an_idempotent_job_runs_again_at_once(job_factory):
    job = job_factory(status=STARTED, idempotent=True, retry_intervals=[60])

    lose(job, EVIDENCE)

    row = fresh(job)
    assert (row.status, row.attempt, row.max_attempts, row.losses) == (QUEUED, 2, 1, 1)
    assert events(job) == [
        ("worker_lost", 1, f"{EVIDENCE} Attempt 1 was cut; it is idempotent and will run again.")
    ]


def test_an_idempotent_job_is_run_again_after_three_losses_and_not_after_four(job_factory):
    job = job_factory(idempotent=True)
    statuses = []

    for _ in range(MOST_LOSSES + 1):
        lose(claim(fresh(job)), EVIDENCE)
        statuses.append(fresh(job).status)

    assert statuses == [QUEUED, QUEUED, QUEUED, FAILED]
    row = fresh(job)
    assert (row.is_interrupted, row.attempt, row.losses) == (True, 4, 4)
    assert attempts(job) == [(number, "lost") for number in (1, 2, 3, 4)]


def test_any_other_lost_attempt_interrupts_its_job(job_factory):
    job = job_factory(status=STARTED)

    lose(job, EVIDENCE)

    row = fresh(job)
    assert (row.status, row.error_type, row.error_message) == (FAILED, "WorkerLost", EVIDENCE)
    assert (row.is_interrupted, row.losses, row.finished_at is not None) == (True, 1, True)
    assert events(job) == [("worker_lost", 1, f"{EVIDENCE} Attempt 1 was cut; nobody knows how far it got.")]


@pytest.mark.parametrize("more", [{}, {"max_attempts": 3}, {"idempotent": True}])
def test_a_lost_attempt_of_a_job_to_be_canceled_cancels_it(job_factory, more):
    job = job_factory(status=STARTED, cancel_requested_at=timezone.now(), **more)

    lose(job, EVIDENCE)

    row = fresh(job)
    assert (row.status, row.attempt, row.finished_at is not None) == (CANCELED, 1, True)
    assert attempts(job) == [(1, "canceled")]
    assert events(job) == [("canceled", 1, f"{EVIDENCE} Attempt 1 was cut; it was to be canceled.")]


def test_an_attempt_that_ended_meanwhile_is_not_lost(job_factory):
    job = job_factory(status=STARTED)
    report(job, Outcome.finished(result=1), worker_name="w1")

    assert lose(job, EVIDENCE) is False

    assert (fresh(job).status, fresh(job).losses, events(job)) == (FINISHED, 0, [])


def test_an_attempt_is_lost_once(job_factory):
    job = job_factory(status=STARTED, idempotent=True)

    assert [lose(job, EVIDENCE), lose(job, EVIDENCE)] == [True, False]
    assert (fresh(job).attempt, fresh(job).losses) == (2, 1)


def test_the_worker_of_a_lost_attempt_may_be_unknown(job_factory):
    job = job_factory(status=STARTED, worker=None)

    lose(job, "Worker None is gone.")

    assert job.attempts.get().worker_name == ""
