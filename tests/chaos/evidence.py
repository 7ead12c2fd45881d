"""What is known of a run: what the database tells, what jobs did, what befell them.

Times are seconds of the boot-time clock, except those in rows.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from .effects import Execution


@dataclass
class Record:
    """What the database tells of a job."""

    id: UUID
    status: str = "finished"
    attempt: int = 1
    max_attempts: int = 1
    idempotent: bool = False
    losses: int = 0
    error_type: str = ""
    error_message: str = ""
    end: str = "well"
    """How its function was to end, see tasks.py."""
    attempts: dict[int, str] = field(default_factory=dict)
    """{number: outcome}"""
    events: list[tuple[str, int]] = field(default_factory=list)
    """[(kind, attempt), …]"""
    told: str = ""
    """All of it for people."""

    def numbers(self, kind: str) -> list[int]:
        """The attempts that have an event of this kind."""
        return [attempt for each, attempt in self.events if each == kind]


@dataclass(frozen=True)
class Pause:
    """A time in which these processes stood still; without pids the machine, or one of its processors."""

    began: float
    ended: float
    pids: frozenset[int] = frozenset()

    def within(self, began: float, ended: float) -> float:
        """How many seconds of it lie between these moments."""
        return max(0.0, min(ended, self.ended) - max(began, self.began))


def stood_still(pauses: Iterable[Pause], began: float, ended: float) -> float:
    """How many seconds between these moments the machine stood still, or one of its processors did."""
    seconds, until = 0.0, began
    for pause in sorted((each for each in pauses if not each.pids), key=lambda each: each.began):
        seconds += pause.within(until, ended)
        until = max(until, pause.ended)
    return seconds


@dataclass(frozen=True)
class Trouble:
    """A time in which workers were killed or stopped, or the stores were out of their reach.

    Without pids of workers it concerned all of them; without stores the processes themselves.
    """

    began: float
    ended: float
    worker_pids: frozenset[int] = frozenset()
    stores: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Loss:
    """The attempt of a worker that was taken for lost, and when it ran."""

    job_id: UUID
    attempt: int
    worker_pid: int
    began: float
    ended: float


@dataclass
class Run:
    """What is known of a run. `enqueued`: was a job's transaction committed, where that is clear?"""

    records: Mapping[UUID, Record]
    executions: Sequence[Execution]
    enqueued: Mapping[UUID, bool]
    pauses: Sequence[Pause] = ()
    troubles: Sequence[Trouble] = ()
    losses: Sequence[Loss] = ()
    lease_seconds: float = 2
    tallies: Mapping[str, int] | None = None
    """{terminal status: how many jobs have it as the tallies tell}"""
    figures: Mapping[str, int] | None = None
    """{outcome: how many attempts had it as the figures of all days tell}"""

    def __post_init__(self) -> None:
        self.by_job: dict[UUID, list[Execution]] = defaultdict(list)
        for execution in self.executions:
            self.by_job[execution.job_id].append(execution)
