"""Benchmarks of the worker beside its peers: `make bench`, or `python -m benchmarks --only rq,taskiq`.

All contestants run on this machine, one at a time, on the same two servers. Each needs its own environment,
which is made before. The tables are printed, and written into docs/performance.md if all took part.
"""

import argparse
import os
import platform
import signal
import sys

from benchmarks import contestants, environments, report, scaling, servers
from benchmarks.measuring import Stand
from benchmarks.rounds import KINDS, Plan, Results, Series


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ended so, it tells what it knows, too.
    results = Results()
    able = _install(options.only, results)
    with servers.running() as running:
        stand = Stand(running)
        if options.scaling:
            return scaling.run(stand, able, options.minutes)
        plan = Plan(
            options.rounds,
            options.seconds,
            options.jobs,
            options.lone_jobs,
            options.minutes,
            options.kinds or KINDS,
        )
        try:
            Series(stand, plan, able, results).run()
        except KeyboardInterrupt:
            results.failures.append("The run was interrupted.")
        text = report.render(results, _circumstances(arguments, options, running, results))
    print(f"\n{text}")
    if not options.only and not options.kinds and not results.failures:
        report.write(text)
    return 1 if results.failures else 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    known = ", ".join(each.name for each in contestants.ALL)
    parser.add_argument(
        "--only", metavar="NAMES", type=_names, default=[], help=f"these and ours, of {known}; prints only"
    )
    parser.add_argument(
        "--kinds", metavar="KINDS", type=_names, default=[], help=f"of {', '.join(KINDS)}; prints only"
    )
    parser.add_argument("--rounds", type=int, default=3, help="defaults to 3; medians are told")
    parser.add_argument("--seconds", type=float, default=3, help="how long a backlog lasts; defaults to 3")
    parser.add_argument("--jobs", type=int, default=0, help="the length of every backlog instead")
    parser.add_argument("--lone-jobs", type=int, default=70, help="a round, for the latency; defaults to 70")
    parser.add_argument("--minutes", type=float, default=90, help="no measurement begins later than this")
    parser.add_argument(
        "--scaling", action="store_true", help="ours with 10,000 and 1,000,000 queued jobs, nothing else"
    )
    options = parser.parse_args(arguments)
    try:
        contestants.chosen(options.only)
    except ValueError as error:
        parser.error(str(error))
    if unknown := set(options.kinds) - set(KINDS):
        parser.error(f"There is no kind {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}.")
    return options


def _names(value: str) -> list[str]:
    return [name for name in value.split(",") if name]


def _install(only: list[str], results: Results) -> list[contestants.Contestant]:
    able = []
    for contestant in contestants.chosen(only):
        try:
            environments.install(contestant)
        except environments.NotInstallable as error:
            results.left_out[contestant.title] = str(error)
        else:
            able.append(contestant)
    return able


def _circumstances(
    arguments: list[str], options: argparse.Namespace, running: servers.Servers, results: Results
) -> str:
    """What one must know to measure the same."""
    libraries = "; ".join(dict.fromkeys(environments.versions(each) for each in results.contestants))
    command = f'make bench ARGS="{" ".join(arguments)}"' if arguments else "make bench"
    measured = f"medians of {options.rounds} rounds" if options.rounds > 1 else "one round"
    return (
        f"`{command}`: {measured} on {os.cpu_count()} cores ({platform.machine()}), Python "
        f"{platform.python_version()}, {running.names()}; {libraries}."
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
