"""How much a child gets in advance: much of what is short, nothing beside what may be long."""

from collections import Counter
from itertools import pairwise

import pytest

from django_jobs.pool.workload import IN_ADVANCE_SECONDS, MOST_IN_ADVANCE, Workload


def workload(**ran_seconds):
    made = Workload()
    for task, seconds in ran_seconds.items():
        made.note(task, seconds)
    return made


def test_as_long_as_nothing_is_known_nothing_is_taken_in_advance():
    assert (workload().room(0, 0), workload().beside(10)) == (0, 0)
    assert not workload().has_room(0.001, "a", 0)


@pytest.mark.parametrize(
    ("ran_seconds", "room"),
    [(0, MOST_IN_ADVANCE), (0.0001, MOST_IN_ADVANCE), (0.001, 50), (0.015, 3), (0.06, 0), (3600, 0)],
)
def test_the_shorter_jobs_are_the_more_are_taken_in_advance(ran_seconds, room):
    assert workload(a=ran_seconds).room(0, 0) == room


def test_what_waits_already_counts():
    made = workload(a=0.001)

    assert made.room(0.02, 5) == 30
    assert made.room(0.06, 5) == 0
    assert workload(a=0).room(0, 20) == MOST_IN_ADVANCE - 20


def test_as_long_as_many_wait_no_more_are_taken():
    assert workload(a=0).room(0, MOST_IN_ADVANCE // 2) > 0
    assert workload(a=0).room(0, MOST_IN_ADVANCE // 2 + 1) == 0


def test_as_long_as_much_work_waits_no_more_is_taken():
    assert workload(a=0.001).room(IN_ADVANCE_SECONDS * 0.5, 25) == 25
    assert workload(a=0.001).room(IN_ADVANCE_SECONDS * 0.51, 26) == 0


def test_places_for_async_jobs_are_filled_as_far_as_jobs_are_async():
    made = workload()
    for _ in range(50):
        made.note_claimed(True)
    assert made.beside(10) == 10

    for _ in range(50):
        made.note_claimed(False)

    assert made.beside(10) == 0


def test_what_is_expected_follows_what_has_run_lately():
    made = workload(a=0.001, b=10)
    assert (made.expected("a"), made.expected("b")) == (0.001, 10)

    made.note("a", 1)

    assert 0.1 < made.expected("a") < 1
    assert made.expected("b") == 10
    for _ in range(50):
        made.note("a", 0.001)
    assert made.expected("a") < 0.002


def test_one_long_job_is_enough_to_have_little_waiting():
    made = workload(a=0.0001)
    assert made.room(0, 0) > 50

    made.note("b", 2)

    assert made.room(0, 0) == 0


def test_nothing_waits_behind_a_task_of_which_nothing_is_known():
    made = workload(short=0.001)

    assert made.has_room(0, "unknown", 0)
    assert not made.has_room(made.expected("unknown") + 0.001, "short", 0)
    assert not made.has_room(made.expected("short"), "unknown", 0)
    assert made.has_room(made.expected("short"), "short", 0)


def test_no_more_waits_than_takes_the_time_that_is_allowed():
    made, load, waiting = workload(a=0.01), 0.0, 0
    while made.has_room(load, "a", waiting):
        load += made.expected("a")
        waiting += 1

    assert waiting in (4, 5)  # 0.01 is no binary fraction.
    assert load <= IN_ADVANCE_SECONDS


def test_there_is_a_most_of_what_waits():
    assert workload(a=0).has_room(0, "a", MOST_IN_ADVANCE - 1)
    assert not workload(a=0).has_room(0, "a", MOST_IN_ADVANCE)


@pytest.mark.parametrize("room", [1, 2, 3, 7, 64])
def test_over_time_each_queue_gets_its_weight_to_the_last_job(room):
    made, given = workload(), Counter()
    for _ in range(60):
        quotas = made.quotas([5, 3, 1, 1], room)
        assert sum(quotas) == room
        given.update(dict(enumerate(quotas)))

    for number, weight in enumerate([5, 3, 1, 1]):
        assert abs(given[number] - 60 * room * weight / 10) <= 1


def test_a_queue_of_little_weight_waits_no_longer_than_its_share():
    made = workload()
    turns = [made.quotas([99, 1], 1).index(1) for _ in range(1000)]

    assert Counter(turns) == {0: 990, 1: 10}
    seconds = [turn for turn, queue in enumerate(turns) if queue == 1]
    assert max(later - earlier for earlier, later in pairwise(seconds)) <= 101


def test_no_room_is_shared_by_nobody():
    assert workload().quotas([1, 1], 0) == [0, 0]
