"""Ends waits for a database that hangs: its host lost power, a pooler froze, a firewall forgot us.

Nothing tells the one who waits for the answer to a query; a new connection might work at once.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

CONNECT_SECONDS = 10
LOOK_EVERY_SECONDS = 0.5

logger = logging.getLogger(__name__)


@contextmanager
def patience(alias: str, seconds: float) -> Iterator[None]:
    """Break this thread's connection to a database when the block takes longer.

    A query that waits then raises `OperationalError`, and the next one gets a new connection. Does nothing
    for databases without a network, such as SQLite.
    """
    wait = _Wait(connections[alias], seconds, time.monotonic() + seconds)
    _waits[id(wait)] = wait
    _watch()
    try:
        yield
    finally:
        del _waits[id(wait)]


def limit_connecting(alias: str) -> None:
    """Have this process give up a connection that is not made in time, unless the project says how long it
    waits itself."""
    connection = connections[alias]
    if connection.vendor == "postgresql":
        connection.settings_dict["OPTIONS"].setdefault("connect_timeout", CONNECT_SECONDS)


@dataclass(slots=True)
class _Wait:
    connection: BaseDatabaseWrapper
    seconds: float
    over_at: float

    def end_if_over(self) -> None:
        if time.monotonic() < self.over_at:
            return
        # Again and again: a connection that was just being made is not to be broken yet.
        self.over_at = time.monotonic() + self.seconds
        # All of it may change meanwhile, as the thread that waits may have got its answer.
        with suppress(Exception):
            descriptor = os.dup(self.connection.connection.fileno())
            with socket.socket(fileno=descriptor) as line:
                line.shutdown(socket.SHUT_RDWR)
            logger.warning(
                "%s has not answered for %g s; connecting anew.", self.connection.alias, self.seconds
            )


_waits: dict[int, _Wait] = {}
_present = threading.Event()
_watching: threading.Thread | None = None


def _watch() -> None:
    """Have the one thread of this process look, which waits as long as nobody does."""
    global _watching
    if not _present.is_set():
        _present.set()
    if _watching is None:
        _watching = threading.Thread(target=_look, name="django-jobs-patience", daemon=True)
        _watching.start()


def _look() -> None:
    while True:
        _present.wait()
        while _waits:
            for wait in list(_waits.values()):
                wait.end_if_over()
            time.sleep(min([LOOK_EVERY_SECONDS, *(wait.seconds / 2 for wait in list(_waits.values()))]))
        _present.clear()
        if _waits:  # One that began in between.
            _present.set()


def _forget() -> None:
    """Threads do not survive a fork."""
    global _present, _watching
    _present, _watching = threading.Event(), None
    _waits.clear()


os.register_at_fork(after_in_child=_forget)
