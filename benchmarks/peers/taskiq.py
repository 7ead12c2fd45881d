"""Taskiq with the broker that BROKER names, a class of taskiq_redis, and results in Redis."""

import asyncio
import os

import taskiq_redis
from redis import Redis

from benchmarks import work

FUNCTIONS = {"noop": "noop_async", "cpu": "burn", "sleep": "rest", "async sleep": "rest_async"}

redis = Redis.from_url(os.environ["REDIS_URL"])
results = taskiq_redis.RedisAsyncResultBackend(os.environ["REDIS_URL"])
broker = getattr(taskiq_redis, os.environ["BROKER"])(os.environ["REDIS_URL"]).with_result_backend(results)
tasks = {
    name: broker.task(task_name=name)(getattr(work, name)) for name in {*FUNCTIONS.values(), "stamp", "noop"}
}
loop = asyncio.new_event_loop()
started = False


def worker(processes: int) -> list[list[str]]:
    options = ["--workers", str(processes), "--log-level", "WARNING"]
    return [["-m", "taskiq", "worker", f"{__name__}:broker", *options]]


def enqueue(name: str, *args: object) -> None:
    _start()
    loop.run_until_complete(tasks[name].kiq(*args))


def waiting() -> int:
    _start()
    if redis.type(broker.queue_name) == b"stream":
        groups = redis.xinfo_groups(broker.queue_name)
        return sum((group["lag"] or 0) + group["pending"] for group in groups)
    return redis.llen(broker.queue_name)


def finished() -> int:
    return redis.dbsize() - redis.exists(broker.queue_name)


def _start() -> None:
    """Connect, and make the group of a stream, which gets what is sent from then on."""
    global started
    if not started:
        started = True
        loop.run_until_complete(broker.startup())
