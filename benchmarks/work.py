"""What the measured jobs do, the same for every contestant."""

import asyncio
import time


def noop() -> None:
    pass


async def noop_async() -> None:
    """For contestants whose natural task is a coroutine."""


def burn() -> None:
    """Use one millisecond of a processor."""
    until = time.thread_time() + 0.001
    while time.thread_time() < until:
        pass


def rest() -> None:
    time.sleep(0.01)


async def rest_async() -> None:
    await asyncio.sleep(0.01)


def stamp(path: str, sent: float) -> None:
    """Add to a file how many seconds ago this job was sent."""
    waited = time.time() - sent
    with open(path, "a") as file:
        file.write(f"{waited:.6f}\n")
