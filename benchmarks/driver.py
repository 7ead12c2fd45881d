"""Enqueues for one contestant and watches its jobs end, in that contestant's own environment.

`python -m benchmarks.driver rq` reads `[name, *arguments]` as JSON, a line each, calls that function of this
module and writes what it returned, until its input ends. The module `benchmarks.peers.rq` it drives has:

    worker(processes)           the arguments for Python of the commands that start so many worker processes
    enqueue(function, *args)    enqueue a function of `benchmarks.work`, told by its name
    enqueue_many(name, count)   where the contestant has a call for it: many without arguments, in few trips
    waiting()                   how many jobs no worker has taken yet; asked often, so it must cost little
    finished()                  how many are done and, where results are kept, recorded
    FUNCTIONS                   {kind of work: name of its function}

and perhaps `prepare()`, which makes its tables, and `faults(total)`, which looks at every job's record.
"""

import importlib
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.05

peer: Any = None


def prepare() -> None:
    _optional("prepare", lambda: None)()


def kinds() -> list[str]:
    return list(peer.FUNCTIONS)


def command(processes: int) -> list[list[str]]:
    return peer.worker(processes)


def faults(total: int) -> list[str]:
    return _optional("faults", lambda total: [])(total)


def enqueue_for(seconds: float) -> float:
    """Enqueue jobs one by one for as long; how many a second that were."""
    name = peer.FUNCTIONS["noop"]
    peer.enqueue(name)  # The first one connects.
    began, count = time.monotonic(), 0
    while time.monotonic() < began + seconds:
        peer.enqueue(name)
        count += 1
    return count / (time.monotonic() - began)


def enqueue_in_bulk(count: int) -> float | None:
    """Enqueue so many with the contestant's own call for many; how many a second that were."""
    if not hasattr(peer, "enqueue_many"):
        return None
    began = time.monotonic()
    peer.enqueue_many(peer.FUNCTIONS["noop"], count)
    return count / (time.monotonic() - began)


def fill(kind: str, count: int) -> None:
    """Enqueue so many as fast as it goes."""
    name = peer.FUNCTIONS[kind]
    if hasattr(peer, "enqueue_many"):
        peer.enqueue_many(name, count)
    else:
        for _ in range(count):
            peer.enqueue(name)


def until_waiting(most: int, seconds: float) -> tuple[float, int]:
    """Wait until at most so many wait to be taken; when that was seen, and how many wait then."""
    return _until(peer.waiting, lambda waiting: waiting <= most, seconds)


def until_finished(total: int, seconds: float) -> tuple[float, int]:
    """Wait until all are done; when that was seen, and how many are done then."""
    began = time.monotonic()
    until_waiting(0, seconds)
    return _until(peer.finished, lambda done: done >= total, seconds - (time.monotonic() - began))


def latencies(path: str, count: int, seconds: float) -> list[float]:
    """Of lone jobs on an idle worker: the seconds from the call that enqueues each until it starts.

    One is sent before, which does not count: the first call in a process prepares what later ones use.
    """
    file, deadline = Path(path), time.monotonic() + seconds
    file.write_text("")
    for _ in range(count + 1):
        size = file.stat().st_size
        peer.enqueue("stamp", path, time.time())
        while file.stat().st_size == size:
            if time.monotonic() > deadline:
                return _read(file)
            time.sleep(0.002)
        time.sleep(random.uniform(0.02, 0.06))  # Until it rests again, and in no step with its polls.
    return _read(file)


def _read(file: Path) -> list[float]:
    return [float(line) for line in file.read_text().split()][1:]


def _until(count: Callable[[], int], enough: Callable[[int], bool], seconds: float) -> tuple[float, int]:
    deadline = time.monotonic() + seconds
    while True:
        at = time.monotonic()
        counted = count()
        if enough(counted) or at > deadline:
            return at, counted
        time.sleep(POLL_SECONDS)


def _optional(name: str, default: Callable[..., Any]) -> Callable[..., Any]:
    return getattr(peer, name, default)


def _serve(requests: Iterable[str]) -> None:
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)  # What libraries print is no reply.
        for request in requests:
            name, *arguments = json.loads(request)
            replies.write(json.dumps(globals()[name](*arguments)) + "\n")
            replies.flush()


if __name__ == "__main__":
    peer = importlib.import_module(f"benchmarks.peers.{sys.argv[1]}")
    _serve(sys.stdin)
