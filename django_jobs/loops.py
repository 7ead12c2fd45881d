"""Runs the coroutines of `async def` tasks, on one event loop for each process, in a thread of its own.

The loop is started by the first coroutine and stays, so what belongs to a loop, such as a client, can be kept
from job to job. What async code has done in a thread, above all each query of the ORM, is done in the thread
that called `run()`: on that thread's connections, inside its transactions.
"""

import asyncio
import atexit
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, ParamSpec, Self, TypeVar, cast

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async

GRACE_SECONDS = 5  # for a coroutine to end after it was interrupted
EXIT_SECONDS = 2  # for what is left on the loop when the process ends
LISTEN_EVERY_SECONDS = 1
"""How often a waiting thread sees for itself whether it was interrupted: no signal wakes it that came to
another thread, as after SIGSTOP, or just before it began to wait."""

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger(__name__)


class Interruption:
    """Ends one `run()` where no signal can, as in a thread that is not the main one: another thread strikes,
    or a time is over.

    The coroutine is canceled, and when it has ended, the error is raised in the waiting thread. A query, or
    what else that thread does for the coroutine, is not interrupted.
    """

    def __init__(self) -> None:
        self._error: BaseException | None = None
        self._limit: tuple[float, Callable[[], BaseException]] | None = None
        self._wake: Callable[[], None] = _nothing

    def strike(self, error: BaseException) -> None:
        """Have this error raised, also if nothing waits yet. The first one counts."""
        self._error = self._error or error
        self._wake()

    @contextmanager
    def striking_after(self, seconds: float, error: Callable[[], BaseException]) -> Iterator[Self]:
        """Have an error raised if this block waits for longer than so many seconds."""
        self._limit = time.monotonic() + seconds, error
        try:
            yield self
        finally:
            self._limit = None

    def seconds_left(self) -> float:
        """Until it strikes by itself."""
        return max(0, self._limit[0] - time.monotonic()) if self._limit else threading.TIMEOUT_MAX

    def waking(self, wake: Callable[[], None]) -> None:
        """Have this called at a strike."""
        self._wake = wake

    def raise_what_is_due(self) -> None:
        if self._limit and time.monotonic() >= self._limit[0]:
            self._error = self._error or self._limit[1]()
        if self._error:
            raise self._error


def run(coroutine: Coroutine[Any, Any, R], *, interruption: Interruption | None = None) -> R:
    """Run the coroutine with the caller's context variables; return its result or raise what it raised.

    An exception that strikes the waiting thread, such as a time limit's, by a signal or by the
    `interruption`, cancels the coroutine and is raised once that has ended, after `GRACE_SECONDS` at the
    latest. A signal's that strikes during a query is raised by the query. A coroutine that computes without
    awaiting, or goes on when canceled, cannot be stopped: it is left behind, and the next one gets a new
    loop. Tasks that a coroutine has started and not awaited go on, without the ORM, until the process ends.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        coroutine.close()
        raise RuntimeError(
            f"{_name(coroutine)}() cannot be run by loops.run() where an event loop runs already; await it."
        )
    interruption = interruption or Interruption()
    try:
        interruption.raise_what_is_due()
    except BaseException:
        coroutine.close()
        raise
    return _Run(coroutine, _running_loop(), interruption).result()


def left_behind() -> int:
    """How many coroutines of this process could not be stopped and have not ended yet.

    One that computes holds up what else is on its loop, and takes time of the jobs that follow.
    """
    with _lock:
        _left_behind[:] = [run for run in _left_behind if not run.has_ended()]
        return len(_left_behind)


class _Run(Executor, Generic[R]):
    """One coroutine on the loop, and the thread that waits for it and does its thread-sensitive work."""

    def __init__(
        self, coroutine: Coroutine[Any, Any, R], loop: asyncio.AbstractEventLoop, interruption: Interruption
    ) -> None:
        self._coroutine = coroutine
        self._loop = loop
        self._interruption = interruption
        self._thread_id = threading.get_ident()
        # A signal may raise anywhere in this thread. This queue is written in C and is never left locked.
        self._work: SimpleQueue[Callable[[], None] | asyncio.Task[R]] = SimpleQueue()
        self._task: asyncio.Task[R] | None = None
        self._over = False
        interruption.waking(partial(self._work.put, _nothing))

    def result(self) -> R:
        try:
            self._loop.call_soon_threadsafe(self._start)  # It takes the context variables along.
            task = self._work_until_done(interruption=self._interruption)
        except BaseException:
            self._stop()
            raise
        finally:
            self._over = True
        try:
            return task.result()
        except asyncio.CancelledError as error:
            # Where this thread serves an event loop, it would mean that the caller was canceled.
            raise RuntimeError(
                f"{_name(self._coroutine)}() ended as canceled, by code of its own."
            ) from error

    def submit(self, fn: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Future[Any]:
        """Have the waiting thread call this; asgiref's side of the matter."""
        if self._over:
            raise RuntimeError(f"{_name(self._coroutine)}() is over; nothing can be done in its thread now.")
        if threading.get_ident() == self._thread_id:
            raise RuntimeError(
                f"The thread that waits for {_name(self._coroutine)}() cannot wait for itself: in functions "
                "called with sync_to_async(), use async_to_sync() instead of asyncio.run()."
            )
        # asyncio takes a future of its own as well. That has no lock, which a signal could leave locked.
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._work.put(partial(_do, future, partial(fn, *args, **kwargs)))
        return cast("Future[Any]", future)

    def has_ended(self) -> bool:
        return self._task is not None and self._task.done()

    def _work_until_done(
        self, patience_seconds: float = threading.TIMEOUT_MAX, interruption: Interruption | None = None
    ) -> asyncio.Task[R]:
        """Do what is submitted until the coroutine ended; return its task; `Empty` when out of patience."""
        deadline = time.monotonic() + patience_seconds
        while (remaining := deadline - time.monotonic()) > 0:
            if interruption:
                interruption.raise_what_is_due()
                remaining = min(remaining, interruption.seconds_left())
            try:
                item = self._work.get(timeout=min(remaining, LISTEN_EVERY_SECONDS))
            except Empty:
                continue
            if isinstance(item, asyncio.Task):
                return item
            item()
        raise Empty

    def _stop(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._cancel)
            task = self._work_until_done(GRACE_SECONDS)
        except BaseException as reason:
            logger.error("%s() could not be stopped; it is left behind.", _name(self._coroutine))
            _abandon(self)
            SyncToAsync.threadlocal.main_event_loop = None  # Else async_to_sync() goes on using it here.
            if not isinstance(reason, Empty):  # Interrupted again.
                raise
        else:
            if not task.cancelled() and (error := task.exception()):
                logger.warning("%s() raised when it was canceled.", _name(self._coroutine), exc_info=error)

    def _start(self) -> asyncio.Task[R]:
        self._task = self._loop.create_task(self._run())
        self._task.add_done_callback(lambda _: self._coroutine.close())  # If canceled before its first step.
        self._task.add_done_callback(self._work.put)
        return self._task

    async def _run(self) -> R:
        async with ThreadSensitiveContext(executor=self):
            # By this asgiref brings along its Locals, such as the active language and time zone.
            await sync_to_async(_nothing)()
            return await self._coroutine

    def _cancel(self) -> None:
        task = self._task or self._start()  # It may be interrupted before it was started.
        task.cancel()
        task.add_done_callback(self._work.put)  # Again: it may have struck while that was received.


def _do(future: asyncio.Future[Any], function: Callable[[], Any]) -> None:
    if future.cancelled():
        return
    tell = future.get_loop().call_soon_threadsafe
    try:
        result = function()
    except BaseException as error:  # noqa: BLE001 - It is raised where the coroutine awaits it.
        tell(_settle, future, future.set_exception, error)
    else:
        tell(_settle, future, future.set_result, result)


def _settle(future: asyncio.Future[Any], settle: Callable[[Any], None], value: Any) -> None:
    if not future.cancelled():
        settle(value)


def _nothing() -> None:
    pass


def _name(coroutine: Coroutine[Any, Any, Any]) -> str:
    return getattr(coroutine, "__qualname__", type(coroutine).__name__)


_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_left_behind: list[_Run[Any]] = []


def _running_loop() -> asyncio.AbstractEventLoop:
    global _loop
    with _lock:
        if _loop is None:
            loop = asyncio.new_event_loop()
            threading.Thread(target=_keep_running, args=[loop], name="django-jobs-loop", daemon=True).start()
            _loop = loop
        return _loop


def _keep_running(loop: asyncio.AbstractEventLoop) -> None:
    while True:
        # asyncio also raises these here when a task raises them; they are for whoever awaits that.
        with suppress(SystemExit, KeyboardInterrupt):
            loop.run_forever()


def _abandon(run: _Run[Any]) -> None:
    global _loop
    with _lock:
        _left_behind.append(run)
        if _loop is run._loop:
            _loop = None


def _forget_loop() -> None:
    # Threads do not survive a fork, locks do as they were. The loop must not be closed here: it shares its
    # selector with the parent's.
    global _lock, _loop, _left_behind
    _lock, _loop, _left_behind = threading.Lock(), None, []


os.register_at_fork(after_in_child=_forget_loop)


@atexit.register
def _wind_up() -> None:
    if _loop:
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(_end_everything(), _loop).result(EXIT_SECONDS)


async def _end_everything() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    await asyncio.get_running_loop().shutdown_asyncgens()
