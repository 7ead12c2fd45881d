"""Dramatiq with results in Redis."""

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware.asyncio import AsyncIO
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from redis import Redis

from benchmarks import work

FUNCTIONS = {"noop": "noop", "cpu": "burn", "sleep": "rest", "async sleep": "rest_async"}

redis = Redis.from_url(os.environ["REDIS_URL"])
broker = RedisBroker(url=os.environ["REDIS_URL"])
broker.add_middleware(AsyncIO())
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["REDIS_URL"]), store_results=True))
dramatiq.set_broker(broker)
actors = {name: dramatiq.actor(getattr(work, name)) for name in (*FUNCTIONS.values(), "stamp")}
sent = 0


def worker(processes: int) -> list[list[str]]:
    return [["-m", "dramatiq", __name__, "--processes", str(processes)]]


def enqueue(name: str, *args: object) -> None:
    global sent
    sent += 1
    actors[name].send(*args)


def waiting() -> int:
    return redis.llen("dramatiq:default")


def finished() -> int:
    return sent - redis.hlen("dramatiq:default.msgs")
