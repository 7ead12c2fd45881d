"""Several things at once, for races on real connections."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection, connections, transaction
from django.db.models import QuerySet


def at_once(*functions: Callable[[], Any]) -> list[Any]:
    """What each returned, or the error it raised, when they ran in threads that started together."""
    barrier = threading.Barrier(len(functions))
    answers: list[Any] = [TimeoutError("still running")] * len(functions)

    def run(position: int) -> None:
        try:
            barrier.wait(60)
            answers[position] = functions[position]()
        except Exception as error:
            answers[position] = error
        finally:
            connections.close_all()

    threads = [
        threading.Thread(target=run, args=[position], daemon=True) for position in range(len(functions))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers


def waits_for_lock() -> bool:
    """Whether somebody waits for a lock that another transaction holds, on PostgreSQL."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted)")
        (waits,) = cursor.fetchone()
    return waits


@contextmanager
def holding_locks(lock: Callable[[], Any], *, until: Callable[[], Any] = lambda: False) -> Iterator[None]:
    """Within this block, or until something is true, another transaction is open, which has called `lock`."""
    locked, released = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            lock()
            locked.set()
            while not (until() or released.wait(0.05)):
                pass
        connections.close_all()

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    try:
        assert locked.wait(60)
        yield
    finally:
        released.set()
        thread.join(60)


@contextmanager
def locked(rows: QuerySet[Any]) -> Iterator[None]:
    """Within this block another transaction holds these rows, on PostgreSQL; to wait for them is an error."""
    with holding_locks(lambda: list(rows.select_for_update())), connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '1s'")
        try:
            yield
        finally:
            cursor.execute("RESET lock_timeout")
