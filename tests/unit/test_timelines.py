"""The life of a job as segments: what is known, what goes on, and what is planned."""

from datetime import UTC, datetime, timedelta

import pytest

from django_jobs.admin.timelines import MOST_GHOSTS, segments
from django_jobs.models import Attempt, Job
from django_jobs.states import CANCELED, FAILED, FINISHED, QUEUED, SCHEDULED, STARTED

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def job(status, **values):
    values = {"created_at": NOON, "queued_at": NOON, **values}
    return Job(task="a.b", queue="x", status=status, **values)


def attempt(number, start, end, outcome=Attempt.Outcome.FAILED):
    return Attempt(
        number=number, started_at=NOON + MINUTE * start, finished_at=NOON + MINUTE * end, outcome=outcome
    )


def told(drawn):
    """Each as its kind, with minutes from noon for its start and end."""

    def minutes(moment):
        return None if moment is None else (moment - NOON) / MINUTE

    return [(f"{each.kind} {each.outcome}".strip(), minutes(each.start), minutes(each.end)) for each in drawn]


def test_a_finished_job_waited_and_ran():
    finished = job(FINISHED, finished_at=NOON + MINUTE * 3)

    drawn = segments(finished, [attempt(1, 1, 3, Attempt.Outcome.FINISHED)], NOON + MINUTE * 9)

    assert told(drawn) == [("waiting", 0, 1), ("running finished", 1, 3)]


def test_between_attempts_a_job_backs_off_as_planned_and_then_waits():
    planned = {"max_attempts": 3, "retry_intervals": [180], "queued_at": NOON + MINUTE * 9}
    failed = job(FAILED, attempt=3, finished_at=NOON + MINUTE * 11, **planned)

    drawn = segments(failed, [attempt(1, 0, 1), attempt(2, 5, 6), attempt(3, 10, 11)], NOON + MINUTE * 12)

    assert told(drawn) == [
        ("running failed", 0, 1),
        ("backing_off", 1, 5),
        ("running failed", 5, 6),
        ("backing_off", 6, 9),
        ("waiting", 9, 10),
        ("running failed", 10, 11),
    ]


def test_where_no_pause_was_planned_a_retried_job_waits():
    failed = job(FAILED, attempt=3, max_attempts=3, queued_at=NOON + MINUTE * 6)

    drawn = segments(failed, [attempt(1, 0, 1), attempt(2, 5, 6), attempt(3, 7, 8)], NOON + MINUTE * 9)

    pauses = [each for each in told(drawn) if "running" not in each[0]]
    assert pauses == [("waiting", 1, 5), ("waiting", 6, 7)]


@pytest.mark.parametrize(("outcome", "kind"), [("retried", "backing_off"), ("lost", "waiting")])
def test_a_task_may_ask_for_a_pause_and_a_lost_attempt_of_an_idempotent_one_is_run_again(outcome, kind):
    failed = job(FAILED, attempt=3, idempotent=True, queued_at=NOON + MINUTE * 6)

    drawn = segments(failed, [attempt(1, 0, 1, outcome), attempt(2, 5, 6), attempt(3, 6, 8)], NOON)

    assert told(drawn)[1] == (kind, 1, 5)


def test_of_the_time_in_which_a_job_had_ended_nothing_is_drawn():
    """Until it was requeued by hand."""
    requeued = {"attempt": 3, "queued_at": NOON + MINUTE * 960}
    attempts = [attempt(1, 0, 1), attempt(2, 480, 481)]
    begin = [("running failed", 0, 1), ("running failed", 480, 481)]
    running = job(STARTED, started_at=NOON + MINUTE * 961, **requeued)
    now = NOON + MINUTE * 965

    assert told(segments(job(QUEUED, **requeued), attempts, now)) == [*begin, ("waiting", 960, None)]
    assert told(segments(running, attempts, now)) == [*begin, ("waiting", 960, 961), ("running", 961, None)]


def test_a_job_whose_pause_is_over_waits_since_then():
    planned = {"attempt": 2, "max_attempts": 2, "retry_intervals": [240], "scheduled_for": NOON + MINUTE * 5}
    queued, late = job(QUEUED, queued_at=NOON + MINUTE * 6, **planned), job(SCHEDULED, **planned)
    now = NOON + MINUTE * 9

    shown, shown_late = (told(segments(each, [attempt(1, 0, 1)], now)) for each in (queued, late))

    assert shown == [("running failed", 0, 1), ("backing_off", 1, 6), ("waiting", 6, None)]
    assert shown_late == [("running failed", 0, 1), ("backing_off", 1, 5), ("waiting", 5, None)]


def test_a_job_canceled_before_its_retry_was_backing_off():
    planned = {"attempt": 2, "max_attempts": 2, "retry_intervals": [600], "scheduled_for": NOON + MINUTE * 11}
    canceled = job(CANCELED, finished_at=NOON + MINUTE * 4, **planned)

    drawn = segments(canceled, [attempt(1, 0, 1)], NOON + MINUTE * 9)

    assert told(drawn) == [("running failed", 0, 1), ("backing_off", 1, 4)]


def test_a_running_attempt_has_no_end_and_the_planned_retries_follow_it():
    running = job(STARTED, started_at=NOON + MINUTE, attempt=1, max_attempts=3, retry_intervals=[60, 300])

    drawn = segments(running, [], NOON + MINUTE * 2)

    assert told(drawn) == [
        ("waiting", 0, 1),
        ("running", 1, None),
        ("upcoming", 3, None),
        ("upcoming", 8, None),
    ]


def test_a_job_that_waits_for_its_retry_shows_when_it_comes_and_what_would_follow():
    due = NOON + MINUTE * 5
    waiting = job(SCHEDULED, attempt=2, max_attempts=3, retry_intervals=[240, 600], scheduled_for=due)

    drawn = segments(waiting, [attempt(1, 0, 1)], NOON + MINUTE * 2)

    assert told(drawn) == [
        ("running failed", 0, 1),
        ("backing_off", 1, 5),
        ("upcoming", 5, None),
        ("upcoming", 15, None),
    ]


def test_of_a_million_planned_retries_a_few_are_drawn():
    waiting = job(QUEUED, max_attempts=1_000_000)

    assert len(segments(waiting, [], NOON + MINUTE)) == 1 + MOST_GHOSTS


def test_a_job_canceled_while_it_waited_ends_waiting():
    drawn = segments(job(CANCELED, finished_at=NOON + MINUTE * 4), [], NOON + MINUTE * 9)

    assert told(drawn) == [("waiting", 0, 4)]


def test_a_job_that_was_only_observed_has_its_run():
    observed = job(FAILED, observed_id="x", started_at=NOON + MINUTE, finished_at=NOON + MINUTE * 2)

    assert told(segments(observed, [], NOON + MINUTE * 9)) == [("waiting", 0, 1), ("running failed", 1, 2)]


def test_work_that_goes_on_elsewhere_follows_the_attempt_that_handed_it_over():
    elsewhere = job(STARTED, started_at=NOON + MINUTE, elsewhere_until=NOON + MINUTE * 60)

    drawn = segments(elsewhere, [attempt(1, 1, 2, Attempt.Outcome.ELSEWHERE)], NOON + MINUTE * 3)

    assert told(drawn) == [
        ("waiting", 0, 1),
        ("running elsewhere", 1, 2),
        ("running elsewhere", 2, None),
    ]


def test_where_the_first_attempts_are_left_out_so_is_what_was_before_them():
    failed = job(FAILED, attempt=9, finished_at=NOON + MINUTE * 3)

    assert told(segments(failed, [attempt(9, 2, 3)], NOON + MINUTE * 4)) == [("running failed", 2, 3)]
