"""Tells the database that a worker lives, from a thread beside its work.

A worker whose lease is over counts as lost, and the attempts it holds as cut. A renewal brings back which
of its jobs were asked to stop.
"""

import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from uuid import UUID

from django.db.models.functions import Now

from .conf import settings
from .models import Job, Worker
from .processes import disconnect_databases, identity

RENEWALS_PER_LEASE = 7.5  # every 2 s with the default lease of 15 s

logger = logging.getLogger(__name__)


class LifeSigns:
    """The Worker row of this process, and the thread that renews its lease.

    `on_cancel` is called in that thread with the id of a started job of this worker that was asked to
    stop, `on_renewal` after each renewal. Hold `lock` while forking: then no connection is open.
    """

    def __init__(
        self,
        name: str,
        *,
        engine: str,
        queues: Sequence[str],
        on_cancel: Callable[[UUID], None] | None = None,
        on_renewal: Callable[[], None] | None = None,
    ) -> None:
        self.worker = Worker(
            name=name,
            engine=engine,
            queues=list(queues),
            hostname=socket.gethostname(),
            pid=os.getpid(),
            process=identity(os.getpid()) or "",
        )
        self.lock = threading.Lock()
        self._on_cancel = on_cancel
        self._on_renewal = on_renewal
        self._stopping = threading.Event()
        self._due = threading.Event()
        self._thread = threading.Thread(target=self._renew_loop, name="django-jobs-life-sign", daemon=True)

    def start(self) -> None:
        """Write the row and keep it renewed. Raises the database's error when that is away."""
        self._renew()
        self._thread.start()

    def stop(self) -> None:
        """End the renewals and delete the row: this worker holds no job any more."""
        self._stopping.set()
        self._due.set()
        self._thread.join(timeout=5)
        try:
            Worker.objects.filter(pk=self.worker.pk).delete()
        except Exception:
            logger.warning("The row of worker %s could not be deleted.", self.worker.name, exc_info=True)

    def renew_now(self) -> None:
        """Have the thread renew the lease, and look for what to stop, without waiting for the next time."""
        self._due.set()

    def _renew_loop(self) -> None:
        while True:
            self._due.wait(settings.LEASE_SECONDS / RENEWALS_PER_LEASE)
            self._due.clear()
            if self._stopping.is_set():
                return
            with self.lock:
                try:
                    self._renew()
                    self._tell_cancellations()
                    if self._on_renewal:
                        self._on_renewal()
                except Exception:
                    logger.warning("Worker %s could not renew its lease.", self.worker.name, exc_info=True)
                finally:
                    disconnect_databases()

    def _renew(self) -> None:
        leased_until = Now() + settings.lease
        row = Worker.objects.filter(pk=self.worker.pk)
        if not row.update(seen_at=Now(), leased_until=leased_until, state=self.worker.state):
            self.worker.leased_until = leased_until
            self.worker.save(force_insert=True)

    def _tell_cancellations(self) -> None:
        if self._on_cancel is None:
            return
        asked = Job.objects.started().filter(worker=self.worker, cancel_requested_at__isnull=False)
        for job_id in asked.values_list("pk", flat=True):
            self._on_cancel(job_id)
