"""Huey with process workers and results in Redis."""

import os

from huey import RedisHuey

from benchmarks import work

FUNCTIONS = {"noop": "noop", "cpu": "burn", "sleep": "rest"}

huey = RedisHuey("benchmark", url=os.environ["REDIS_URL"], store_none=True)
tasks = {name: huey.task()(getattr(work, name)) for name in (*FUNCTIONS.values(), "stamp")}


def worker(processes: int) -> list[list[str]]:
    options = ["--worker-type=process", f"--workers={processes}", "--quiet"]
    return [["-m", "huey.bin.huey_consumer", f"{__name__}.huey", *options]]


def enqueue(name: str, *args: object) -> None:
    tasks[name](*args)


def waiting() -> int:
    return huey.storage.queue_size()


def finished() -> int:
    return huey.storage.result_store_size()
