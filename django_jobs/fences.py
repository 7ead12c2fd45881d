"""Ends the work of a worker before others may count it as lost.

A worker that is cut off or paused for longer than its lease loses what it runs to the next attempt, so its
own must have ended by then.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .conf import settings
from .processes import SharedMoment, boot_clock, kill_this_group

LOOK_EVERY_SECONDS = 0.25

logger = logging.getLogger(__name__)


class Fence:
    """Open until a moment that the worker puts off with each sign of life; seen by the children it forks.

    One that nobody has put off yet is open.
    """

    def __init__(self) -> None:
        self._closes = SharedMoment(boot_clock)

    def put_off(self, sent_at: float) -> None:
        """A sign of life sent at this moment of `boot_clock` arrived.

        A fence that has closed must not open before the children that were behind it have ended.
        """
        lease = settings.LEASE_SECONDS
        # The later one counts: what was sent earlier, by another way, may arrive after it.
        self._closes.set(max(self._closes.get(), sent_at + lease - max(lease / 15, 2 * LOOK_EVERY_SECONDS)))

    def has_closed(self) -> bool:
        return self._closes.seconds_over() > 0

    @contextmanager
    def guarding(self) -> Iterator[None]:
        """Kill this process and its group when the fence closes within this block, whatever it is doing."""
        left = threading.Event()
        looking = threading.Thread(target=self._look, args=[left], name="django-jobs-fence", daemon=True)
        if self.has_closed():
            self._end()
        looking.start()
        try:
            yield
        finally:
            left.set()

    def _look(self, left: threading.Event) -> None:
        while not left.wait(LOOK_EVERY_SECONDS):
            if self.has_closed():
                self._end()

    def _end(self) -> None:
        logger.error(
            "For almost its lease of %g s the worker reached neither the database nor Redis; this job ends.",
            settings.LEASE_SECONDS,
        )
        kill_this_group()
