"""Heals what faults left behind: attempts of workers that are gone, deliveries that were lost.

Every write is guarded, so any number of copies does no harm. Nothing is declared lost on a timestamp
alone: a worker's lease must be over by the database's clock, after a lease of unbroken contact with the
database, since workers cannot renew theirs while it is away.
"""

import logging
import socket
import time
from collections.abc import Iterable
from datetime import timedelta

from django.db import connections, router, transaction
from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Now

from .conf import settings
from .engines import Delivery, all_engines
from .engines.base import BaseEngine
from .exceptions import EngineUnavailable
from .models import Job, JobEvent, Worker
from .models.jobs import NEXT_DELIVERY
from .outcomes import lose
from .processes import identity

BATCH = 500
SETTLED = timedelta(seconds=5)
"""A delivery younger than this may be on its way from the queue to its claim."""
MOST_TOLD = 2
"""The number, from 0, of the last lost delivery of an attempt that leaves a trace."""
LONGEST_PASS_SECONDS = 4
"""What a pass of the maintainer may take when servers do not answer."""
FORGET_WORKERS_AFTER = timedelta(days=1)

logger = logging.getLogger(__name__)


class Reconciler:
    """Remembers between its passes what it saw missing, and since when the database answers."""

    def __init__(self) -> None:
        self._contact_since = self._contact_at = _clock()
        self._suspects: set[str] = set()

    def note_contact(self, *, lost: bool = False) -> None:
        """Tell that the database answered, or that it did not. To be told often, by standbys too.

        A gap counts as lost contact: this machine slept, and so may the workers have.
        """
        now = _clock()
        if lost or now - self._contact_at > max(settings.LEASE_SECONDS / 2, LONGEST_PASS_SECONDS):
            self._contact_since = now
        self._contact_at = now

    def run_once(self) -> int:
        """One pass; the number of rows healed."""
        self.note_contact()
        healed = 0
        if self._contact_at - self._contact_since > settings.LEASE_SECONDS:
            healed += end_lost_attempts()
            Worker.objects.filter(leased_until__lt=Now() - FORGET_WORKERS_AFTER).delete()
        return healed + self._redeliver_absent()

    def _redeliver_absent(self) -> int:
        """Deliver anew what was delivered, is not claimed, and was missing from its queue twice."""
        absent: dict[str, Delivery] = {}
        for engine in all_engines():
            for queues in engine.servers().values():
                try:
                    for queue in queues:
                        absent |= {delivery.id: delivery for delivery in _absent(engine, queue)}
                except EngineUnavailable as error:
                    logger.info("Deliveries on %s not checked: %s", ", ".join(queues), error)
        confirmed = [absent[delivery_id] for delivery_id in self._suspects & absent.keys()]
        self._suspects = set(absent) - {delivery.id for delivery in confirmed}
        return sum(_redeliver(delivery) for delivery in confirmed)


def end_lost_attempts() -> int:
    """End the started attempts whose worker's lease is over, or whose work elsewhere is overdue; how many."""
    alive = Worker.objects.alive().filter(pk=OuterRef("worker_id"))
    is_due = Q(elsewhere_until__isnull=True) | Q(elsewhere_until__lt=Now())
    silent = Job.objects.started().ours().filter(is_due, ~Exists(alive)).order_by("id")[:BATCH]
    ended = 0
    for job in silent:
        worker = Worker.objects.filter(pk=job.worker_id).first() if job.worker_id else None
        if job.elsewhere_until:
            until = f"{job.elsewhere_until:%Y-%m-%d %H:%M:%S %Z}"
            ended += lose(job, f"Its work went on elsewhere, and nobody reported its end until {until}.")
        elif worker is None:
            ended += lose(job, f"Worker {job.worker_id} is gone.")
        elif not _runs_here(worker):
            ended += lose(
                job, f"Worker {worker.name} last answered at {worker.seen_at:%Y-%m-%d %H:%M:%S %Z}."
            )
    return ended


def _clock() -> float:
    """Seconds, which go on while the machine sleeps where the system can tell that."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _runs_here(worker: Worker) -> bool:
    """True for a process of this machine that lives but could not write to SQLite, which was locked."""
    return (
        connections[router.db_for_write(Job)].vendor == "sqlite"
        and worker.hostname == socket.gethostname()
        and identity(worker.pid) == worker.process
    )


def _absent(engine: BaseEngine, queue: str) -> Iterable[Delivery]:
    settled = (
        Job.objects.queued()
        .ours()
        .on_queue(queue)
        .filter(engine=engine.name, delivered_at__lt=Now() - SETTLED)
    )
    deliveries = [Delivery.of(job) for job in settled.order_by("id")[:BATCH]]
    return engine.absent(queue, deliveries) if deliveries else []


def _redeliver(delivery: Delivery) -> bool:
    message = f"Its delivery was gone from queue {delivery.queue} before any worker claimed it."
    if delivery.number == MOST_TOLD:
        message += " This goes on: does a worker that is not of this project take from the queue?"
    awaited = Job.objects.queued().filter(
        pk=delivery.job_id, attempt=delivery.attempt, delivery=delivery.number
    )
    with transaction.atomic(using=router.db_for_write(Job)):  # So that nobody deletes it in between.
        if not awaited.update(**NEXT_DELIVERY):
            return False
        if delivery.number <= MOST_TOLD:
            JobEvent.objects.create(
                job_id=delivery.job_id,
                kind=JobEvent.Kind.REDELIVERED,
                attempt=delivery.attempt,
                message=message,
            )
    logger.warning("Job %s is delivered anew: %s was gone from its queue.", delivery.job_id, delivery.id)
    return True
