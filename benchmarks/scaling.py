"""Does a long queue slow ours down? Drains one of 10,000 and one of 1,000,000 jobs."""

import time
from collections.abc import Sequence

from benchmarks.contestants import Contestant
from benchmarks.measuring import Stand
from benchmarks.processes import Driver, Workers

LENGTHS = (10_000, 1_000_000)
SLICE = 10_000
PROCESSES = 2
MOST_SECONDS = 600
"""A slice that takes longer is given up."""


def run(stand: Stand, contestants: Sequence[Contestant], minutes: float) -> int:
    """Print, for each length, jobs a second of every slice and what memory the worker takes then.

    Returns 1 if a job was not run just once.
    """
    ours = next(each for each in contestants if each.is_ours)
    deadline = time.monotonic() + 60 * minutes
    faults: list[str] = []
    print(f"{ours.title}, {PROCESSES} processes", flush=True)
    for length in LENGTHS:
        began = time.monotonic()
        print(f"{length:,} jobs", end=" ", flush=True)
        with stand.backlog(ours, "noop", length, SLICE) as driver:
            print(f"enqueued in {time.monotonic() - began:.0f} s", flush=True)
            with stand.workers(ours, driver, PROCESSES) as workers:
                stand.forget_commands()
                if _drain(driver, workers, length, deadline):
                    faults += driver("faults", length, most_seconds=MOST_SECONDS)
                else:
                    print("  stopped here", flush=True)
                print(f"  what kept Valkey busy the longest: {stand.longest_commands()}", flush=True)
    print("\n".join(faults or ["Every row that was looked at is right."]))
    return 1 if faults else 0


def _drain(driver: Driver, workers: Workers, length: int, deadline: float) -> bool:
    """Print each slice; True if all were done in time."""
    at, left = driver("until_waiting", length - 1, MOST_SECONDS, most_seconds=2 * MOST_SECONDS)
    while left and time.monotonic() < deadline:
        before, were_left = at, left
        most = max(0, left - SLICE)
        at, left = driver("until_waiting", most, MOST_SECONDS, most_seconds=2 * MOST_SECONDS)
        workers.check()
        print(
            f"  {left:9,} left: {(were_left - left) / max(at - before, 0.05):7,.0f} a second, "
            f"parent {workers.parent_bytes() / 1e6:.0f} MB, all {workers.memory_bytes() / 1e6:.0f} MB",
            flush=True,
        )
        if left > most:
            return False
    if left:
        return False
    _, finished = driver("until_finished", length, MOST_SECONDS, most_seconds=2 * MOST_SECONDS)
    return bool(finished == length)
