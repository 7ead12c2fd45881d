"""How often and when a failed attempt is followed by another."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

LONGEST_SECONDS = 1_000_000_000
"""No duration is longer, about 31 years: databases end somewhere beyond."""
MOST_RETRIES = 1_000_000
MOST_INTERVALS = 1000
"""How many intervals of a back-off are stored in each row; the last counts for all further retries."""

Duration = int | float | timedelta


@dataclass(unsafe_hash=True)  # Not frozen: Python writes a traceback into what is raised.
class Retry(Exception):
    """Try a failed job again, at most `max` times, as RQ's `Retry` does.

    `interval` is the pause before each retry, in seconds or as `timedelta`: one for all, or a list whose
    last value counts for all further ones. Defaults to 0: at once. With `backoff` the pause is multiplied
    by it after each retry, up to `max_interval`, seconds or `timedelta`, by default an hour. With `jitter`, a
    number from 0 to 1, each pause is up to that part shorter or longer, at random, so that jobs that failed
    together do not return together.

    A task may also raise or return one: its job is then tried again after its pause, unless more than `max`
    attempts have been made already, all counted. Raises `ValueError` for what makes no sense.
    """

    max: int
    interval: Duration | Sequence[Duration] = 0
    backoff: float = 1
    max_interval: Duration = 3600
    jitter: float = 0

    def __post_init__(self) -> None:
        if isinstance(self.max, bool) or not isinstance(self.max, int) or not 0 <= self.max <= MOST_RETRIES:
            raise ValueError(
                f"Retry(max={self.max!r}): retries are a whole number from 0 to {MOST_RETRIES:,}."
            )
        if isinstance(self.interval, list):
            self.interval = tuple(self.interval)  # So that it is hashable.
        if not all(_is_duration(each) for each in self._given):
            raise ValueError(
                f"Retry(interval={self.interval!r}): an interval is a number of seconds from 0, a timedelta, "
                "or a list of such."
            )
        if not _is_number(self.backoff) or not 1 <= self.backoff < LONGEST_SECONDS:
            raise ValueError(f"Retry(backoff={self.backoff!r}): a pause is multiplied by a number from 1.")
        if not _is_duration(self.max_interval):
            raise ValueError(
                f"Retry(max_interval={self.max_interval!r}): give seconds from 0 or a timedelta."
            )
        if not _is_number(self.jitter) or not 0 <= self.jitter <= 1:
            raise ValueError(f"Retry(jitter={self.jitter!r}): jitter is a number from 0 to 1.")
        if self.backoff > 1 and not any(in_seconds(each) for each in self._given):
            raise ValueError(
                f"Retry(interval={self.interval!r}, backoff={self.backoff!r}): give an interval to multiply."
            )
        if self.backoff > 1 and len(self._given) > 1:
            raise ValueError(
                f"Retry(interval={self.interval!r}, backoff={self.backoff!r}): a list says each pause; give "
                "one interval and backoff=, or a list alone."
            )

    def __str__(self) -> str:
        return f"another attempt in {self.seconds_after(1):g} s, at most {self.max} retries"

    @property
    def intervals(self) -> list[int | float]:
        """Seconds before the first, second, … retry; the last counts for all further ones."""
        pauses = [in_seconds(each) for each in self._given]
        if self.backoff > 1 and pauses[0] > 0:
            longest = in_seconds(self.max_interval)
            while len(pauses) < min(self.max, MOST_INTERVALS) and pauses[-1] < longest:
                pauses.append(min(pauses[-1] * self.backoff, longest))
        return pauses

    def seconds_after(self, failed_attempt: int) -> float:
        """Seconds to wait after attempt `failed_attempt`, counted from 1, has failed."""
        return interval_seconds(self.intervals, failed_attempt, self.jitter)

    @property
    def _given(self) -> Sequence[Duration]:
        return [self.interval] if isinstance(self.interval, str | Duration) else list(self.interval)


def in_seconds(duration: Duration) -> int | float:
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


def interval_seconds(intervals: Sequence[int | float], failed_attempt: int, jitter: float = 0) -> float:
    """Seconds between the end of attempt `failed_attempt` (counted from 1) and the start of the next."""
    if not intervals:
        return 0
    pause = intervals[min(failed_attempt, len(intervals)) - 1]
    return pause * (1 + random.uniform(-jitter, jitter)) if jitter else pause  # noqa: S311 - No secret.


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_duration(value: object) -> bool:
    return (
        isinstance(value, Duration)
        and not isinstance(value, bool)
        and 0 <= in_seconds(value) < LONGEST_SECONDS
    )
