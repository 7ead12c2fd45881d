"""What runs is stopped when somebody decides so, and its worker goes on."""

import os
import signal

from django_jobs import control
from django_jobs.models import Attempt, Job, QueueEvent, Worker
from django_jobs.processes import identity
from django_jobs.states import CANCELED, FAILED, FINISHED, QUEUED, STARTED
from tests import tasks
from tests.conftest import fresh, lines, wait_until

RENEWS_SELDOM = {"LEASE_SECONDS": "600"}
"""Every 80 s: what a worker of this kind notices sooner, it was told."""


def child_of(effects):
    """The pid of the process that runs `tasks.hold` with this file."""
    return int(wait_until(lambda: lines(effects))[-1].split()[-1])


def is_gone(pid):
    return identity(pid) is None


def test_mark(start_worker, tmp_path):
    effects = tmp_path / "effects"
    job = tasks.hold.enqueue(str(effects), str(tmp_path / "never"))
    after = tasks.add.enqueue(1)
    start_worker("file_processing", **RENEWS_SELDOM)
    child = child_of(effects)

    control.mark_failed(job, reason="stuck")

    wait_until(lambda: is_gone(child))
    assert after.wait(timeout=10).status == FINISHED
