import math
from datetime import timedelta

import pytest

from django_jobs import Retry
from django_jobs.retries import interval_seconds


@pytest.mark.parametrize(
    ("interval", "intervals"),
    [
        (0, [0]),
        (1.5, [1.5]),
        (timedelta(minutes=2), [120]),
        ([10, 60], [10, 60]),
        ((10, timedelta(hours=1)), [10, 3600]),
        ([], []),
    ],
)
def test_an_interval_is_seconds_a_timedelta_or_a_list_of_such(interval, intervals):
    assert Retry(max=3, interval=interval).intervals == intervals


def test_without_an_interval_the_retry_is_at_once():
    assert Retry(max=3).intervals == [0]


@pytest.mark.parametrize("most", [-1, 1.5, True, "3", None, 10**9])
def test_the_number_of_retries_is_a_whole_number_from_0(most):
    with pytest.raises(ValueError, match=r"Retry\(max=.*whole number from 0"):
        Retry(max=most)


@pytest.mark.parametrize(
    "interval",
    [-1, [10, -1], "10", ["10"], True, [None], float("nan"), float("inf"), timedelta(days=-1), 1e12],
)
def test_an_interval_lies_in_the_future_and_has_an_end(interval):
    with pytest.raises(ValueError, match=r"Retry\(interval=.*an interval is a number of seconds"):
        Retry(max=1, interval=interval)


@pytest.mark.parametrize(
    ("intervals", "failed_attempt", "seconds"),
    [
        ([10, 60, 300], 1, 10),
        ([10, 60, 300], 2, 60),
        ([10, 60, 300], 3, 300),
        ([10, 60, 300], 9, 300),
        ([7], 4, 7),
        ([], 1, 0),
    ],
)
def test_each_failed_attempt_has_its_interval_and_the_last_counts_on(intervals, failed_attempt, seconds):
    assert interval_seconds(intervals, failed_attempt) == seconds


def test_a_retry_can_be_raised():
    with pytest.raises(Retry, match="another attempt in 5 s, at most 3 retries"):
        raise Retry(max=3, interval=5)


@pytest.mark.parametrize(
    ("options", "intervals"),
    [
        ({"max": 5, "interval": 10, "backoff": 2}, [10, 20, 40, 80, 160]),
        ({"max": 6, "interval": 10, "backoff": 2, "max_interval": 60}, [10, 20, 40, 60]),
        ({"max": 4, "interval": timedelta(minutes=1), "backoff": 1.5}, [60, 90, 135, 202.5]),
        ({"max": 9, "interval": 1000, "backoff": 10}, [1000, 3600]),
        ({"max": 9, "interval": 1, "backoff": 10, "max_interval": timedelta(seconds=50)}, [1, 10, 50]),
        ({"max": 3, "interval": [10], "backoff": 2}, [10, 20, 40]),
        ({"max": 1, "interval": 10, "backoff": 2}, [10]),
        ({"max": 0, "interval": 10, "backoff": 2}, [10]),
        ({"max": 5, "interval": 10, "backoff": 1}, [10]),
    ],
)
def test_with_backoff_each_pause_is_a_multiple_of_the_last_up_to_an_end(options, intervals):
    assert Retry(**options).intervals == intervals


def test_backoff_goes_on_to_its_end_and_stays_there():
    retry = Retry(max=100, interval=1, backoff=2, max_interval=100)

    assert [retry.seconds_after(attempt) for attempt in (1, 2, 7, 8, 9, 100)] == [1, 2, 64, 100, 100, 100]


@pytest.mark.parametrize("backoff", [0, 0.5, -2, True, "2", None, math.nan, math.inf])
def test_a_backoff_is_a_number_from_1(backoff):
    with pytest.raises(ValueError, match=r"Retry\(backoff=.*\): a pause is multiplied by a number from 1"):
        Retry(max=1, interval=1, backoff=backoff)


@pytest.mark.parametrize("longest", [-1, "1h", None, True, math.nan, timedelta(days=-1)])
def test_the_longest_pause_is_a_duration(longest):
    with pytest.raises(ValueError, match=r"Retry\(max_interval=.*\): give seconds from 0 or a timedelta"):
        Retry(max=1, max_interval=longest)


@pytest.mark.parametrize("jitter", [-0.1, 1.1, True, "0.5", None, math.nan])
def test_jitter_is_a_part(jitter):
    with pytest.raises(ValueError, match=r"Retry\(jitter=.*\): jitter is a number from 0 to 1"):
        Retry(max=1, jitter=jitter)


def test_a_list_of_intervals_and_a_backoff_contradict_each_other():
    with pytest.raises(
        ValueError, match=r"a list says each pause; give one interval and backoff=, or a list"
    ):
        Retry(max=3, interval=[10, 60], backoff=2)


@pytest.mark.parametrize("jitter", [0.1, 0.5, 1])
def test_jitter_makes_a_pause_shorter_or_longer_by_at_most_its_part(jitter):
    pauses = [Retry(max=1, interval=100, jitter=jitter).seconds_after(1) for _ in range(500)]

    assert 100 * (1 - jitter) <= min(pauses) < 100 < max(pauses) <= 100 * (1 + jitter)
    assert max(pauses) - min(pauses) > 100 * jitter
    assert len(set(pauses)) > 100


def test_without_jitter_all_pauses_are_alike():
    assert {Retry(max=1, interval=100).seconds_after(1) for _ in range(10)} == {100}


def test_jitter_of_no_pause_is_none():
    assert {interval_seconds([0], 1, 1.0) for _ in range(10)} == {0}


def test_equal_retries_are_equal_and_serve_as_keys():
    one, same = (Retry(max=2, interval=[1, 2]) for _ in range(2))

    assert (one == same, {one: "found"}[same], one == Retry(max=2, interval=[1, 3])) == (True, "found", False)


def test_a_retry_can_be_raised_from_a_cause_again_and_again():
    retry = Retry(max=2)

    for number in range(2):
        with pytest.raises(Retry) as raised:
            raise retry from ValueError(number)
        assert raised.value.__cause__.args == (number,)


def test_a_backoff_needs_an_interval_to_multiply():
    with pytest.raises(ValueError, match="give an interval to multiply"):
        Retry(max=3, backoff=2)


def test_a_backoff_that_hardly_grows_stores_a_bounded_number_of_intervals():
    assert len(Retry(max=1_000_000, interval=1, backoff=1.000001).intervals) == 1000
