"""The function that RQ's workers call for every delivery of ours."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from mmap import mmap
from struct import Struct
from uuid import UUID, uuid4

from django.db import connections
from rq import get_current_job
from rq.timeouts import JobTimeoutException, get_default_death_penalty_class

from ... import executor
from ...exceptions import JobsError
from ...lifesigns import LifeSigns
from ...models import Worker
from ...models.workers import installation_id
from ..base import parse_delivery_id


class SharedDeadline:
    """When the time limit of the function that runs in a child ends, seen by the worker that forked it."""

    def __init__(self) -> None:
        self._memory = mmap(-1, _MOMENT.size)

    def set(self, seconds: float) -> None:
        _MOMENT.pack_into(self._memory, 0, time.monotonic() + seconds)

    def clear(self) -> None:
        _MOMENT.pack_into(self._memory, 0, 0)

    def seconds_over(self) -> float:
        """Seconds since the deadline; 0 before it, and while none is set."""
        (moment,) = _MOMENT.unpack_from(self._memory)
        return max(0, time.monotonic() - moment) if moment else 0


_MOMENT = Struct("d")  # Of the monotonic clock, which is one for all processes.


@dataclass(frozen=True, slots=True)
class Claimant:
    """In whose name a delivery is claimed."""

    worker: Worker
    claim_id: UUID
    deadline: SharedDeadline


claimant: ContextVar[Claimant | None] = ContextVar("django_jobs_rq_claimant", default=None)
"""Set by our worker class; under a plain `rq worker` the trampoline makes its own."""


class ForeignDelivery(JobsError):
    """Raised when a delivery is not one of this installation."""


def run(delivery_id: str, installation: str) -> None:
    """Claim, run and report the attempt that this delivery asks for; raise what its function raised."""
    _disarm_rq_timeout()
    asked = parse_delivery_id(delivery_id)
    carrier = get_current_job()
    if carrier and carrier.id != delivery_id:
        raise ForeignDelivery(
            f"RQ job {carrier.id} carries the delivery {delivery_id!r}; somebody made it up."
        )
    if asked is None or installation != str(installation_id()):
        raise ForeignDelivery(
            f"Delivery {delivery_id!r} is of installation {installation!r}, this is {installation_id()}: "
            "two projects share a Redis database. Give each its own, or its own RQ_KEY_PREFIX."
        )
    job_id, attempt = asked
    with _claimant() as mine:
        executor.execute(
            job_id,
            attempt,
            worker=mine.worker,
            claim_id=mine.claim_id,
            time_limit=lambda seconds: _time_limit(seconds, mine.deadline),
        )


@contextmanager
def _claimant() -> Iterator[Claimant]:
    if given := claimant.get():
        yield given
        return
    signs = LifeSigns(f"rq.{os.getpid()}", engine="rq", queues=[])
    signs.start()
    try:
        yield Claimant(signs.worker, uuid4(), SharedDeadline())
    finally:
        signs.stop()
        connections.close_all()


def _disarm_rq_timeout() -> None:
    # RQ's alarm surrounds the trampoline and could cut a claim or a report short; ours only the function.
    if threading.current_thread() is threading.main_thread():
        signal.alarm(0)


@contextmanager
def _time_limit(seconds: int | None, deadline: SharedDeadline) -> Iterator[None]:
    if seconds is None:
        yield
        return
    deadline.set(seconds)
    try:
        with get_default_death_penalty_class()(seconds, JobTimeoutException):
            yield
    finally:
        deadline.clear()
