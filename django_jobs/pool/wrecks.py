"""Settles what a killed worker of this machine had claimed and not begun: others run it, as the same attempt.

What it had begun is for the reconciler, once the worker's lease is over.
"""

import logging
import time
from pathlib import Path

from .. import reports, spool
from ..models import Job
from ..models.jobs import BACK
from .seats import begun_of

DEAD_SECONDS = 1
"""For how long a worker must be known to be dead: its children outlive it by moments, in which they begin
what they were handed."""
KEPT_SECONDS = 60
"""How long the file of a killed worker stays at least: its last claim may still be on its way into the
database."""

logger = logging.getLogger(__name__)


class Wrecks:
    """Remembers between its passes since when it has seen which worker dead."""

    def __init__(self) -> None:
        self._dead_since: dict[Path, float] = {}  # {its file: moment of time.monotonic()}

    def settle(self) -> int:
        """Give back what workers that have ended had not begun; how many jobs. Raises the database's error.
        Waits for no transaction that holds a job's row."""
        at, returned = time.monotonic(), 0
        found = list(spool.running_files_of_the_dead())
        self._dead_since = {path: self._dead_since.get(path, at) for path, _ in found}
        for path, worker_id in found:
            if at - self._dead_since[path] < DEAD_SECONDS:
                continue
            held = Job.objects.started().ours().filter(worker=worker_id, elsewhere_until__isnull=True)
            claims = dict(held.values_list("pk", "claim_id"))
            try:  # After the rows: what has begun by now counts.
                told_at = path.stat().st_mtime
                begun = begun_of(claims, path.read_bytes()) if claims else set()
            except OSError:
                continue  # Another process has settled it.
            if claims:  # What has a report in a file was begun too, maybe long ago; somebody holds its row.
                begun |= {job for job, claim in reports.kept_claims() if claims.get(job) == claim}
            if unbegun := claims.keys() - begun:
                given = held.filter(pk__in=unbegun).update_unless_locked(**BACK)
                logger.warning("%s jobs that a killed worker had not begun are given back.", given)
                returned += given
            if not claims and time.time() - told_at > KEPT_SECONDS:
                spool.drop(path)
        return returned
