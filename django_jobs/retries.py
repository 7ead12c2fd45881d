"""How often and when a failed attempt is followed by another."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Retry:
    """Try a failed job again, at most `max` times, as RQ's `Retry` does.

    `interval` is the pause before each retry in seconds: one number for all, or a list whose last
    value counts for all further ones. Defaults to 0: at once.
    """

    max: int
    interval: int | float | Sequence[int | float] = 0

    def __post_init__(self) -> None:
        if isinstance(self.max, bool) or not isinstance(self.max, int) or self.max < 0:
            raise ValueError(f"Retry(max={self.max!r}): max is the number of retries, a whole number from 0.")
        for seconds in self.intervals:
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e9:
                raise ValueError(
                    f"Retry(interval={self.interval!r}): an interval is a number of seconds from 0, "
                    "or a list of such numbers."
                )

    @property
    def intervals(self) -> list[int | float]:
        """Seconds before the first, second, … retry."""
        return list(self.interval) if isinstance(self.interval, Sequence) else [self.interval]


def interval_seconds(intervals: Sequence[int | float], failed_attempt: int) -> float:
    """Seconds between the end of attempt `failed_attempt` (counted from 1) and the start of the next."""
    if not intervals:
        return 0
    return intervals[min(failed_attempt, len(intervals)) - 1]
