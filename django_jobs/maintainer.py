"""The loop that runs the relay, and beside it the chores: reconciler, observer, retention and the like.

Any number of copies is harmless; a lease keeps all but one idle.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import FrameType

from django.db import Error, connections, reset_queries, router
from django.db.models import Q
from django.db.models.functions import Now
from uuid6 import uuid7

from . import figures, observer, operations, relay, retention
from .conf import settings
from .leftovers import Leftovers
from .models import Lease, tallies
from .patience import patience
from .processes import die_with_parent
from .reconciler import Reconciler

TICK_SECONDS = 1
EVERY_TICK = 0
RECONCILE_EVERY_SECONDS = 3
OBSERVE_EVERY_SECONDS = 2
PRUNE_EVERY_SECONDS = 60
LOOK_FOR_CENSUS_EVERY_SECONDS = 5
"""Whether there is one of this minute."""
PAUSE_AFTER_FAILURE_SECONDS = 5
LONGEST_RELAYING_SECONDS = 30
LONGEST_FOLDING_SECONDS = 0.25
LONGEST_OPERATING_SECONDS = 30
PAUSE_BETWEEN_CHUNKS_SECONDS = 0.05
"""Of an operation, in which others come to their turn."""
LEASE = timedelta(seconds=5)
LEASE_NAME = "maintainer"

logger = logging.getLogger(__name__)


def run_in_child(parent_pid: int) -> None:
    """Be the maintainer in a process just forked by `parent_pid`: until SIGTERM, or the parent's end."""
    die_with_parent(parent_pid)
    stopping = threading.Event()

    def stop(signum: int, frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the worker ends us.
    connections.close_all()
    run(stopping)


def run(stopping: threading.Event) -> None:
    """Relay every second, and do the chores beside, while this process holds the lease, until `stopping`."""
    holder = f"{socket.gethostname()}.{os.getpid()}.{uuid7().hex[-8:]}"
    reconciler = Reconciler()
    holding = threading.Event()
    # In threads of their own: however long one takes, the lease is held, and what is due is delivered.
    beside = [
        threading.Thread(
            target=_do_chores, args=[chores, holding, stopping], name=f"django-jobs-{name}", daemon=True
        )
        for name, chores in (
            ("relay", [_relaying(holding, stopping)]),
            ("operations", [_operating(holding, stopping)]),
            ("chores", _chores(reconciler)),
        )
    ]
    for thread in beside:
        thread.start()
    # Often enough for the reconciler, to which a pause of half a worker's lease is a loss of contact.
    tick_seconds = min(TICK_SECONDS, settings.LEASE_SECONDS / 4)
    while True:
        try:
            with patience(router.db_for_write(Lease), LEASE.total_seconds()):
                is_holder = hold_lease(holder)
        except Error as error:
            reconciler.note_contact(lost=True)
            holding.clear()
            connections.close_all()
            logger.warning("The maintainer waits for the database: %s", error)
        except Exception:  # The loop must outlive what one pass stumbles over.
            logger.exception("The maintainer could not ask for its lease; it tries again.")
        else:
            reconciler.note_contact()
            holding.set() if is_holder else holding.clear()
        if stopping.wait(tick_seconds):
            break
    for thread in beside:
        thread.join(timeout=2)
    release_lease(holder)
    connections.close_all()


@dataclass
class Chore:
    """Something to be done every so often, in a bounded time."""

    name: str
    do: Callable[[], object]
    every_seconds: float
    is_behind: Callable[[], bool] = lambda: False
    """Whether there is more to do at once."""
    longest_seconds: float = 120
    """After which a database that does not answer is taken to hang."""
    pause_after_failure_seconds: float = field(default_factory=lambda: PAUSE_AFTER_FAILURE_SECONDS)
    due_at: float = float("-inf")

    def do_if_due(self) -> None:
        if time.monotonic() < self.due_at:
            return
        pause = self.every_seconds
        reset_queries()  # With DEBUG, Django keeps every statement.
        try:
            with patience(router.db_for_write(Lease), self.longest_seconds):
                self.do()
            if self.is_behind():
                pause = 0
        except Exception as error:  # The other chores do not depend on it.
            pause = max(pause, self.pause_after_failure_seconds)
            connections.close_all()
            if isinstance(error, Error):
                logger.warning("The maintainer's %s failed and will be tried again: %s", self.name, error)
            else:
                logger.exception("The maintainer's %s failed and will be tried again.", self.name)
        self.due_at = time.monotonic() + pause


def _relaying(holding: threading.Event, stopping: threading.Event) -> Chore:
    def relay_all() -> None:
        deadline = time.monotonic() + LONGEST_RELAYING_SECONDS
        while relay.run_once() >= relay.BATCH and holding.is_set() and not stopping.is_set():
            if time.monotonic() > deadline:
                break

    return Chore("relay", relay_all, EVERY_TICK, pause_after_failure_seconds=TICK_SECONDS)


def _operating(holding: threading.Event, stopping: threading.Event) -> Chore:
    def operate() -> None:
        deadline = time.monotonic() + LONGEST_OPERATING_SECONDS
        while operations.run_once() and holding.is_set() and time.monotonic() < deadline:
            if stopping.wait(PAUSE_BETWEEN_CHUNKS_SECONDS):
                break

    return Chore("operations", operate, EVERY_TICK)


def _chores(reconciler: Reconciler) -> list[Chore]:
    keeping = retention.Retention()
    return [
        Chore("reconciler", reconciler.run_once, RECONCILE_EVERY_SECONDS),
        Chore("leftovers", Leftovers().run_once, RECONCILE_EVERY_SECONDS),
        Chore("observer", observer.run_once, OBSERVE_EVERY_SECONDS),
        Chore("expiry of results", keeping.expire_results, EVERY_TICK),
        Chore("folding of tallies", tallies.fold, EVERY_TICK),
        Chore("folding of figures", _fold_figures, EVERY_TICK),
        Chore("census", figures.take_census, LOOK_FOR_CENSUS_EVERY_SECONDS),
        Chore("retention", keeping.run_once, PRUNE_EVERY_SECONDS, lambda: keeping.is_behind),
        Chore("retention of figures", retention.prune_figures, PRUNE_EVERY_SECONDS),
    ]


def _fold_figures() -> None:
    deadline = time.monotonic() + LONGEST_FOLDING_SECONDS
    while figures.fold() == figures.MOST_FOLDED and time.monotonic() < deadline:
        pass


def _do_chores(chores: Sequence[Chore], holding: threading.Event, stopping: threading.Event) -> None:
    while not stopping.is_set():
        for chore in chores:
            if holding.is_set() and not stopping.is_set():
                chore.do_if_due()
        if not holding.is_set():
            connections.close_all()  # There may be many standbys.
        stopping.wait(TICK_SECONDS)
    connections.close_all()


def hold_lease(holder: str) -> bool:
    """Take or renew the maintainer's lease; False while another process holds it."""
    free = Lease.objects.filter(Q(holder=holder) | Q(expires_at__lt=Now()), name=LEASE_NAME)
    if free.update(holder=holder, expires_at=Now() + LEASE):
        return True
    if Lease.objects.filter(name=LEASE_NAME).exists():
        return False
    Lease.objects.bulk_create(
        [Lease(name=LEASE_NAME, holder=holder, expires_at=Now() + LEASE)], ignore_conflicts=True
    )
    return Lease.objects.filter(name=LEASE_NAME, holder=holder).exists()


def release_lease(holder: str) -> None:
    """Let another process take over at once."""
    try:
        Lease.objects.filter(name=LEASE_NAME, holder=holder).delete()
    except Error as error:
        logger.info("The maintainer's lease ends by itself: %s", error)
