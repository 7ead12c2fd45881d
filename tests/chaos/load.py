"""Enqueues and steers jobs as a project does, and writes down which of them were committed.

A process of its own: `python -m tests.chaos.load SEED SECONDS JOBS_PER_SECOND [long]`.
"""

import os
import sys
import time
from pathlib import Path
from random import Random
from uuid import UUID

import django

from .effects import BADLY, WELL, WELL_AT_LAST, now

COMMITTED, ROLLED_BACK, UNCLEAR = "committed", "rolled_back", "unclear"


def ledger_of(folder: Path) -> Path:
    return folder / "load" / "ledger"


def read(folder: Path) -> dict[UUID, list[str]]:
    """What was done with each job, and when."""
    told: dict[UUID, list[str]] = {}
    path = ledger_of(folder)
    for line in path.read_text().splitlines() if path.exists() else ():
        what, job_id, *rest = line.split(maxsplit=2)
        told.setdefault(UUID(job_id), []).append(" ".join([what, *rest]))
    return told


def were_committed(ledger: dict[UUID, list[str]]) -> dict[UUID, bool]:
    """Of each job whose end of transaction is known, whether it was committed."""
    known = {COMMITTED: True, ROLLED_BACK: False}
    first = {job_id: lines[0].split()[0] for job_id, lines in ledger.items()}
    return {job_id: known[what] for job_id, what in first.items() if what in known}


def main(seed: int, seconds: float, jobs_per_second: float, *, long: bool = False) -> None:
    from django.db import Error, connections, transaction

    from django_jobs import Retry
    from django_jobs.exceptions import JobsError
    from django_jobs.models import Job, JobQuerySet

    from .tasks import work

    chance = Random(f"{seed} load")
    file = os.open(ledger_of(Path(os.environ["CHAOS_FOLDER"])), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    known: list[UUID] = []

    def note(what: str, job_id: UUID, more: object = "") -> None:
        os.write(file, f"{what} {job_id} at {now():.2f} {more}\n".replace("\n", " ").strip().encode() + b"\n")

    def enqueue() -> UUID:
        kind = chance.random()
        if long:
            lasts = chance.uniform(10, 12)
        elif kind < 0.6:
            lasts = chance.uniform(0, 0.05)
        elif kind < 0.92:
            lasts = chance.uniform(0.5, 2)
        else:
            lasts = chance.uniform(3, 6)
        options = {"idempotent": long or chance.random() < 0.5}
        if chance.random() < 0.4:
            options["retry"] = Retry(max=1 if lasts > 2 else 3, interval=chance.choice([0, 1, 2]))
        if chance.random() < 0.15:
            options["delay"] = chance.uniform(0.5, 5)
        if chance.random() < 0.1:
            options["at_front"] = True
        [end] = chance.choices([WELL, BADLY, WELL_AT_LAST], [1, 0, 0] if long else [16, 2, 2])
        if end == BADLY and chance.random() < 0.3:  # By its time limit.
            options["timeout"], lasts = 1, 60
        return work.using(**options).enqueue(round(lasts, 3), end).pk

    def enqueue_several() -> None:
        """In a transaction, which may be rolled back."""
        ids: list[UUID] = []
        rolls_back = chance.random() < 0.4
        how_many = chance.randint(1, 6)
        end = UNCLEAR
        try:
            with transaction.atomic():
                for _ in range(how_many):
                    ids.append(enqueue())
                if rolls_back:
                    raise _RollBack
            end = COMMITTED
        except _RollBack:
            end = ROLLED_BACK
        finally:
            for job_id in ids:
                note(end, job_id)
        if end == COMMITTED:
            known.extend(ids)

    def enqueue_one() -> None:
        job_id = enqueue()
        note(COMMITTED, job_id)
        known.append(job_id)

    def cancel() -> None:
        steer("cancel", Job.objects.unfinished())

    def requeue() -> None:
        steer("requeue", Job.objects.filter(status__in=["failed", "canceled"]))

    def steer(verb: str, jobs: JobQuerySet) -> None:
        if jobs := list(jobs.filter(pk__in=known[-60:])):
            job = chance.choice(jobs)
            note(verb, job.pk, job.status)
            try:
                getattr(job, verb)()
            except JobsError as error:
                note(f"{verb}_refused", job.pk, error)

    deeds = {enqueue_one: 60, enqueue_several: 10, cancel: 6, requeue: 10}
    if long:
        deeds = {enqueue_one: 1}
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        [deed] = chance.choices(list(deeds), list(deeds.values()))
        try:
            deed()
        except Error as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            connections.close_all()
            time.sleep(0.3)
        time.sleep(chance.expovariate(jobs_per_second))
    os.close(file)


class _RollBack(Exception):
    pass


if __name__ == "__main__":
    django.setup()
    main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), long=sys.argv[4:] == ["long"])
