"""django-vtasks on Valkey."""

import os

import django

django.setup()

from django.tasks import default_task_backend  # noqa: E402
from django_vtasks import task  # noqa: E402
from redis import Redis  # noqa: E402

from benchmarks import work  # noqa: E402

FUNCTIONS = {"noop": "noop_async", "cpu": "burn", "sleep": "rest", "async sleep": "rest_async"}

redis = Redis.from_url(os.environ["REDIS_URL"])
sent = 0


@task
async def noop_async() -> None:
    await work.noop_async()


@task
def burn() -> None:
    work.burn()


@task
def rest() -> None:
    work.rest()


@task
async def rest_async() -> None:
    await work.rest_async()


@task
def stamp(path: str, sent: float) -> None:
    work.stamp(path, sent)


def worker(processes: int) -> list[list[str]]:
    return [["-m", "django", "runworker"]] * processes


def enqueue(name: str, *args: object) -> None:
    global sent
    sent += 1
    globals()[name].enqueue(*args)


def enqueue_many(name: str, count: int) -> None:
    global sent
    sent += count
    default_task_backend.enqueue_many([(globals()[name], (), {})] * count)


def waiting() -> int:
    return redis.llen("{vt}:q:default")


def finished() -> int:
    running = redis.keys("{vt}:processing:*")
    return sent - waiting() - sum(map(redis.llen, running))
