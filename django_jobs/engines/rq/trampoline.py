"""The function that RQ's workers call for every delivery of ours."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID, uuid4

from django.db import connections
from rq import get_current_job
from rq.timeouts import JobTimeoutException, get_default_death_penalty_class

from ... import executor, reports
from ...exceptions import EngineUnavailable, JobsError
from ...fences import Fence
from ...lifesigns import LifeSigns
from ...models import Worker
from ...models.workers import installation_id
from ...processes import SharedMoment, kill_this_group
from .. import get_engine
from ..base import parse_delivery_id
from . import parking
from .connections import impatient_client, reached

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Claimant:
    """In whose name a delivery is claimed, and what its worker sees or says of the function that runs."""

    worker: Worker
    claim_id: UUID
    fence: Fence
    deadline: SharedMoment
    """When the function's time limit ends, by `time.monotonic`."""


claimant: ContextVar[Claimant | None] = ContextVar("django_jobs_rq_claimant", default=None)
"""Set by our worker class; under a plain `rq worker` the trampoline makes its own."""


FOREIGN = (
    "Delivery %s is of installation %s, this is %s: two projects share a Redis database. "
    "Give each its own, or its own RQ_KEY_PREFIX."
)


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
        if carrier and asked:
            _park(carrier.origin, delivery_id, installation)
        raise ForeignDelivery(FOREIGN % (delivery_id, installation, installation_id()))
    job_id, attempt = asked
    with _claimant(job_id, carrier.origin if carrier else "") as mine:
        executor.execute(
            job_id,
            attempt,
            worker=mine.worker,
            claim_id=mine.claim_id,
            time_limit=lambda seconds: _limits(seconds, mine),
            may_begin=lambda: not mine.fence.has_closed(),
        )


def _park(queue: str, delivery_id: str, installation: str) -> None:
    try:
        with reached(impatient_client(queue)) as client:
            parking.park(client, queue, delivery_id, installation)
    except (EngineUnavailable, KeyError) as error:  # The log tells it all the same.
        logger.info("%s is not noted as one of another installation: %s", delivery_id, error)


@contextmanager
def _claimant(job_id: UUID, queue: str) -> Iterator[Claimant]:
    if given := claimant.get():
        yield given
        return
    claim_id = uuid4()
    signs = LifeSigns(
        f"rq.{os.getpid()}",
        engine="rq",
        queues=[queue],
        witness=partial(get_engine("rq").witness, queue),
        holds=partial(executor.is_surely_held, job_id, claim_id),
        on_fence=lambda: kill_this_group() if signs.fence.guards() else None,
    )
    signs.start()
    try:
        yield Claimant(signs.worker, claim_id, signs.fence, SharedMoment(time.monotonic))
        reports.deliver_kept()  # Nobody else may do it where no worker of ours runs.
    finally:
        signs.stop()
        connections.close_all()


def _disarm_rq_timeout() -> None:
    # RQ's alarm surrounds the trampoline and could cut a claim or a report short; ours only the function.
    if threading.current_thread() is threading.main_thread():
        signal.alarm(0)


def time_limit(seconds: int | None) -> AbstractContextManager[Any]:
    """Raise RQ's exception in this block when it takes longer."""
    if seconds is None:
        return nullcontext()
    penalty: AbstractContextManager[Any] = get_default_death_penalty_class()(seconds, JobTimeoutException)
    return penalty


def time_limit_error(seconds: int) -> BaseException:
    """What RQ raises where a job has taken so long."""
    return JobTimeoutException(f"Task exceeded maximum timeout value ({seconds} seconds)")


@contextmanager
def _limits(seconds: int | None, mine: Claimant) -> Iterator[None]:
    with mine.fence.guarding():
        if seconds is not None:
            mine.deadline.set_in(seconds)
        try:
            with time_limit(seconds):
                yield
        finally:
            mine.deadline.clear()
