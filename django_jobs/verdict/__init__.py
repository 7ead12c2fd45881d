"""Is it all right? One word for the whole, with the reasons, at a bounded cost.

`stalled`: something should run, and nothing does. `degraded`: it runs, but something is wrong. A reason of
the level `ok` is worth knowing and nothing wrong: somebody paused a queue.
"""

import time

from .judging import Reason, TroubledQueue, Verdict, capped, judge, percentage, quoted
from .looking import MOST_TOLD, PATIENCE, Found, look

__all__ = [
    "MOST_TOLD",
    "PATIENCE",
    "Reason",
    "TroubledQueue",
    "Verdict",
    "capped",
    "examine",
    "lately",
    "percentage",
    "quoted",
]

KEPT_SECONDS = 1

_kept: tuple[float, Found] | None = None


def examine() -> Verdict:
    """Look at the database and at the servers, and judge.

    At most 8 statements, and one question to each server of at most a second; to one that did not answer,
    none for a few seconds. Changes nothing.
    """
    return judge(look())


def lately() -> Verdict:
    """`examine()`, of what this process found within the last second: it stands on every page."""
    global _kept
    if _kept is None or time.monotonic() - _kept[0] > KEPT_SECONDS:
        _kept = time.monotonic(), look()
    return judge(_kept[1])
