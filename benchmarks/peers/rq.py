"""RQ, with the worker class that WORKER_CLASS names. Results are kept for 500 s, as is its default."""

import os

from redis import Redis
from rq import Queue
from rq.registry import FinishedJobRegistry

from benchmarks import work

FUNCTIONS = {"noop": "noop", "cpu": "burn", "sleep": "rest", "async sleep": "rest_async"}

redis = Redis.from_url(os.environ["REDIS_URL"])
queue = Queue("benchmark", connection=redis)
done = FinishedJobRegistry(queue=queue)


def worker(processes: int) -> list[list[str]]:
    options = ["--url", os.environ["REDIS_URL"], "--quiet", "--worker-class", os.environ["WORKER_CLASS"]]
    return [["-m", "rq.cli", "worker", *options, queue.name]] * processes


def enqueue(name: str, *args: object) -> None:
    queue.enqueue(getattr(work, name), *args)


def enqueue_many(name: str, count: int) -> None:
    queue.enqueue_many([Queue.prepare_data(getattr(work, name)) for _ in range(count)])


def waiting() -> int:
    return redis.llen(queue.key)


def finished() -> int:
    return redis.zcard(done.key)
