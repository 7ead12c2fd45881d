"""Faults at random, and a check of what became of every job: `python -m tests.chaos --seed 7 --seconds 60`.

Workers, the load and the stores are processes of their own on loopback; all are gone in the end. Exit code 1
if something was found. With `--mutant` the workers are broken on purpose, which must be found; then
`--expect-findings` turns the exit code around.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import randrange

import django

from . import effects, load
from .checker import KINDS, TERMINAL, Finding, check, describe, told_as_interrupted, without_cause
from .effects import now
from .evidence import Run, Trouble, stood_still
from .mutants import MUTANTS, NO_FENCE
from .schedule import Schedule, plan
from .world import FAKETIME, World, start_load

LOAD_PART = 0.7
"""For how much of the time jobs are enqueued."""
SETTLING_SECONDS = 300
"""How long the workers have for what is left when the faults are over; in a long run that is much."""
SETTLING_OF_CONTROL = 5
IDLE_SECONDS = 20
"""What has not ended when nothing has happened for so long is stuck. Stalls of the machine do not count."""


def main(arguments: argparse.Namespace) -> int:
    folder = Path(tempfile.mkdtemp(prefix="django-jobs-chaos-"))
    folder.chmod(0o755)  # PostgreSQL's user passes through.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        world = World(
            folder,
            database=arguments.database,
            keeps=bool(arguments.seed % 2),
            workers=6 if arguments.mutant == NO_FENCE else 4,
            isolation=arguments.isolation,
            mutant=arguments.mutant,
        )
        with world:
            return _run(world, arguments)
    finally:
        if arguments.keep:
            print(f"Kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _stop(number: int, frame: object) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):  # Once is enough; a second one must not cut the cleaning up.
        signal.signal(each, signal.SIG_IGN)
    sys.exit("Told to end.")


def _run(world: World, arguments: argparse.Namespace) -> int:
    os.environ.update(world.environment)
    django.setup()
    from django.core.management import call_command
    from django.db import connections

    from django_jobs.models import Worker

    def tell(what: str) -> None:
        sys.stdout.write(f"{what}\n")  # One write, as faults of several victims are told at once.
        sys.stdout.flush()

    call_command("migrate", verbosity=0)
    tell(
        f"seed {arguments.seed}: {arguments.seconds:g} s, {arguments.database}, {len(world.workers)} workers "
        f"({world.isolation}) "
        f"with a lease of {world.lease_seconds:g} s, Valkey {'keeps' if world.keeps else 'forgets'} its data"
        f"{'' if FAKETIME else '; no faketime, so no clock is moved'}"
    )
    world.start_workers()
    wait_until(lambda: Worker.objects.count() == len(world.workers))
    connections.close_all()  # They would be broken.
    began = time.monotonic()
    loading = start_load(
        world,
        str(arguments.seed),
        str(arguments.seconds * LOAD_PART),
        "0.2" if arguments.mutant == NO_FENCE else str(arguments.jobs_per_second),
        *(["long"] if arguments.mutant == NO_FENCE else []),
    )
    with Schedule(world, plan(arguments.seed, arguments.seconds, world), tell) as schedule:
        time.sleep(max(0, began + arguments.seconds - time.monotonic()))
    ended = world.heal()
    failed_load = loading.wait(timeout=60)
    gone = f"; ended by themselves: {', '.join(ended)}" if ended else ""
    tell(f"{time.monotonic() - began:6.1f} s  no more faults{gone}")
    settled_after = _settle(world, SETTLING_OF_CONTROL if arguments.expect_findings else SETTLING_SECONDS)
    tell(f"{time.monotonic() - began:6.1f} s  settled after {settled_after:.1f} s")
    if failed_load:
        print((world.folder / "load" / "log").read_text()[-3000:])
        return 2
    return _judge(world, schedule.happened, arguments)


def wait_until(check: Callable[[], bool], timeout_seconds: float = 60) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not check():
        assert time.monotonic() < deadline, "The workers did not start."
        time.sleep(0.1)


def _settle(world: World, most_seconds: float) -> float:
    """Wait until all jobs have ended, or nothing has happened for long; the seconds that took."""
    from django_jobs.models import Job

    began = time.monotonic()
    last, idle_since = None, now()
    while time.monotonic() - began < most_seconds:
        unfinished = Job.objects.unfinished()
        waiting = world.valkey.client.llen("rq:queue:file_processing")
        states = sorted(unfinished.values_list("pk", "status", "attempt", "delivery"))
        if not states and not waiting:
            break
        state = states, waiting, world.effects.stat().st_size
        if state != last:
            last, idle_since = state, now()
        if now() - idle_since - stood_still(world.stalls(), idle_since, now()) > IDLE_SECONDS:
            break
        time.sleep(0.25)
    return time.monotonic() - began


def _judge(world: World, faults: int, arguments: argparse.Namespace) -> int:
    from . import rows

    ledger, stalls = load.read(world.folder), world.stalls()
    run = Run(
        records=rows.records(),
        executions=effects.read(world.effects),
        enqueued=load.were_committed(ledger),
        pauses=[*world.pauses, *stalls],
        troubles=[*world.troubles, *(Trouble(each.began, each.ended) for each in stalls)],
        losses=rows.losses(),
        lease_seconds=world.lease_seconds,
        tallies=rows.told_by_tallies(),
        figures=rows.told_by_figures(),
    )
    interrupted, unexplained = told_as_interrupted(run), without_cause(run)
    notes = [
        *(
            Finding("told as interrupted", job_id, "Its function had come to its end.")
            for job_id in interrupted
        ),
        *(Finding("lost without a cause", loss.job_id, f"Attempt {loss.attempt}.") for loss in unexplained),
    ]
    findings = check(run)
    if notes or findings:
        print(describe(run, [*notes, *findings], ledger))
    counts = Counter(finding.kind for finding in findings)
    statuses = Counter(record.status for record in run.records.values())
    rolled_back = sum(not committed for committed in run.enqueued.values())
    print(
        f"seed {arguments.seed}: {len(run.records)} jobs, {faults} faults, {len(run.executions)} executions; "
        + ", ".join(f"{kind} {counts[kind]}" for kind in KINDS)
    )
    print(
        f"note: {', '.join(f'{statuses[each]} {each}' for each in TERMINAL)}, {rolled_back} rolled back; "
        f"{len(run.losses)} attempts lost, {len(unexplained)} of them without a cause; finished work told as "
        f"interrupted {len(interrupted)}; stalls of together "
        f"{stood_still(stalls, 0, now()):.0f} s"
    )
    if arguments.expect_findings:  # It was not waited for the jobs to end, so stuck ones prove nothing.
        return int(counts.keys() <= {"stuck"})
    return int(bool(findings))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.partition("\n\n")[0])
    parser.add_argument(
        "--seed", type=int, default=None, help="decides what happens; a random one by default"
    )
    parser.add_argument("--seconds", type=float, default=60, help="for how long faults happen")
    parser.add_argument("--database", choices=["postgresql", "sqlite"], default="postgresql")
    parser.add_argument("--jobs-per-second", type=float, default=5)
    parser.add_argument("--isolation", choices=["prefork", "fork"], default="prefork", help="of the workers")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), default="", help="break the workers on purpose")
    parser.add_argument(
        "--expect-findings", action="store_true", help="end with 0 if something was found, else 1"
    )
    parser.add_argument("--keep", action="store_true", help="leave the folder with logs and effects")
    arguments = parser.parse_args()
    if arguments.seed is None:
        arguments.seed = randrange(1_000_000)
    return arguments


if __name__ == "__main__":
    sys.exit(main(_arguments()))
