"""Ends the work of a worker before others may count it as lost.

A worker that is cut off or paused for longer than its lease loses what it runs to the next attempt, so its
own must have ended by then.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .conf import settings
from .processes import SharedMoment, boot_clock, kill_this_group

LOOK_EVERY_SECONDS = 0.25

logger = logging.getLogger(__name__)


def grace_seconds() -> float:
    """How long what runs behind a closed fence may go on. After a sleep of the whole machine the worker may
    find in that time that nobody has taken it for lost, and open the fence again."""
    return min(0.75, settings.LEASE_SECONDS / 10)


class Fence:
    """Open until a moment that the worker puts off with each sign of life; seen by the children it forks.

    One that nobody has put off yet is open.
    """

    def __init__(self, closes: SharedMoment | None = None) -> None:
        self._closes = closes or SharedMoment(boot_clock)
        self._guards = SharedMoment(boot_clock)  # Since when a function runs behind it.

    def put_off(self, sent_at: float) -> None:
        """A sign of life sent at this moment of `boot_clock` arrived.

        A fence that has closed must not open for what others may have taken for lost.
        """
        lease = settings.LEASE_SECONDS
        margin = max(lease / 15, LOOK_EVERY_SECONDS + grace_seconds())
        # The later one counts: what was sent earlier, by another way, may arrive after it.
        self._closes.set(max(self._closes.get(), sent_at + lease - margin))

    def has_closed(self) -> bool:
        return self._closes.seconds_over() > 0

    def guards(self) -> bool:
        """True while a block of `guarding` runs, or has been cut."""
        return bool(self._guards.get())

    def forget_guarded(self) -> None:
        """To be called before a fork: what ran is over, however it ended."""
        self._guards.clear()

    @contextmanager
    def guarding(self) -> Iterator[None]:
        """Kill this process and its group when the fence closes within this block and stays so, whatever the
        block is doing."""
        left = threading.Event()
        looking = threading.Thread(target=self._look, args=[left], name="django-jobs-fence", daemon=True)
        if self.has_closed():
            self._end_unless_opened(left)
        looking.start()
        self._guards.set_in(0)
        try:
            yield
        finally:
            self._guards.clear()
            left.set()

    def watch(self, runs: Callable[[], bool]) -> None:
        """Look for ever, in a thread of a process that runs one function after another, and kill the process
        and its group when the fence has closed while one `runs`, and stays so."""
        never = threading.Event()
        while True:
            time.sleep(LOOK_EVERY_SECONDS)
            if self.has_closed() and runs():
                self._end_unless_opened(never, runs)

    def wait_until_open(self) -> None:
        """What is about to begin waits: its worker may find that nobody has taken it meanwhile."""
        while self.has_closed():
            time.sleep(0.02)

    def _look(self, left: threading.Event) -> None:
        while not left.wait(LOOK_EVERY_SECONDS):
            if self.has_closed():
                self._end_unless_opened(left)

    def _end_unless_opened(self, left: threading.Event, runs: Callable[[], bool] = lambda: True) -> None:
        deadline = time.monotonic() + grace_seconds()
        while self.has_closed() and runs():
            if time.monotonic() > deadline:
                self._end()
            if left.wait(0.02):
                return

    def _end(self) -> None:
        threading.Timer(0.2, kill_this_group).start()  # Should the log hang.
        logger.error(
            "For almost its lease of %g s the worker reached neither the database nor Redis; this job ends.",
            settings.LEASE_SECONDS,
        )
        kill_this_group()
