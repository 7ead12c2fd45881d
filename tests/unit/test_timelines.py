"""The life of a job as segments: what is known, what goes on, and what is planned."""

from datetime import UTC, datetime, timedelta

from django_jobs.admin.timelines import MOST_GHOSTS, segments
from django_jobs.models import Attempt, Job
from django_jobs.states import CANCELED, FAILED, FINISHED, QUEUED, SCHEDULED, STARTED

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def job(status, **values):
    return Job(task="a.b", queue="x", status=status, **{"created_at": NOON, **values})


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


def test_between_attempts_a_job_backs_off():
    failed = job(FAILED, attempt=2, max_attempts=2, finished_at=NOON + MINUTE * 6)

    drawn = segments(failed, [attempt(1, 0, 1), attempt(2, 5, 6)], NOON + MINUTE * 9)

    assert told(drawn) == [("running failed", 0, 1), ("backing_off", 1, 5), ("running failed", 5, 6)]


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
