"""Kills a process before each of its operations on the stores in turn.

As others see only these operations, no other point of its way needs a kill.
"""

import itertools
import os
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from django.db import connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from redis.connection import AbstractConnection

MOST_OPERATIONS = 200


def killed_in_turn(do: Callable[[], object], given: Callable[[], Any]) -> Iterator[tuple[str, Any]]:
    """Do this in a process that is killed right before its first operation on a store, then in another right
    before its second, and so on until one comes to its end.

    Yields what the operation was, empty for the last, and what `given` returned, which is called before each.
    """
    for number in range(1, MOST_OPERATIONS):
        prepared = given()
        operation = _killed_before(number, do)
        yield operation, prepared
        if not operation:
            return
    raise AssertionError(f"It has not ended after {MOST_OPERATIONS} operations.")


def _killed_before(number: int, do: Callable[[], object]) -> str:
    connections.close_all()
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Of a fork beside threads, as pytest has one.
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            _die_before(number, writing)
            do()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        operation = pipe.read()
    _, status = os.waitpid(pid, 0)
    ended = os.waitstatus_to_exitcode(status)
    assert ended == (-signal.SIGKILL if operation else 0), f"It ended with {ended} at {operation!r}."
    return operation


def _die_before(number: int, writing: int) -> None:
    numbers = itertools.count(1)

    def about_to(operation: str) -> None:
        if next(numbers) == number:
            os.write(writing, operation[:300].encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def execute_statement(execute: Any, sql: str, *args: Any) -> Any:
        about_to(sql)
        return execute(sql, *args)

    commit, send = BaseDatabaseWrapper._commit, AbstractConnection.send_packed_command

    def about_to_commit(self: BaseDatabaseWrapper) -> Any:
        about_to("COMMIT")
        return commit(self)

    def about_to_send(self: AbstractConnection, command: Any, *args: Any, **kwargs: Any) -> None:
        for part in [command] if isinstance(command, str | bytes) else command:
            about_to(f"Redis: {part!r}")
            send(self, [part], *args, **kwargs)

    connection.execute_wrappers.append(execute_statement)
    BaseDatabaseWrapper._commit = about_to_commit
    AbstractConnection.send_packed_command = about_to_send
