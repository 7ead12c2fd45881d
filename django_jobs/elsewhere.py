"""Work that a task starts and something else finishes: another service, a person, a machine at night."""

from dataclasses import dataclass
from datetime import timedelta

from .retries import LONGEST_SECONDS, Duration, in_seconds


@dataclass(frozen=True)
class Elsewhere:
    """What a task returns when its work goes on outside: `return Elsewhere(timeout=timedelta(hours=2))`.

    The job stays `started`, held by no worker, until `control.complete` or `control.fail` reports its end.
    If nobody has after `timeout` (seconds or `timedelta`, one day by default), the attempt counts as lost.
    """

    timeout: Duration = timedelta(days=1)

    def __post_init__(self) -> None:
        if isinstance(self.timeout, bool) or not isinstance(self.timeout, Duration):
            raise TypeError(f"Elsewhere(timeout={self.timeout!r}): give seconds or a timedelta.")
        if not 0 < in_seconds(self.timeout) < LONGEST_SECONDS:
            raise ValueError(f"Elsewhere(timeout={self.timeout!r}): give more than 0 seconds.")

    @property
    def seconds(self) -> float:
        return in_seconds(self.timeout)
