"""A Django app for workers that are to die at an exact point of a job's way.

`CRASH_AT` names a folder whose files say who dies where; each is heeded once, so that what follows goes on.
"""

import json
import os
import signal
from collections.abc import Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any
from uuid import UUID

from django.apps import AppConfig

CHILD, WORKER = "child", "worker"
"""Who dies: the process at the point alone, or its worker with all its processes."""


class Crashing(AppConfig):
    name = "tests.faults.crashing"

    def ready(self) -> None:
        from django_jobs import batches, executor, outcomes, reports, sql
        from django_jobs.engines.rq import taking, trampoline, worker
        from django_jobs.pool import child, children, holdings, workload
        from tests import tasks

        # With a process for each job:
        _before(worker.JobsWorker, "execute_job", "taken")
        _before(worker.JobsWorker, "fork_work_horse", "noted by RQ")
        _before(trampoline, "run", "forked")
        _after(sql, "claim", "claimed")
        _before(executor, "run", "about to run")
        _after(tasks, "record", "running")
        _before(executor, "report", "done")
        _before(reports, "record", "about to report")
        _before(outcomes, "_store_attempt", "reporting")
        _after(outcomes, "_count_for_worker", "about to commit")
        _after(reports, "record", "reported")
        _after(worker.JobsWorker, "handle_job_success", "RQ told")
        _after(worker.JobsWorker, "handle_job_failure", "RQ told")
        _after(worker, "lose_unless_locked", "loss reported")

        # With processes that stay, one job at a time, so that who dies takes none of the others along:
        workload.Workload.room = lambda *_: 0  # type: ignore[method-assign]
        workload.Workload.has_room = lambda *_: False  # type: ignore[method-assign]
        _before(holdings.Holdings, "claim", "taken")
        _after(batches, "claim", "claimed")
        _after(children.Child, "hand", "handed")
        _before(child._Telling, "report", "done")
        _after(child._Telling, "report", "told")
        _before(batches, "record", "about to report")
        # On PostgreSQL one statement does it all.
        _before(batches, "_record_on_sqlite", "reporting")
        _after(batches, "_record_on_sqlite", "about to commit")
        _after(batches, "record", "reported")
        _remember_ends(taking.Taking)
        _after(taking.Taking, "answer", "RQ told")  # What was recorded meanwhile is.
        _after(holdings, "lose_unless_locked", "loss reported")


def _remember_ends(owner: Any) -> None:
    ask = owner.ask

    @wraps(ask)
    def remember(self: Any, ends: Any, **told: Any) -> None:
        self.told_ends = list(ends)
        ask(self, ends, **told)

    owner.ask = remember


def plan(folder: Path, job: Any, point: str, who: str) -> None:
    """Have whoever comes with this job to this point die there."""
    (folder / f"{job.pk.hex} {point}").write_text(who)


def _before(owner: Any, name: str, point: str) -> None:
    function = getattr(owner, name)

    @wraps(function)
    def do(*args: Any, **kwargs: Any) -> Any:
        _die_if_planned(point, [*args, *kwargs.values()])
        return function(*args, **kwargs)

    setattr(owner, name, do)


def _after(owner: Any, name: str, point: str) -> None:
    function = getattr(owner, name)

    @wraps(function)
    def do(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        _die_if_planned(point, [*args, *kwargs.values()])
        return result

    setattr(owner, name, do)


def _die_if_planned(point: str, args: Sequence[Any]) -> None:
    for job in _jobs(args):
        planned = Path(os.environ["CRASH_AT"], f"{job} {point}")
        try:
            who = planned.read_text()
            planned.unlink()
        except FileNotFoundError:
            continue
        if who == WORKER:
            os.killpg(
                os.getsid(0), signal.SIGKILL
            )  # What runs jobs is in a group of its own, and dies with it.
        os.kill(os.getpid(), signal.SIGKILL)


def _jobs(args: Sequence[Any]) -> set[str]:
    """The jobs that a call is about, in hexadecimal digits."""
    from django_jobs import current_job

    found = set[str]()
    for each in args:
        each = getattr(each, "told_ends", each)
        if isinstance(each, Mapping | list):  # What is to be claimed, reported, or told to Redis.
            found.update(*map(_job, each))
        elif isinstance(each, str) and each.startswith("[{"):  # Reports as they go to the database.
            found.update(UUID(told["job"]).hex for told in json.loads(each))
        else:
            found |= _job(each)
    if not found and (job := current_job()):
        found.add(job.pk.hex)
    return found


def _job(told: Any) -> set[str]:
    """Of a row, a delivery or its id, what is claimed or to be claimed, or how something ended."""
    from django_jobs.engines.base import parse_delivery_id
    from django_jobs.models import Job

    if isinstance(told, Job):
        return {told.pk.hex}
    if isinstance(told, tuple) and told and isinstance(told[0], UUID):
        return {told[0].hex}
    if isinstance(getattr(told, "job_id", None), UUID):
        return {told.job_id.hex}
    delivery = getattr(told, "taken", told)
    delivery_id = getattr(delivery, "id", delivery)
    parsed = parse_delivery_id(delivery_id) if isinstance(delivery_id, str) else None
    return {parsed[0].hex} if parsed else set()
