"""Reports from elsewhere: how far a job is and how it ended, on whatever job has not ended."""

from datetime import datetime, timedelta
from functools import partial
from uuid import uuid4

import pytest
from django.contrib.auth.models import Permission, User
from django.core.exceptions import PermissionDenied
from django.db import connection, transaction
from django.utils import timezone

from django_jobs import control, get_job, relay
from django_jobs.exceptions import JobDoesNotExist, NotPossible
from django_jobs.fingerprints import fingerprint
from django_jobs.models import Job, JobEvent, tallies
from django_jobs.outcomes import Outcome
from django_jobs.reports import report
from django_jobs.states import DEFERRED, FAILED, FINISHED, QUEUED, SCHEDULED, STARTED, TERMINAL, UNFINISHED
from tests import tasks
from tests.conftest import claim, execute, fresh
from tests.threads import at_once

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]

A_TIME = "a time"

REPORTS = {
    "complete": partial(control.complete, result={"pages": 3}),
    "fail": partial(control.fail, error="no paper"),
    "update_progress": partial(control.update_progress, percent=40, message="page 2", stage="scanning"),
}
EXPECTED = {
    "complete": {"status": FINISHED, "finished_at": A_TIME, "result": {"pages": 3}, "progress": 100},
    "fail": {
        "status": FAILED,
        "finished_at": A_TIME,
        "error_type": "ReportedFailure",
        "error_message": "no paper",
        "fingerprint": fingerprint("ReportedFailure", "no paper", ""),
    },
    "update_progress": {
        "progress": 40,
        "progress_message": "page 2",
        "stage": "scanning",
        "stages": {"scanning": {"status": "processing", "progress": 40}},
        "stage_names": ["scanning"],
    },
}
ENDS = ["complete", "fail"]


def row(job):
    return Job.objects.filter(pk=job.pk).values().get()


def changes(before, after):
    """{column: what it has become}, times without saying which."""
    changed = {name: value for name, value in after.items() if value != before[name]}
    return {name: A_TIME if isinstance(value, datetime) else value for name, value in changed.items()}


def events(job):
    return [(event.kind, event.attempt, event.by, event.message) for event in job.events.all()]


def counted():
    return {status: amount for (_, status), amount in tallies.totals().items() if amount}


def user_who_may(*codenames):
    user = User.objects.create_user("ada")
    own = Permission.objects.filter(content_type__app_label="django_jobs")
    user.user_permissions.set(own.filter(codename__in=codenames))
    return user


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("status", sorted(UNFINISHED))
@pytest.mark.parametrize("known_as", [lambda job: job, lambda job: job.pk, lambda job: str(job.pk)])
def test_a_job_that_has_not_ended_is_reported_on_and_nothing_else_changes(
    job_factory, name, status, known_as
):
    job, user = job_factory(status=status), user_who_may("report_job")
    before, word = row(job), {"complete": "finished", "fail": "failed"}.get(name)

    REPORTS[name](known_as(job), by=user)

    assert changes(before, row(job)) == EXPECTED[name]
    assert events(job) == ([("reported", 1, user, f"Reported from elsewhere as {word}.")] if word else [])
    assert counted() == ({word: 1} if word else {})
    attempts = [(attempt.number, attempt.outcome) for attempt in job.attempts.all()]
    assert attempts == ([(1, word)] if word and status == STARTED else [])


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_a_job_that_has_ended_is_not_reported_on(job_factory, name, status):
    job = job_factory(status=status)
    before = row(job)

    with pytest.raises(
        NotPossible, match=f"^Job {job.pk} is {status}; only jobs that have not ended"
    ) as error:
        REPORTS[name](job.pk)

    assert error.value.reason == f"is {status}"
    assert (row(job), events(job), counted()) == (before, [], {})


@pytest.mark.parametrize("name", ENDS)
def test_the_first_report_wins(job_factory, name):
    job = job_factory(status=STARTED)
    control.complete(job, 1)
    before = row(job)

    with pytest.raises(NotPossible):
        REPORTS[name](fresh(job))

    assert row(job) == before
    assert counted() == {"finished": 1}


@pytest.mark.parametrize("name", ENDS)
def test_the_job_returned_is_as_its_row(job_factory, name):
    job = job_factory()

    told = REPORTS[name](job.pk)

    assert (told.pk, told.status) == (job.pk, fresh(job).status)


@pytest.mark.parametrize("name", REPORTS)
def test_who_has_every_permission_but_the_one_may_not_report(job_factory, name):
    others = Permission.objects.exclude(codename="report_job").values_list("codename", flat=True)
    job, user = job_factory(), user_who_may(*others)
    before = row(job)

    with pytest.raises(PermissionDenied, match=r"^User ada lacks the permission django_jobs\.report_job\."):
        REPORTS[name](job, by=user)

    assert (row(job), events(job)) == (before, [])


@pytest.mark.parametrize("name", REPORTS)
def test_an_observed_job_is_reported_where_it_was_enqueued(job_factory, name):
    job = job_factory(observed_id="abc")
    before = row(job)

    with pytest.raises(NotPossible, match="where its id is abc"):
        REPORTS[name](job.pk)

    assert (row(job), events(job)) == (before, [])


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("given", [lambda: uuid4(), lambda: "42", lambda: None, lambda: Job()])
def test_a_job_that_does_not_exist_is_not_reported_on(name, given):
    with pytest.raises(JobDoesNotExist):
        REPORTS[name](given())

    assert JobEvent.objects.count() == 0


@pytest.mark.parametrize("result", [{1}, object(), float("nan"), {"a": b"b"}, {1: 2}, "\0"])
def test_a_result_that_cannot_be_stored_is_refused_and_the_job_goes_on(job_factory, result):
    job = job_factory(status=STARTED)
    before = row(job)

    with pytest.raises(TypeError, match=r"^The result "):
        control.complete(job, result)

    assert (row(job), events(job)) == (before, [])


def test_a_result_that_is_too_large_is_refused_and_the_job_goes_on(job_factory, settings):
    settings.DJANGO_JOBS = {"MAX_RESULT_BYTES": 1000}
    job = job_factory(status=STARTED)
    before = row(job)

    with pytest.raises(ValueError, match=r"^The result is 1,002 bytes of JSON; at most 1,000 are stored\."):
        control.complete(job, "x" * 1000)

    assert (row(job), events(job)) == (before, [])


@pytest.mark.parametrize("result", [None, 0, "", [], {"a": [1, None, "ü"]}, 1.5])
def test_a_result_is_kept_as_it_was(job_factory, result):
    job = control.complete(job_factory(status=STARTED), result)

    assert fresh(job).result == result


def test_a_result_is_kept_as_long_as_the_job_says(job_factory):
    job = control.complete(job_factory(status=STARTED, keep_result_seconds=60), 1)

    assert timedelta(0) < job.result_expires_at - timezone.now() <= timedelta(seconds=60)


def test_work_that_is_done_counts_though_its_job_was_asked_to_cancel(job_factory):
    job = control.complete(job_factory(status=STARTED, cancel_requested_at=timezone.now()), 1)

    assert (job.status, job.result) == (FINISHED, 1)


@pytest.mark.parametrize("percent", [-1, 100.1, float("nan"), float("inf"), "50", None, True, [50]])
def test_a_percentage_that_is_none_is_refused(job_factory, percent):
    job = job_factory(status=STARTED)
    before = row(job)

    with pytest.raises(ValueError, match="give a percentage, a number from 0 to 100"):
        control.update_progress(job, percent)

    assert row(job) == before


def test_progress_adds_to_what_was_told_before(job_factory):
    job = job_factory(status=STARTED)
    for percent, stage in ((100, "scanning"), (50, "reading")):
        control.update_progress(job, percent, stage=stage, message=f"{stage} now")
    control.update_progress(job.pk, 60, stage="reading")

    told = fresh(job)
    assert (told.progress, told.stage, told.progress_message) == (80, "reading", "reading now")
    assert list(told.ordered_stages) == ["scanning", "reading"]

    control.update_progress(job, 85.9)

    told = fresh(job)
    assert (told.progress, told.stages["reading"]) == (85, {"status": "processing", "progress": 60})


def test_texts_of_progress_are_made_such_that_every_database_takes_them(job_factory):
    job = job_factory(status=STARTED)

    control.update_progress(job, 1, message="a\0\ud800" + "x" * 5000, stage="b\0" + "y" * 500)

    told = fresh(job)
    assert told.progress_message.startswith("a\N{REPLACEMENT CHARACTER}?xx")
    assert (len(told.progress_message), len(told.stage), list(told.stages)) == (1000, 100, [told.stage])


def test_progress_may_be_told_in_the_callers_transaction_and_rolled_back_with_it(job_factory):
    job = job_factory(status=STARTED)

    with pytest.raises(LookupError), transaction.atomic():
        control.update_progress(job, 50)
        raise LookupError

    assert fresh(job).progress == 0


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        ("no paper", "ReportedFailure", "no paper"),
        ("", "ReportedFailure", ""),
        (ValueError("no paper"), "ValueError", "no paper"),
        (ValueError(), "ValueError", ""),
        ("a\0b", "ReportedFailure", "a\N{REPLACEMENT CHARACTER}b"),
        ("x" * 5000, "ReportedFailure", "x" * 1999 + "…"),
    ],
)
def test_a_failure_is_text_or_an_exception(job_factory, error, kind, message):
    job = control.fail(job_factory(status=STARTED), error)

    assert (job.status, job.error_type, job.error_message) == (FAILED, kind, message)
    attempt = job.attempts.get()
    assert (attempt.error_type, attempt.error_message) == (kind, message)


def test_an_exception_is_told_as_a_worker_tells_it(job_factory):
    def refuse():
        raise JobDoesNotExist("no paper")

    job = job_factory(status=STARTED)
    try:
        refuse()
    except JobDoesNotExist as error:
        control.fail(job, error)

    attempt = job.attempts.get()
    for told in (job, attempt):
        assert told.error_type == "django_jobs.exceptions.JobDoesNotExist"
        assert "in refuse" in told.traceback


def test_a_job_that_runs_and_is_reported_failed_has_its_next_attempt_as_planned(job_factory):
    job = claim(job_factory(max_attempts=2, retry_intervals=[60]))

    told = control.fail(job, "no paper")

    assert (told.status, told.attempt, told.will_retry_at is not None) == (SCHEDULED, 2, True)
    assert events(job) == [("reported", 1, None, "Reported from elsewhere as failed.")]
    assert [(attempt.number, attempt.outcome) for attempt in job.attempts.all()] == [(1, "failed")]
    assert counted() == {}


@pytest.mark.parametrize("status", [QUEUED, SCHEDULED, DEFERRED])
def test_a_job_that_waits_and_is_reported_failed_is_not_tried_first(job_factory, status):
    job = control.fail(job_factory(status=status, max_attempts=3), "no paper")

    assert (job.status, job.attempt) == (FAILED, 1)


@pytest.mark.django_db(transaction=True)
def test_a_job_that_waits_for_its_next_attempt_may_be_reported_finished(job_factory):
    job = execute(job_factory(task="tests.tasks.fail", max_attempts=2, retry_intervals=[60]))

    told = control.complete(job, "after all")

    assert (told.status, told.result, told.error_type, told.error_message) == (FINISHED, "after all", "", "")
    assert [(attempt.number, attempt.outcome) for attempt in job.attempts.all()] == [(1, "failed")]


@pytest.mark.parametrize("end", [*map(REPORTS.get, ENDS), control.mark_failed])
def test_what_its_worker_reports_after_the_end_was_told_from_outside_is_noted(job_factory, end):
    job = claim(job_factory())
    end(fresh(job))
    before = row(job)

    report(job, Outcome.finished(result="late"), worker_name="w1")

    assert row(job) == before
    late = job.events.last()
    assert (late.kind, late.attempt) == ("late_report", 1)
    assert late.message == "w1 reported attempt 1 as finished after it was ended otherwise."


def test_what_is_reported_while_it_waits_cannot_be_claimed_afterwards(job_factory):
    job = job_factory()

    control.complete(job, 1)

    assert (claim(fresh(job)), fresh(job).status) == (None, FINISHED)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", ENDS)
def test_what_waited_in_redis_is_taken_back_when_the_report_commits(valkey, queued_ids, name):
    job = tasks.add.enqueue(1)

    with transaction.atomic():
        REPORTS[name](job)
        assert queued_ids("file_processing") == [f"{job.pk.hex}-1-0"]

    assert (queued_ids("file_processing"), list(valkey.scan_iter("rq:job:*"))) == ([], [])


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("status", [QUEUED, STARTED])
def test_reports_arrive_while_redis_is_away(job_factory, settings, name, status):
    job = job_factory(status=status)
    settings.RQ_QUEUES = {each: {"URL": "redis://127.0.0.1:1/0"} for each in settings.RQ_QUEUES}
    before = row(job)

    REPORTS[name](job)

    assert changes(before, row(job)) == EXPECTED[name]


@pytest.mark.django_db(transaction=True)
def test_a_report_from_outside_and_the_workers_own_at_once_one_counts_and_the_row_shows_it(job_factory):
    for _ in range(12 if connection.vendor == "postgresql" else 8):
        job = claim(job_factory())
        own, before = fresh(job), counted()

        told, _ = at_once(
            partial(control.complete, job, "outside"),
            partial(report, own, Outcome.failed("ValueError", "inside", ""), worker_name="w1"),
        )

        ended = get_job(job.pk)
        was_late = isinstance(told, NotPossible)
        assert was_late or told == job, told
        assert ended.status == (FAILED if was_late else FINISHED)
        assert (ended.result, ended.error_message) == ((None, "inside") if was_late else ("outside", ""))
        assert job.attempts.get().outcome == ended.status
        assert len([kind for kind, _, _, _ in events(job) if kind == "reported"]) == (not was_late)
        assert counted() == {**before, ended.status: before.get(ended.status, 0) + 1}


@pytest.mark.django_db(transaction=True)
def test_of_several_reports_at_once_one_counts(job_factory):
    job = job_factory(status=STARTED)

    answers = at_once(*[partial(control.complete, job.pk, number) for number in range(4)])

    won = [number for number, answer in enumerate(answers) if answer == job]
    assert [fresh(job).result] == won
    assert [type(answer) for answer in answers if answer != job] == [NotPossible] * 3
    assert (len(events(job)), counted()) == (1, {"finished": 1})


@pytest.mark.django_db(transaction=True)
def test_what_is_to_be_tried_again_after_a_report_is_delivered(job_factory, queued_ids):
    job = claim(job_factory(max_attempts=2))

    control.fail(job, "no paper")
    relay.run_once()

    assert queued_ids("file_processing") == [f"{job.pk.hex}-2-0"]
