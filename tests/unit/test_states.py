import pytest

from django_jobs.states import (
    CANCELED,
    DEFERRED,
    FAILED,
    FINISHED,
    QUEUED,
    SCHEDULED,
    STARTED,
    TERMINAL,
    TRANSITIONS,
    UNFINISHED,
    Status,
    sources,
)


def test_every_state_says_where_it_leads():
    assert set(TRANSITIONS) == set(Status)


def test_every_state_but_the_first_ones_is_led_to():
    reached = set().union(*TRANSITIONS.values())

    assert set(Status) - reached == {DEFERRED}


def test_a_job_starts_only_from_its_queue():
    assert sources(STARTED) == [QUEUED]


def test_whatever_has_not_ended_can_be_canceled():
    assert set(sources(CANCELED)) == UNFINISHED


def test_what_has_finished_stays_finished():
    assert TRANSITIONS[FINISHED] == frozenset()


@pytest.mark.parametrize("status", [FAILED, CANCELED])
def test_what_failed_or_was_canceled_can_be_queued_again(status):
    assert QUEUED in TRANSITIONS[status]


def test_an_interrupted_job_can_still_be_finished_by_its_late_report():
    assert FINISHED in TRANSITIONS[FAILED]
    assert FINISHED not in TRANSITIONS[CANCELED]


def test_no_state_leads_to_itself():
    assert [status for status, targets in TRANSITIONS.items() if status in targets] == []


def test_a_state_has_ended_or_has_not():
    assert {FINISHED, FAILED, CANCELED} == TERMINAL
    assert {QUEUED, SCHEDULED, DEFERRED, STARTED} == UNFINISHED


def test_states_are_rqs_words():
    assert [str(status) for status in Status] == [
        "queued",
        "scheduled",
        "deferred",
        "started",
        "finished",
        "failed",
        "canceled",
    ]
