"""Heals what faults left behind: attempts of workers that are gone, deliveries that were lost.

Every write is guarded, so any number of copies does no harm. Nothing is declared lost on a timestamp
alone: a worker's lease must be over by the database's clock, after a lease of unbroken contact with the
database, since workers cannot renew theirs while it is away, and the server of its queues must know nothing
of its life either.
"""

import logging
import socket
from collections import Counter
from collections.abc import Collection, Iterable
from datetime import timedelta
from uuid import UUID

from django.db import connections, router, transaction
from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Now

from .conf import settings
from .engines import Delivery, all_engines
from .engines.base import BaseEngine, parse_delivery_id
from .exceptions import EngineUnavailable
from .models import Job, JobEvent, Worker
from .models.jobs import NEXT_DELIVERY
from .outcomes import lose_unless_locked
from .processes import boot_clock, identity

BATCH = 500
SETTLED = timedelta(seconds=5)
"""A delivery younger than this may be on its way from the queue to its claim."""
MOST_TOLD = 2
"""The number, from 0, of the last lost delivery of an attempt that leaves a trace."""
FORGET_WORKERS_AFTER = timedelta(days=1)

logger = logging.getLogger(__name__)


class Reconciler:
    """Remembers between its passes what it saw missing, and since when the database answers and a server of
    queues does not."""

    def __init__(self) -> None:
        self._contact_since = self._contact_at = boot_clock()
        self._passed_at = self._contact_at
        self._unanswered_since: dict[str, float] = {}  # {server, or "" for none: moment of boot_clock()}
        self._suspects: set[str] = set()

    def note_contact(self, *, lost: bool = False) -> None:
        """Tell that the database answered, or that it did not. To be told often, by standbys too.

        A gap counts as lost contact: this machine slept, and so may the workers have.
        """
        now = boot_clock()
        if lost or now - self._contact_at > settings.LEASE_SECONDS / 2:
            self._contact_since = now
        self._contact_at = now

    def run_once(self) -> int:
        """One pass; the number of rows healed."""
        now = boot_clock()
        if now - self._passed_at > settings.LEASE_SECONDS / 2:
            self._unanswered_since.clear()  # Others have held the maintainer's lease, or nobody.
        self._passed_at = now
        self.note_contact()
        healed = 0
        if self._contact_at - self._contact_since > settings.LEASE_SECONDS:
            healed += self.end_lost_attempts()
            _forget_workers()
        return healed + self._redeliver_absent()

    def end_lost_attempts(self) -> int:
        """End the started attempts whose worker's lease is over, or whose work elsewhere is overdue."""
        alive = Worker.objects.alive().filter(pk=OuterRef("worker_id"))
        is_due = Q(elsewhere_until__isnull=True) | Q(elsewhere_until__lt=Now())
        silent = Job.objects.started().ours().filter(is_due, ~Exists(alive))
        held = silent.filter(worker__isnull=False).order_by()
        asked = set(held.values_list("engine", "queue", "worker_id").distinct())
        workers = Worker.objects.in_bulk({worker_id for _, _, worker_id in asked})
        # Where these have their witness; a job may have been moved to a queue of another server.
        asked |= {(each.engine, queue, each.pk) for each in workers.values() for queue in each.queues}
        dead = {worker_id for _, _, worker_id in asked} - self._witnessed(asked)
        dead -= {worker.pk for worker in workers.values() if _runs_here(worker)}
        # Of these alone: whose lease has ended since has not been asked for.
        lost = silent.filter(Q(worker__isnull=True) | Q(worker__in=dead)).order_by("id")[:BATCH]
        return sum(
            lose_unless_locked(job, _evidence(job, workers.get(job.worker_id)), still=silent) for job in lost
        )

    def _witnessed(self, asked: Collection[tuple[str, str, UUID]]) -> set[UUID]:
        """The workers of these (engine, queue, worker's id) that the server of the queue knows to live, or
        may know: cut off from the database alone. While nobody answers, all of them, for one lease.

        Any server may be that of a queue which another release declares, and this one does not.
        """
        witnessed: set[UUID] = set()
        unasked = {worker_id for _, _, worker_id in asked}
        for engine in all_engines():
            declared = engine.queue_names()
            for server, queues in engine.servers().items():
                ids = {
                    worker_id
                    for name, queue, worker_id in asked
                    if name == engine.name and (queue in queues or queue not in declared)
                }
                unasked -= ids
                try:
                    witnessed |= set(engine.witnessed(queues[0], sorted(ids))) if ids else set()
                except EngineUnavailable as error:
                    logger.info("Nobody can say of %s workers whether they live: %s", len(ids), error)
                    witnessed |= self._spared(server, ids)
                else:
                    self._unanswered_since.pop(server, None)
        if unasked:
            witnessed |= self._spared("", unasked)
        else:
            self._unanswered_since.pop("", None)
        return witnessed

    def _spared(self, server: str, worker_ids: set[UUID]) -> set[UUID]:
        """These, if this server has not answered for less than a lease."""
        since = self._unanswered_since.setdefault(server, boot_clock())
        return worker_ids if boot_clock() - since <= settings.LEASE_SECONDS else set()

    def _redeliver_absent(self) -> int:
        """Deliver anew what was delivered, is not claimed, and was missing from its queue twice."""
        absent: dict[str, tuple[BaseEngine, Delivery]] = {}
        for engine in all_engines():
            for queues in engine.servers().values():
                try:
                    epoch = engine.epoch(queues[0])
                    for queue in queues:
                        missing = self._missing(engine, queue, epoch)
                        absent |= {gone.id: (engine, gone) for gone in missing}
                except EngineUnavailable as error:
                    logger.info("Deliveries on %s not checked: %s", ", ".join(queues), error)
        confirmed = [absent[delivery_id] for delivery_id in self._suspects & absent.keys()]
        self._suspects = set(absent) - {delivery.id for _, delivery in confirmed}
        redelivered = [delivery.queue for engine, delivery in confirmed if _redeliver(engine, delivery)]
        for queue, count in Counter(redelivered).items():
            logger.warning("Deliveries gone from queue %s and made anew: %s.", queue, count)
        return len(redelivered)

    def _missing(self, engine: BaseEngine, queue: str, epoch: str) -> Iterable[Delivery]:
        """The longest delivered that do not stand foremost in their queue, where they should; and of those
        that did not before either, the ones that do not stand anywhere in it. Likewise any that were taken.
        What was delivered in another epoch, the relay looks up."""
        queued = Job.objects.literally_queued().ours().filter(engine=engine.name, queue=queue)
        # A range, else SQLite takes another index.
        delivered = queued.filter(delivered_epoch__range=(epoch, epoch))
        settled = delivered.filter(delivered_at__lt=Now() - SETTLED)
        columns = settled.order_by("delivered_epoch", "id").values_list(*Delivery.COLUMNS)
        deliveries = {Delivery(*row) for row in columns[:BATCH]}
        if not deliveries:
            return []
        try:
            if len(deliveries) == BATCH:
                # Behind a backlog these would be looked for late. Of most the attempt has started.
                taken = engine.taken(queue, BATCH)
                jobs = {parsed[0] for each in taken if (parsed := parse_delivery_id(each))}
                waiting = {Delivery(*row) for row in columns.filter(pk__in=jobs)}
                deliveries |= {delivery for delivery in waiting if delivery.id in taken}
            foremost = engine.foremost(queue, 2 * BATCH)
            away = [delivery for delivery in deliveries if delivery.id not in foremost]
            again = [delivery for delivery in away if delivery.id in self._suspects]
            present = set(again) - set(engine.absent(queue, again)) if again else set()
        except EngineUnavailable as error:
            engine.epoch(queue)  # Raises if it is not this queue alone, which somebody made unusable.
            logger.warning("Deliveries on %s not checked: %s", queue, error)
            return []
        return [delivery for delivery in away if delivery not in present]


def _evidence(job: Job, worker: Worker | None) -> str:
    if job.elsewhere_until:
        until = f"{job.elsewhere_until:%Y-%m-%d %H:%M:%S %Z}"
        return f"Its work went on elsewhere, and nobody reported its end until {until}."
    if worker is None:
        return f"Worker {job.worker_id} is gone."
    return f"Worker {worker.name} last answered at {worker.seen_at:%Y-%m-%d %H:%M:%S %Z}."


def _runs_here(worker: Worker) -> bool:
    """True for a process of this machine that lives but could not write to SQLite, which was locked."""
    return (
        connections[router.db_for_write(Job)].vendor == "sqlite"
        and worker.hostname == socket.gethostname()
        and identity(worker.pid) == worker.process
    )


def _forget_workers() -> None:
    """Delete the rows of workers long silent, but of those that are said to hold a job."""
    held = Job.objects.started().filter(worker=OuterRef("pk"))
    Worker.objects.filter(~Exists(held), leased_until__lt=Now() - FORGET_WORKERS_AFTER).delete()


def _redeliver(engine: BaseEngine, delivery: Delivery) -> bool:
    message = f"Its delivery was gone from queue {delivery.queue} before any worker claimed it."
    if delivery.number == MOST_TOLD:
        message += " This goes on: does a worker that is not of this project take from the queue?"
    awaited = Job.objects.queued().filter(
        pk=delivery.job_id, attempt=delivery.attempt, delivery=delivery.number
    )
    with transaction.atomic(using=router.db_for_write(Job)):  # So that nobody deletes it in between.
        if not awaited.update_unless_locked(**NEXT_DELIVERY):
            return False
        if delivery.number <= MOST_TOLD:
            JobEvent.objects.create(
                job_id=delivery.job_id,
                kind=JobEvent.Kind.REDELIVERED,
                attempt=delivery.attempt,
                message=message,
            )
    logger.info("Job %s is delivered anew: %s was gone from its queue.", delivery.job_id, delivery.id)
    try:
        engine.let_expire(delivery)
    except EngineUnavailable as error:
        logger.info("What is left of %s stays on its server: %s", delivery.id, error)
    return True
