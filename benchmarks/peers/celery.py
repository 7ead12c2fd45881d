"""Celery with its prefork pool; results go where RESULTS says, "redis" or "django-db"."""

import os

import django
from celery import Celery
from redis import Redis

from benchmarks import work

FUNCTIONS = {"noop": "noop", "cpu": "burn", "sleep": "rest"}
KEEPS_IN_REDIS = os.environ["RESULTS"] == "redis"

if not KEEPS_IN_REDIS:
    django.setup()

redis = Redis.from_url(os.environ["REDIS_URL"])
app = Celery("benchmark", broker=os.environ["REDIS_URL"])
app.conf.result_backend = os.environ["REDIS_URL"] if KEEPS_IN_REDIS else "django-db"
tasks = {name: app.task(getattr(work, name)) for name in (*FUNCTIONS.values(), "stamp")}


def prepare() -> None:
    if not KEEPS_IN_REDIS:
        from django.core.management import call_command

        call_command("migrate", verbosity=0)


def worker(processes: int) -> list[list[str]]:
    options = ["--pool=prefork", f"--concurrency={processes}", "--loglevel=WARNING"]
    return [["-m", "celery", "-A", __name__, "worker", *options]]


def enqueue(name: str, *args: object) -> None:
    tasks[name].delay(*args)


def waiting() -> int:
    return redis.llen("celery") + redis.hlen("unacked")


def finished() -> int:
    if KEEPS_IN_REDIS:
        return sum(1 for _ in redis.scan_iter("celery-task-meta-*", count=10_000))
    from django_celery_results.models import TaskResult

    return TaskResult.objects.filter(status="SUCCESS").count()
