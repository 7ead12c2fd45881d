"""How often and when a failed attempt is followed by another."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

LONGEST_SECONDS = 1_000_000_000
"""No duration is longer, about 31 years: databases end somewhere beyond."""
MOST_RETRIES = 1_000_000

Duration = int | float | timedelta


@dataclass(frozen=True)
class Retry:
    """Try a failed job again, at most `max` times, as RQ's `Retry` does.

    `interval` is the pause before each retry, in seconds or as `timedelta`: one for all, or a list whose
    last value counts for all further ones. Defaults to 0: at once.
    """

    max: int
    interval: Duration | Sequence[Duration] = 0

    def __post_init__(self) -> None:
        if isinstance(self.max, bool) or not isinstance(self.max, int) or not 0 <= self.max <= MOST_RETRIES:
            raise ValueError(
                f"Retry(max={self.max!r}): retries are a whole number from 0 to {MOST_RETRIES:,}."
            )
        if not all(_is_duration(each) for each in self._given):
            raise ValueError(
                f"Retry(interval={self.interval!r}): an interval is a number of seconds from 0, a timedelta, "
                "or a list of such."
            )

    @property
    def intervals(self) -> list[int | float]:
        """Seconds before the first, second, … retry."""
        return [in_seconds(each) for each in self._given]

    @property
    def _given(self) -> Sequence[Duration]:
        return [self.interval] if isinstance(self.interval, str | Duration) else list(self.interval)


def in_seconds(duration: Duration) -> int | float:
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


def interval_seconds(intervals: Sequence[int | float], failed_attempt: int) -> float:
    """Seconds between the end of attempt `failed_attempt` (counted from 1) and the start of the next."""
    if not intervals:
        return 0
    return intervals[min(failed_attempt, len(intervals)) - 1]


def _is_duration(value: object) -> bool:
    return (
        isinstance(value, Duration)
        and not isinstance(value, bool)
        and 0 <= in_seconds(value) < LONGEST_SECONDS
    )
