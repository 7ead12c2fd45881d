"""Tiny tasks with telling names."""

import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

from django_jobs import Retry, progress, task

logger = logging.getLogger(__name__)


def undeclared(number: int) -> int:
    return number


@task(queue="file_processing")
def add(left: int, right: int = 0) -> int:
    return left + right


@task(queue="file_processing")
def echo(*args: Any, **kwargs: Any) -> list[Any]:
    return [args, kwargs]


@task(queue="file_processing")
def fail(message: str = "broken") -> None:
    raise ValueError(message)


@task(queue="file_processing", retry=Retry(max=2, interval=0))
def fail_until(path: str, successes_from: int) -> int:
    """Fail until it is called for the `successes_from`th time; calls are counted in the file `path`."""
    calls = record(path, "called")
    if calls < successes_from:
        raise ValueError(f"call {calls}")
    return calls


@task(queue="file_processing")
def tell(path: str) -> None:
    """Log and report progress, then wait until the file `path` exists."""
    progress.declare("reading", "writing")
    logger.info("reading begins")
    progress.update(100, stage="reading")
    progress.update(50, stage="writing", message="half")
    while not Path(path).exists():
        time.sleep(0.02)


@task(queue="file_processing")
def hold(path: str, release: str) -> str:
    """Record the start in the file `path`, wait until the file `release` exists, record the end."""
    record(path, "started")
    while not Path(release).exists():
        time.sleep(0.02)
    record(path, "ended")
    return "released"


@task(queue="file_processing", idempotent=True)
def hold_idempotent(path: str, release: str) -> str:
    return hold(path, release)


@task(queue="file_processing")
def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@task(queue="file_processing", timeout=1)
def outlast_its_time() -> None:
    while True:
        time.sleep(0.02)


@task(queue="file_processing")
def return_a_set() -> set[int]:
    return {1}


def record(path: str, line: str) -> int:
    """Append a line to a file that no store knows, and count its lines."""
    with Path(path).open("a+") as file:
        file.write(f"{line}\n")
        file.flush()
        file.seek(0)
        return len(file.readlines())
