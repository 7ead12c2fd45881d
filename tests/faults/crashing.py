"""A Django app for workers that are to die at an exact point of a job's way.

`CRASH_AT` names a folder whose files say who dies where; each is heeded once, so that what follows goes on.
"""

import os
import signal
from collections.abc import Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from django.apps import AppConfig

CHILD, WORKER = "child", "worker"
"""Who dies: the process at the point alone, or its worker with all its processes."""


class Crashing(AppConfig):
    name = "tests.faults.crashing"

    def ready(self) -> None:
        from django_jobs import executor, outcomes, reports, sql
        from django_jobs.engines.rq import trampoline, worker
        from tests import tasks

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
    planned = Path(os.environ["CRASH_AT"], f"{_job_hex(args)} {point}")
    try:
        who = planned.read_text()
        planned.unlink()
    except FileNotFoundError:
        return
    if who == WORKER:
        os.killpg(os.getsid(0), signal.SIGKILL)  # Worker and maintainer; a child is in a group of its own.
    os.kill(os.getpid(), signal.SIGKILL)


def _job_hex(args: Sequence[Any]) -> str:
    """The job that a call is about, told by its row, by a delivery or its id, or by what is to be claimed."""
    from django_jobs import current_job
    from django_jobs.engines.base import parse_delivery_id
    from django_jobs.models import Job

    for each in args:
        if isinstance(each, Job):
            return each.pk.hex
        if isinstance(each, list):
            return each[0][0].hex
        delivery_id = getattr(each, "id", each)
        if isinstance(delivery_id, str) and (parsed := parse_delivery_id(delivery_id)):
            return parsed[0].hex
    job = current_job()
    return job.pk.hex if job else ""
