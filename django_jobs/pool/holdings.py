"""What a worker holds: the attempts that it has claimed and whose ends are not recorded yet."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from django.db import InterfaceError, OperationalError, connections, router

from .. import batches, executor
from ..batches import Claimed
from ..models import Job, Queue
from ..models.jobs import BACK, NEXT_DELIVERY
from ..outcomes import lose_unless_locked
from ..patience import patience

PATIENCE_SECONDS = 10
"""How long the database may take to answer."""

logger = logging.getLogger(__name__)

Wanted = tuple[UUID, int]
"""The job, and the number of the attempt."""


@dataclass(slots=True)
class Held:
    claimed: Claimed
    claim_id: UUID
    ticket: Any
    """What the engine calls the delivery that asked for it."""
    child: Any = None
    """Who was handed it."""


class Holdings:
    """Changed by one thread; `orphans` and looks at `held` may be another's."""

    def __init__(self, worker_id: UUID) -> None:
        self.held: dict[UUID, Held] = {}
        self._worker_id = worker_id
        self._claiming: set[UUID] = set()
        self._lost: dict[UUID, str] = {}

    def __bool__(self) -> bool:
        return bool(self.held)

    @property
    def has_lost(self) -> bool:
        return bool(self._lost)

    def claim(self, wanted: Mapping[Wanted, Any]) -> list[Claimed]:
        """Claim these, each with its ticket, and return what is held now. Raises the database's error."""
        claim_id = uuid4()
        self._claiming.add(claim_id)  # So that nobody takes these for orphans meanwhile.
        try:
            with patience(router.db_for_write(Job), executor.CLAIM_PATIENCE_SECONDS):
                claimed = batches.claim(list(wanted), self._worker_id, claim_id)
            for each in claimed:
                self.held[each.job_id] = Held(each, claim_id, wanted[each.job_id, each.attempt])
        finally:
            self._claiming.discard(claim_id)
        return claimed

    def lose(self, job_id: UUID, evidence: str) -> None:
        """The process that ran this has ended; `end_lost` tells the database."""
        self._lost[job_id] = evidence

    def end_lost(self) -> list[tuple[Held, str]]:
        """End what was lost, but what another transaction holds; what is settled, and on what evidence."""
        settled = []
        try:
            with patience(router.db_for_write(Job), PATIENCE_SECONDS):
                for job_id, evidence in list(self._lost.items()):
                    held = self.held[job_id]
                    mine = Job.objects.started().filter(pk=job_id, claim_id=held.claim_id)
                    job = mine.first()
                    if job is None or lose_unless_locked(job, evidence) or not mine.exists():
                        del self._lost[job_id], self.held[job_id]
                        settled.append((held, evidence))
        except (OperationalError, InterfaceError) as error:
            logger.warning("The ends of %s attempts wait for the database: %s", len(self._lost), error)
            connections.close_all()
        return settled

    def give_back(self, returned: Sequence[Claimed]) -> list[Held]:
        """Let others have these, of which nothing has run, but what another transaction locks; which. Raises
        the database's error, and holds them still."""
        held = [self.held[claimed.job_id] for claimed in returned]
        mine = Job.objects.started().filter(
            pk__in=[each.claimed.job_id for each in held], claim_id__in={each.claim_id for each in held}
        )
        with patience(router.db_for_write(Job), PATIENCE_SECONDS):
            mine.update_unless_locked(**BACK)
            locked = set(mine.values_list("pk", flat=True))
        given = [each for each in held if each.claimed.job_id not in locked]
        for each in given:
            del self.held[each.claimed.job_id]
        return given

    def give_back_orphans(self) -> None:
        """Give back what is started in this worker's name and not held: the answer to its claim was lost."""
        before = set(self._claiming)
        mine = Job.objects.started().ours().filter(worker=self._worker_id)
        for job_id, claim_id in list(mine.values_list("pk", "claim_id")):
            claiming = before | self._claiming  # Read first: what leaves it is held by then.
            held = self.held.get(job_id)
            if (held and held.claim_id == claim_id) or claim_id in claiming:
                continue
            if mine.filter(pk=job_id, claim_id=claim_id).update_unless_locked(**BACK):
                logger.warning("Job %s, whose claim was not answered, is given back.", job_id)


def await_resumption(wanted: Collection[Wanted]) -> set[Wanted]:
    """Those of the unclaimed that wait on paused queues; the relay delivers them when these are resumed. Not
    those whose rows another transaction locks."""
    paused = Queue.objects.filter(paused=True).values("name")
    waiting = Job.objects.queued().filter(pk__in=[job_id for job_id, _ in wanted], queue__in=paused)
    columns = waiting.values_list("pk", "attempt", "delivery")
    with patience(router.db_for_write(Job), PATIENCE_SECONDS):
        found = {row for row in columns if row[:2] in wanted}
        waiting.filter(pk__in=[row[0] for row in found]).update_unless_locked(**NEXT_DELIVERY)
        return {row[:2] for row in found - set(columns.all())}


def still_await(wanted: Collection[Wanted]) -> set[Wanted]:
    """Those of the unclaimed whose attempts are still awaited: another transaction holds their rows."""
    rows = Job.objects.queued().filter(pk__in=[job_id for job_id, _ in wanted])
    return {key for key in rows.values_list("pk", "attempt") if key in wanted}


def unknown(wanted: Collection[Wanted]) -> set[Wanted]:
    """Those of jobs that are not in this database: deleted, or of another installation."""
    known = set(Job.objects.filter(pk__in=[job_id for job_id, _ in wanted]).values_list("pk", flat=True))
    return {key for key in wanted if key[0] not in known}
