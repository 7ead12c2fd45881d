"""Settles what a killed worker of this machine had claimed and not begun: others run it, as the same attempt.

What it had begun is for the reconciler, once the worker's lease is over.
"""

import logging
import time

from .. import spool
from ..models import Job
from ..models.jobs import NEXT_DELIVERY
from ..states import QUEUED
from .seats import begun_in

KEPT_SECONDS = 60
"""How long the file of a killed worker stays at least: its last claim may still be on its way into the
database."""

logger = logging.getLogger(__name__)


def settle() -> int:
    """Give back what workers that have ended had not begun; how many jobs. Raises the database's error."""
    returned = 0
    for path, worker_id in spool.running_files_of_the_dead():
        try:
            begun, told_at = begun_in(path.read_bytes()), path.stat().st_mtime
        except OSError:
            continue  # Another process has settled it.
        held = Job.objects.started().ours().filter(worker=worker_id, elsewhere_until__isnull=True)
        ids = set(held.values_list("pk", flat=True))
        if unbegun := ids - begun:
            back = {"status": QUEUED, "worker": None, "claim_id": None, "started_at": None, **NEXT_DELIVERY}
            given = held.filter(pk__in=unbegun).update(**back)
            logger.warning("%s jobs that a killed worker had not begun are given back.", given)
            returned += given
        if not ids and time.time() - told_at > KEPT_SECONDS:
            spool.drop(path)
    return returned
