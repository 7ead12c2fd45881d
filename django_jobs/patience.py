"""Ends waits for a database that hangs: its host lost power, a pooler froze, a firewall forgot us.

Nothing tells the one who waits for the answer to a query; a new connection might work at once.
"""

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

CONNECT_SECONDS = 10

logger = logging.getLogger(__name__)


@contextmanager
def patience(alias: str, seconds: float) -> Iterator[None]:
    """Break this thread's connection to a database when the block takes longer.

    A query that waits then raises `OperationalError`, and the next one gets a new connection. Does nothing
    for databases without a network, such as SQLite.
    """
    is_over = threading.Event()
    looking = threading.Thread(
        target=_look, args=[connections[alias], seconds, is_over], name="django-jobs-patience", daemon=True
    )
    looking.start()
    try:
        yield
    finally:
        is_over.set()


def limit_connecting(alias: str) -> None:
    """Have this process give up a connection that is not made in time, unless the project says how long it
    waits itself."""
    connection = connections[alias]
    if connection.vendor == "postgresql":
        connection.settings_dict["OPTIONS"].setdefault("connect_timeout", CONNECT_SECONDS)


def _look(connection: BaseDatabaseWrapper, seconds: float, is_over: threading.Event) -> None:
    # Again and again: a connection that was just being made is not to be broken yet.
    while not is_over.wait(seconds):
        # All of it may change meanwhile, as the thread that waits may have got its answer.
        with suppress(Exception):
            descriptor = os.dup(connection.connection.fileno())
            with socket.socket(fileno=descriptor) as line:
                line.shutdown(socket.SHUT_RDWR)
            logger.warning("%s has not answered for %g s; connecting anew.", connection.alias, seconds)
