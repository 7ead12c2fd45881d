"""Measures one contestant: how fast it enqueues, drains a backlog and answers, and what a job costs."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.contestants import Contestant
from benchmarks.costs import Costs, Meter
from benchmarks.environments import python_of
from benchmarks.processes import ROOT, Broken, Driver, Workers, rss_bytes
from benchmarks.servers import Database, Servers

MOST_SECONDS = 60
"""A drain that takes longer is given up."""
CHECK_SECONDS = 5
"""How often is looked whether the workers still live."""
FIRST_JOBS = 60
"""The shortest backlog, and that of a contestant of which no speed is known yet."""
SKIPPED_PART = 0.1
"""Of a backlog: the workers start while it is drained."""
BULK_JOBS = 5000
LATENCY_SECONDS = 30
SETTLE_SECONDS = 5
"""What a backlog leaves to be done by workers and databases has time to be done before lone jobs come."""
POLL_SECONDS = 0.05  # of the driver


@dataclass(frozen=True)
class Drain:
    """How a backlog was drained. `seconds` is how long that took, without the part in which workers start."""

    jobs_a_second: float
    seconds: float
    peak_bytes: int
    latencies: tuple[float, ...] = ()


class Stand:
    """Where contestants are measured, one after the other, each on empty stores."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    def kinds(self, contestant: Contestant) -> list[str]:
        """The kinds of work that this one has. Raises `Broken` for one that cannot take part."""
        with self._driver(contestant, _database_name(contestant)) as driver:
            return list(driver("kinds"))

    def enqueueing(self, contestant: Contestant, seconds: float) -> tuple[float, float | None]:
        """Jobs a second, one by one and in bulk; None for one that has no call for many."""
        with self._fresh(contestant) as driver:
            return driver("enqueue_for", seconds), driver("enqueue_in_bulk", BULK_JOBS)

    def drain(
        self, contestant: Contestant, kind: str, jobs: int, processes: int, lone_jobs: int = 0
    ) -> Drain:
        """Queue so many jobs and let them be done, then so many lone ones. Raises `Broken`."""
        with self._fresh(contestant) as driver:
            driver("fill", kind, jobs)
            with self.workers(contestant, driver, processes) as workers:
                began, left = _until_started(driver, workers, jobs)
                ended = _until_done(driver, workers, jobs)
                seconds = max(ended - began, POLL_SECONDS)
                latencies = self._latencies(driver, workers, lone_jobs) if lone_jobs else []
                total = jobs + len(latencies) + bool(lone_jobs)
                if lone_jobs:
                    _until_done(driver, workers, total)
                if faults := driver("faults", total):
                    raise Broken(f"After {jobs} jobs ({kind}): {'; '.join(faults)}")
            return Drain(left / seconds, seconds, workers.peak_bytes, tuple(latencies))

    def costs(self, contestant: Contestant, jobs: int) -> Costs:
        """What a job without work costs one worker process, with all that it does beside."""
        with self._fresh(contestant) as driver, self._servers.statements_logged() as log:
            driver("fill", "noop", jobs)
            with self.workers(contestant, driver, 1) as workers:
                _, left = _until_started(driver, workers, jobs)
                meter = Meter(self._servers, log if contestant.database is Database.POSTGRESQL else None)
                _until_done(driver, workers, jobs)
                return meter.a_job(left)

    def memory(self, contestant: Contestant, jobs: int) -> tuple[int, int]:
        """What a process of ours that has run so many jobs has in memory (RSS), and one of the same project
        that has done nothing but `django.setup()`. In bytes."""
        with self._fresh(contestant) as driver:
            driver("fill", "noop", jobs)
            with self.workers(contestant, driver, 1) as workers:
                _until_done(driver, workers, jobs)
                child = workers.child_bytes()
        variables = self._variables(contestant, _database_name(contestant))
        bare = subprocess.Popen(
            [python_of(contestant), "-c", "import django; django.setup(); print(flush=True); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **variables},
            cwd=ROOT,
        )
        with bare:
            assert bare.stdout
            bare.stdout.readline()
            bytes_then = rss_bytes(bare.pid)
            bare.kill()
        return child, bytes_then

    @contextmanager
    def backlog(self, contestant: Contestant, kind: str, jobs: int, at_once: int) -> Iterator[Driver]:
        """So many jobs, enqueued `at_once` in each transaction, and their driver."""
        with self._fresh(contestant) as driver:
            for _ in range(0, jobs, at_once):
                driver("fill", kind, at_once)
            yield driver

    def forget_commands(self) -> None:
        """Have `longest_commands` count from now on."""
        self._servers.valkey.config_resetstat()

    def longest_commands(self) -> str:
        """On which commands Valkey spent the most time, a script's own being part of it."""
        told = self._servers.valkey.info("commandstats")
        longest = sorted(told.items(), key=lambda item: -item[1]["usec"])[:4]
        return ", ".join(
            f"{name.removeprefix('cmdstat_')} {stat['usec'] / 1e6:.1f} s for {stat['calls']:,}"
            for name, stat in longest
        )

    def _latencies(self, driver: Driver, workers: Workers, jobs: int) -> list[float]:
        time.sleep(SETTLE_SECONDS)
        path = str(self._servers.folder / "latencies")
        told = list(driver("latencies", path, jobs, LATENCY_SECONDS))
        workers.check()
        return told

    @contextmanager
    def _fresh(self, contestant: Contestant) -> Iterator[Driver]:
        def prepare(database_name: str) -> None:
            with self._driver(contestant, database_name) as driver:
                driver("prepare")

        name = self._servers.empty(contestant.database, _database_name(contestant), prepare)
        with self._driver(contestant, name) as driver:
            yield driver

    def _driver(self, contestant: Contestant, database_name: str) -> Driver:
        variables = self._variables(contestant, database_name)
        return Driver(python_of(contestant), contestant.app, variables)

    def workers(self, contestant: Contestant, driver: Driver, processes: int) -> Workers:
        variables = self._variables(contestant, _database_name(contestant))
        return Workers(python_of(contestant), driver("command", processes), variables)

    def _variables(self, contestant: Contestant, database_name: str) -> dict[str, str]:
        stores = self._servers.variables(contestant.database, database_name)
        return {**stores, **contestant.variables}


def _database_name(contestant: Contestant) -> str:
    return contestant.name.replace("-", "_")


def _until_started(driver: Driver, workers: Workers, jobs: int) -> tuple[float, int]:
    """Wait for the part of the backlog that is not measured; when it was taken, and how many are left."""
    most = int(jobs * (1 - SKIPPED_PART))
    at, waiting = _await(driver, workers, "until_waiting", most, lambda waiting: waiting <= most)
    return at, waiting or most


def _until_done(driver: Driver, workers: Workers, jobs: int) -> float:
    """When all were done."""
    return _await(driver, workers, "until_finished", jobs, lambda finished: finished >= jobs)[0]


def _await(
    driver: Driver, workers: Workers, name: str, number: int, is_reached: Callable[[int], bool]
) -> tuple[float, int]:
    """When the number was reached, and what was counted then. Raises `Broken`, soon if a worker ends."""
    for _ in range(0, MOST_SECONDS, CHECK_SECONDS):
        at, counted = driver(name, number, CHECK_SECONDS)
        workers.check()
        if is_reached(counted):
            return at, counted
    raise Broken(f"{name}({number}) is at {counted} after {MOST_SECONDS} s. {workers.told()}")
