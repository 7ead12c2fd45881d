"""Removes from the engines' servers the deliveries that no row awaits.

They do no harm, as nobody can claim them: what a restored server brought back, what was canceled while the
server was away, what a killed worker had taken. But they take room, and look like work.
"""

import logging
from collections.abc import Iterable
from uuid import UUID

from .engines import all_engines
from .engines.base import BaseEngine, parse_delivery_id
from .exceptions import EngineUnavailable
from .models import Job
from .states import QUEUED, STARTED

BATCH = 500

logger = logging.getLogger(__name__)


class Leftovers:
    """Walks through the queues. Looks twice at what nobody awaits: its worker may be about to remove it."""

    def __init__(self) -> None:
        self._starts: dict[str, int] = {}  # {queue: where to look}
        self._suspects: dict[str, set[str]] = {}  # {queue: what nobody awaited at the last look}

    def run_once(self) -> int:
        """Look at `BATCH` deliveries of each queue; how many were removed."""
        removed = 0
        for engine in all_engines():
            for queues in engine.servers().values():
                try:
                    removed += sum(self._tidy(engine, queue) for queue in queues)
                except EngineUnavailable as error:
                    logger.info("%s not tidied: %s", ", ".join(queues), error)
        return removed

    def _tidy(self, engine: BaseEngine, queue: str) -> int:
        start = self._starts.get(queue, 0)
        kept, goes_on = engine.kept(queue, start, BATCH)
        unawaited, suspects = _unawaited(kept), self._suspects.pop(queue, set())
        if unawaited and not suspects:
            self._suspects[queue] = unawaited
            return 0
        self._starts[queue] = start + BATCH if goes_on else 0
        removed = engine.discard(queue, unawaited & suspects) if unawaited else 0
        if removed:
            logger.info("%s deliveries that nobody awaits are removed from queue %s.", removed, queue)
        return removed


def _unawaited(delivery_ids: Iterable[str]) -> set[str]:
    asked = {each: parsed for each in delivery_ids if (parsed := parse_delivery_id(each))}
    found = Job.objects.filter(pk__in={job_id for job_id, _ in asked.values()}, status__in=[QUEUED, STARTED])
    awaited: set[tuple[UUID, int]] = set(found.values_list("pk", "attempt"))
    return {each for each, attempt in asked.items() if attempt not in awaited}
