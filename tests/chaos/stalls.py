"""Writes down when a processor stood still, bound to it: `python -m tests.chaos.stalls FILE PROCESSOR`.

Virtual machines stand still when their host does other things; often only one of their processors does, and
with it whatever runs there just then.
"""

import os
import sys
import time
from pathlib import Path

from .effects import now
from .evidence import Pause

TICK_SECONDS = 0.05
SHORTEST_SECONDS = 0.5


def read(path: Path) -> list[Pause]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [Pause(*map(float, line.split())) for line in lines]


def watch(path: str, processor: int) -> None:
    """Until the process that started this one is gone."""
    os.sched_setaffinity(0, {processor})
    parent, at = os.getppid(), now()
    with open(path, "a", buffering=1) as file:
        while os.getppid() == parent:
            time.sleep(TICK_SECONDS)
            before, at = at, now()
            if at - before > SHORTEST_SECONDS:
                file.write(f"{before:.3f} {at:.3f}\n")


if __name__ == "__main__":
    watch(sys.argv[1], int(sys.argv[2]))
