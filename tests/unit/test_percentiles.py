"""Percentiles out of histograms: how far they may be off."""

from datetime import UTC, datetime
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_jobs.figures import Figures, percentile
from django_jobs.models.figures import BOUNDS, bucket

DAY = 86_400


def histogram_of(durations):
    histogram = [0] * (len(BOUNDS) + 1)
    for seconds in durations:
        histogram[bucket(seconds)] += 1
    return histogram


@given(
    st.lists(st.floats(0, 10 * DAY), min_size=1, max_size=200),
    st.sampled_from([0.01, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0]),
)
def test_a_percentile_lies_in_the_bucket_of_the_true_one_and_within_its_bound(durations, part):
    true = sorted(durations)[ceil(part * len(durations)) - 1]

    told = percentile(histogram_of(durations), part)

    if true >= DAY:
        assert told == DAY
    elif true < BOUNDS[0]:
        assert 0 <= told <= BOUNDS[0]
    else:
        begin, end = BOUNDS[bucket(true) - 1], BOUNDS[bucket(true)]
        assert begin <= told <= end
        assert true / 4 < told <= true * 4


def test_a_percentile_is_interpolated_within_its_bucket():
    histogram = histogram_of([2] * 10)  # From 1 to 3 seconds.

    assert [percentile(histogram, part) for part in (0.1, 0.5, 1.0)] == [1.2, 2.0, 3.0]


def test_without_durations_there_is_no_percentile():
    assert percentile([], 0.5) is None
    assert percentile([0] * 18, 0.95) is None


def test_a_histogram_that_was_kept_with_fewer_buckets_is_read_as_well():
    assert percentile([0, 0, 4], 0.5) == pytest.approx(0.02)


def test_figures_tell_rates_and_means():
    none = Figures(datetime.now(UTC))
    some = Figures(
        datetime.now(UTC),
        finished=5,
        failed=3,
        lost=1,
        retried=1,
        canceled=1,
        run_seconds=12,
        waits=histogram_of([0.02] * 8),
        runs=histogram_of([2] * 6),
    )

    assert (none.ended, none.failure_rate, none.mean_run_seconds, none.run_p95_seconds) == (0, 0, None, None)
    assert (some.ended, some.failure_rate, some.mean_run_seconds) == (10, 0.3, 2)
    assert (some.wait_p50_seconds, some.run_p50_seconds) == (pytest.approx(0.02), 2)
    assert some.wait_p95_seconds < 0.03
    assert some.run_p95_seconds < 3
