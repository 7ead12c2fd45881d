"""Does a long queue slow ours down? Drains one of 1,000,000 jobs, and before and after it some of 10,000."""

import statistics
import time
from collections.abc import Sequence

from benchmarks.contestants import Contestant
from benchmarks.measuring import Stand
from benchmarks.processes import Driver, Workers

SHORT, LONG = 10_000, 1_000_000
LENGTHS = (SHORT, SHORT, SHORT, LONG, SHORT, SHORT)
SLICE = 10_000
PROCESSES = 2
LEAST_SECONDS = 0.05
"""Less is not told apart from nothing."""
MOST_SECONDS = 600
"""A slice that takes longer is given up."""


def run(stand: Stand, contestants: Sequence[Contestant], minutes: float) -> int:
    """Print, for each length, jobs a second of every slice and what memory the worker takes then, and at last
    how much slower the long one was.

    Returns 1 if a job was not run just once.
    """
    ours = next(each for each in contestants if each.is_ours)
    deadline = time.monotonic() + 60 * minutes
    faults: list[str] = []
    rates: dict[int, list[float]] = {SHORT: [], LONG: []}
    print(f"{ours.title}, {PROCESSES} processes", flush=True)
    for length in LENGTHS:
        began = time.monotonic()
        print(f"{length:,} jobs", end=" ", flush=True)
        with stand.backlog(ours, "noop", length, SLICE) as driver:
            print(f"enqueued in {time.monotonic() - began:.0f} s", flush=True)
            with stand.workers(ours, driver, PROCESSES) as workers:
                stand.forget_commands()
                if rate := _drain(driver, workers, length, deadline):
                    rates[length].append(rate)
                    faults += driver("faults", length, most_seconds=MOST_SECONDS)
                else:
                    print("  stopped here", flush=True)
                print(f"  what kept Valkey busy the longest: {stand.longest_commands()}", flush=True)
    print("\n".join(faults or ["Every row that was looked at is right."]))
    for length, measured in rates.items():
        print(f"{length:,} jobs: {', '.join(f'{rate:,.0f}' for rate in measured)} a second")
    if all(rates.values()):
        ratio = rates[LONG][0] / statistics.median(rates[SHORT])
        print(f"The long queue was drained {ratio:.2f} times as fast as the median of the short ones.")
    return 1 if faults else 0


def _drain(driver: Driver, workers: Workers, length: int, deadline: float) -> float | None:
    """Print each slice; jobs a second of all from the first that was taken, None if they took too long."""
    at, left = driver("until_waiting", length - 1, MOST_SECONDS, most_seconds=2 * MOST_SECONDS)
    began, measured = at, left
    while left and time.monotonic() < deadline:
        before, were_left = at, left
        most = max(0, left - SLICE)
        at, left = driver("until_waiting", most, MOST_SECONDS, most_seconds=2 * MOST_SECONDS)
        workers.check()
        print(
            f"  {left:9,} left: {(were_left - left) / max(at - before, LEAST_SECONDS):7,.0f} a second, "
            f"parent {workers.parent_bytes() / 1e6:.0f} MB, all {workers.memory_bytes() / 1e6:.0f} MB",
            flush=True,
        )
        if left > most:
            return None
    if left:
        return None
    seconds = max(at - began, LEAST_SECONDS)
    _, finished = driver("until_finished", length, MOST_SECONDS, most_seconds=2 * MOST_SECONDS)
    return measured / seconds if finished == length else None
