"""How much work a child gets in advance: more than one job only while jobs of that task were short."""

from collections.abc import Sequence

IN_ADVANCE_SECONDS = 0.05
"""How much work, as far as is known, a child has waiting at most."""
MOST_IN_ADVANCE = 128
"""How many jobs a child has at most, besides the async ones that it runs at the same time."""
MOST_UNKEPT = 128
"""While more reports than this are in memory alone, no job is handed out."""
_WEIGHT = 0.2  # of the last run in what is expected of the next


class Workload:
    """What is known of tasks: for how many seconds their jobs have run lately."""

    def __init__(self) -> None:
        self._expected: dict[str, float] = {}
        self._recent: float | None = None
        self._async_share: float | None = None
        self._owed: list[float] = []

    def note(self, task: str, ran_seconds: float) -> None:
        """A job of this task has run so long."""
        self._expected[task] = _blend(self._expected.get(task), ran_seconds)
        self._recent = _blend(self._recent, ran_seconds)

    def note_claimed(self, is_async: bool) -> None:
        """Such a job was taken from a queue."""
        self._async_share = _blend(self._async_share, float(is_async))

    def beside(self, free: int) -> int:
        """How many jobs to take for so many places for async jobs: as it seems, not all jobs are async."""
        return int(free * (self._async_share or 0))

    def room(self, load_seconds: float, waiting: int) -> int:
        """How many jobs, of whatever task, a child with this load may have besides. None as long as it has
        half of what it may: seldom and many costs less than often and few, and nobody waits for them."""
        has_enough = waiting > MOST_IN_ADVANCE // 2 or load_seconds > IN_ADVANCE_SECONDS / 2
        if self._recent is None or has_enough:
            return 0
        fitting = int((IN_ADVANCE_SECONDS - load_seconds) / max(self._recent, 1e-6))
        return max(0, min(MOST_IN_ADVANCE - waiting, fitting))

    def expected(self, task: str) -> float:
        """For how many seconds the next job of this task will run. One of which nothing is known is taken to
        be long."""
        return self._expected.get(task, IN_ADVANCE_SECONDS)

    def has_room(self, load_seconds: float, task: str, waiting: int) -> bool:
        """True if a child with this load may have a job of this task as well."""
        return waiting < MOST_IN_ADVANCE and load_seconds + self.expected(task) <= IN_ADVANCE_SECONDS

    def quotas(self, weights: Sequence[int], room: int) -> list[int]:
        """How many of `room` jobs come from each queue: by weight, over time to the last job."""
        self._owed = self._owed or [0.0] * len(weights)
        total = sum(weights)
        quotas = [0] * len(weights)
        for _ in range(room):
            for number, weight in enumerate(weights):
                self._owed[number] += weight / total
            first = max(range(len(weights)), key=self._owed.__getitem__)
            self._owed[first] -= 1
            quotas[first] += 1
        return quotas


def _blend(before: float | None, last: float) -> float:
    return last if before is None else before + _WEIGHT * (last - before)
