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
