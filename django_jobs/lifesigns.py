"""Tells the stores that a worker lives, from threads beside its work: the database, where it has a lease,
and the server of its queues, where a witness says so to whoever finds that lease over.

A worker that reached neither for a lease counts as lost, and the attempts it holds as cut. A renewal brings
back which of its jobs were asked to stop.
"""

import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from uuid import UUID

from django.db import connections, router
from django.db.models.functions import Now

from .conf import settings
from .exceptions import EngineUnavailable
from .fences import Fence, grace_seconds
from .models import Job, Worker
from .patience import patience
from .processes import Footprint, boot_clock, disconnect_databases, identity

RENEWALS_PER_LEASE = 7.5  # every 2 s with the default lease of 15 s

logger = logging.getLogger(__name__)


class LifeSigns:
    """The Worker row of this process, and the threads that renew its lease and have it witnessed.

    `witness` tells the server of the queues that this worker lives, for a lease from then. In the threads are
    called: `on_cancel` with the id of a started job of this worker that was asked to stop, `on_order` with
    what the worker itself is told, a `Worker.Order`, and `on_renewal`, the last two after each renewal. When
    neither store was reached for almost a lease, as in a sleep of the machine, `on_fence` has to end what
    runs, unless the lease is renewed in time and `holds` says that nobody has taken it for lost. Hold `lock`
    while forking: then no connection to the database is open.
    """

    def __init__(
        self,
        name: str,
        *,
        engine: str,
        queues: Sequence[str],
        witness: Callable[[UUID], None],
        on_cancel: Callable[[UUID], None] | None = None,
        on_order: Callable[[str], None] | None = None,
        on_renewal: Callable[[], None] | None = None,
        holds: Callable[[], bool],
        on_fence: Callable[[], None],
    ) -> None:
        self.worker = Worker(
            name=name,
            engine=engine,
            queues=list(queues),
            hostname=socket.gethostname(),
            pid=os.getpid(),
            process=identity(os.getpid()) or "",
        )
        self._alias = router.db_for_write(Worker)
        self._footprint = Footprint(os.getpid())
        self.lock = threading.Lock()
        self.fence = Fence()
        self._witness = witness
        self._on_cancel = on_cancel
        self._on_order = on_order
        self._on_renewal = on_renewal
        self._holds = holds
        self._on_fence = on_fence
        self._stopping = threading.Event()
        self._due = threading.Event()
        self._at_fence = threading.Lock()
        self._is_on_sqlite = connections[self._alias].vendor == "sqlite"
        self._threads = [
            threading.Thread(target=loop, name=f"django-jobs-{name}", daemon=True)
            for name, loop in (("life-sign", self._renew_loop), ("witness", self._witness_loop))
        ]

    def start(self) -> None:
        """Write the row and keep it renewed. Raises the database's error when that is away."""
        self._renew()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the renewals and delete the row: this worker holds no job any more."""
        self._stopping.set()
        self._due.set()
        for thread in self._threads:
            thread.join(timeout=5)
        try:
            with patience(self._alias, settings.LEASE_SECONDS):
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
            try:
                with self.lock:
                    try:
                        with patience(self._alias, settings.LEASE_SECONDS):
                            self._renew()
                        # However long the rest takes, the next renewal has to come in time.
                        with patience(self._alias, settings.LEASE_SECONDS / 2):
                            self._tell_cancellations()
                            self._tell_order()
                            if self._on_renewal:
                                self._on_renewal()
                    finally:
                        disconnect_databases()
            except Exception:
                logger.warning("Worker %s could not renew its lease.", self.worker.name, exc_info=True)

    def _renew(self) -> None:
        sent_at = boot_clock()
        leased_until = Now() + settings.lease
        self.worker.memory_bytes, self.worker.cpu_percent = self._footprint.measure()
        told = {name: getattr(self.worker, name) for name in ("state", "memory_bytes", "cpu_percent")}
        row = Worker.objects.filter(pk=self.worker.pk)
        if not row.update(seen_at=Now(), leased_until=leased_until, **told):
            self.worker.leased_until = leased_until
            self.worker.save(force_insert=True)
        self._put_off_fence(sent_at)

    def _put_off_fence(self, sent_at: float) -> None:
        """The lease is renewed: from now on nobody takes this worker for lost; what was taken is ended."""
        if self._is_on_sqlite:
            # Nobody ends attempts while it is locked, nor those of a process on this machine that lives.
            return
        with self._at_fence:
            if self.fence.has_closed() and not self._holds():
                self._on_fence()
            self.fence.put_off(sent_at)

    def _tell_cancellations(self) -> None:
        if self._on_cancel is None:
            return
        asked = Job.objects.started().filter(worker=self.worker, cancel_requested_at__isnull=False)
        for job_id in asked.values_list("pk", flat=True):
            self._on_cancel(job_id)

    def _tell_order(self) -> None:
        if self._on_order is None:
            return
        for order in Worker.objects.filter(pk=self.worker.pk).values_list("order", flat=True):
            self.worker.order = order  # To be written again should somebody delete the row.
            self._on_order(order)

    def _witness_loop(self) -> None:
        # Of its own: a database that hangs must not keep this worker from having a witness.
        is_reached = True
        while not self._stopping.wait(settings.LEASE_SECONDS / RENEWALS_PER_LEASE):
            sent_at = boot_clock()
            try:
                self._witness(self.worker.pk)
            except Exception as error:
                if is_reached:
                    is_expected = isinstance(error, EngineUnavailable)
                    level = logging.INFO if is_expected else logging.ERROR
                    told = f"Worker {self.worker.name} has no witness of its life for now: {error}"
                    logger.log(level, "%s", told, exc_info=not is_expected)
                is_reached = False
            else:
                is_reached = True
                with self._at_fence:
                    # Once it has closed, only the database knows who holds what.
                    if not (self._is_on_sqlite or self.fence.has_closed()):
                        self.fence.put_off(sent_at)
            try:
                self._end_what_is_behind()
            except Exception:
                logger.exception("Worker %s could not end what it runs.", self.worker.name)

    def _end_what_is_behind(self) -> None:
        """What runs behind a fence that has closed may be unable to see for itself."""
        if self.fence.has_closed() and not self._stopping.wait(grace_seconds()) and self.fence.has_closed():
            self._on_fence()
