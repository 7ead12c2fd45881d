"""The loop that runs relay and reconciler.

Any number of copies is harmless; a lease keeps all but one idle.
"""

import logging
import os
import signal
import socket
import threading
import time
from datetime import timedelta
from types import FrameType

from django.db import Error, connections
from django.db.models import Q
from django.db.models.functions import Now
from uuid6 import uuid7

from . import relay
from .models import Lease
from .processes import die_with_parent
from .reconciler import Reconciler

TICK_SECONDS = 1
RECONCILE_EVERY_SECONDS = 4
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
    """Relay every second and reconcile every four while this process holds the lease, until `stopping`."""
    holder = f"{socket.gethostname()}.{os.getpid()}.{uuid7().hex[-8:]}"
    reconciler = Reconciler()
    reconciled_at = float("-inf")
    while True:
        try:
            holds = hold_lease(holder)
            reconciler.note_contact()
            if holds:
                while relay.run_once() >= relay.BATCH and not stopping.is_set() and hold_lease(holder):
                    reconciler.note_contact()
                if time.monotonic() - reconciled_at >= RECONCILE_EVERY_SECONDS:
                    reconciler.run_once()
                    reconciled_at = time.monotonic()
        except Error as error:
            reconciler.note_contact(lost=True)
            connections.close_all()
            logger.warning("The maintainer waits for the database: %s", error)
        except Exception:  # The loop must outlive what one pass stumbles over.
            logger.exception("A pass of the maintainer failed; the next one follows.")
        if stopping.wait(TICK_SECONDS):
            break
    release_lease(holder)
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
