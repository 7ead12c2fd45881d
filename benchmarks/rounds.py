"""Runs all measurements, the contestants taking turns, since a shared machine is not always as fast."""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.contestants import Contestant
from benchmarks.costs import Costs
from benchmarks.measuring import FIRST_JOBS, Drain, Stand
from benchmarks.processes import Broken

KINDS = ("noop", "cpu", "sleep", "async sleep")
PROCESSES = (1, 2)
MOST_JOBS = 50_000
MOST_COST_JOBS = 5_000
ENQUEUE_SECONDS = 1

Cell = tuple[str, str, int]
"""The name of a contestant, the kind of work, the number of worker processes."""


@dataclass
class Results:
    """What was measured so far, a value for each round."""

    contestants: list[Contestant] = field(default_factory=list)
    drains: dict[Cell, list[Drain]] = field(default_factory=lambda: defaultdict(list))
    enqueued: dict[str, list[tuple[float, float | None]]] = field(default_factory=lambda: defaultdict(list))
    costs: dict[str, Costs] = field(default_factory=dict)
    memory: tuple[int, int] | None = None
    """Of a process of ours that runs jobs, and of a bare one of the same project."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Titles of contestants that do not take part, and why."""
    failures: list[str] = field(default_factory=list)
    jobs_checked: int = 0
    """How many jobs of ours were looked at in the database afterwards."""


@dataclass(frozen=True)
class Plan:
    """How much is measured. `jobs` is the length of every backlog; 0 has each last about `seconds`."""

    rounds: int
    seconds: float
    jobs: int
    lone_jobs: int
    minutes: float
    kinds: Sequence[str] = KINDS


class Series:
    """The measurements of one run, which go into `results`."""

    def __init__(self, stand: Stand, plan: Plan, contestants: Sequence[Contestant], results: Results) -> None:
        self._stand = stand
        self._plan = plan
        self._results = results
        self._deadline = time.monotonic() + 60 * plan.minutes
        self._kinds: dict[str, list[str]] = {}
        self._speeds: dict[Cell, float] = {}
        for contestant in contestants:
            self._admit(contestant)

    def run(self) -> None:
        """All rounds, or those for which there is time."""
        for number in range(1, self._plan.rounds + 1):
            for contestant in self._results.contestants:
                self._enqueue(contestant)
            for processes in PROCESSES:
                for kind in self._plan.kinds:
                    for contestant in self._results.contestants:
                        if kind not in self._kinds[contestant.name]:
                            continue
                        if time.monotonic() > self._deadline:
                            self._fail(
                                f"Round {number} was not ended: {self._plan.minutes:g} minutes are over."
                            )
                            return
                        self._drain(contestant, kind, processes)
        for contestant in self._results.contestants:
            if contestant.is_ours or contestant.app == "rq":
                self._count(contestant)
        for contestant in self._results.contestants:
            if contestant.name == "ours":
                self._results.memory = self._stand.memory(contestant, MOST_COST_JOBS)

    def _admit(self, contestant: Contestant) -> None:
        try:
            self._kinds[contestant.name] = self._stand.kinds(contestant)
        except Broken as error:
            self._results.left_out[contestant.title] = str(error).splitlines()[-1]
        else:
            self._results.contestants.append(contestant)

    def _enqueue(self, contestant: Contestant) -> None:
        try:
            rates = self._stand.enqueueing(contestant, ENQUEUE_SECONDS)
        except Broken as error:
            self._fail(f"{contestant.name}, enqueueing: {error}")
            return
        self._results.enqueued[contestant.name].append(rates)
        bulk = f", {rates[1]:,.0f} in bulk" if rates[1] else ""
        print(f"{contestant.name:18} enqueues      {rates[0]:8,.0f} a second{bulk}", flush=True)

    def _drain(self, contestant: Contestant, kind: str, processes: int) -> None:
        cell = (contestant.name, kind, processes)
        lone_jobs = self._plan.lone_jobs if (kind, processes) == ("noop", 1) else 0
        try:
            if self._plan.jobs or cell in self._speeds:
                jobs = self._plan.jobs or int(self._speeds[cell] * self._plan.seconds)
                jobs = min(max(jobs, FIRST_JOBS), MOST_JOBS)
                drain = self._stand.drain(contestant, kind, jobs, processes, lone_jobs)
            else:
                jobs, drain = self._first_drain(contestant, kind, processes, lone_jobs)
        except Broken as error:
            self._fail(f"{contestant.name}, {kind}, {processes} processes: {error}")
            return
        self._speeds[cell] = drain.jobs_a_second
        self._results.drains[cell].append(drain)
        if contestant.is_ours:
            self._results.jobs_checked += jobs + len(drain.latencies)
        print(
            f"{contestant.name:18} {kind:11} {processes}p{drain.jobs_a_second:8,.0f} a second"
            f" ({drain.seconds:.1f} s, {drain.peak_bytes / 1e6:.0f} MB)",
            flush=True,
        )

    def _first_drain(
        self, contestant: Contestant, kind: str, processes: int, lone_jobs: int
    ) -> tuple[int, Drain]:
        """Ever longer backlogs, until one lasts long enough to count; its length, and how it was drained."""
        known = self._speeds.get((contestant.name, kind, 1), 0)
        jobs = max(FIRST_JOBS, int(known * self._plan.seconds))
        drain = self._stand.drain(contestant, kind, jobs, processes)
        while drain.seconds < self._plan.seconds / 2 and jobs < MOST_JOBS:
            jobs = min(MOST_JOBS, max(2 * jobs, int(drain.jobs_a_second * self._plan.seconds)))
            drain = self._stand.drain(contestant, kind, jobs, processes, lone_jobs)
        if lone_jobs and not drain.latencies:
            drain = self._stand.drain(contestant, kind, jobs, processes, lone_jobs)
        return jobs, drain

    def _count(self, contestant: Contestant) -> None:
        speed = self._speeds.get((contestant.name, "noop", 1), FIRST_JOBS)
        jobs = min(max(int(speed * self._plan.seconds), FIRST_JOBS), MOST_COST_JOBS)
        try:
            self._results.costs[contestant.name] = self._stand.costs(contestant, jobs)
        except Broken as error:
            self._fail(f"{contestant.name}, costs: {error}")

    def _fail(self, told: str) -> None:
        self._results.failures.append(told)
        print(told, flush=True)
