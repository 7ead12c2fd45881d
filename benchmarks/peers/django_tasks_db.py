"""django-tasks-db, which keeps jobs and results in the database and needs no Redis."""

import django

django.setup()

from django.core.management import call_command  # noqa: E402
from django.tasks import task  # noqa: E402
from django_tasks_db.models import DBTaskResult  # noqa: E402

from benchmarks import work  # noqa: E402

FUNCTIONS = {"noop": "noop", "cpu": "burn", "sleep": "rest", "async sleep": "rest_async"}


@task
def noop() -> None:
    work.noop()


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


def prepare() -> None:
    call_command("migrate", verbosity=0)


def worker(processes: int) -> list[list[str]]:
    return [["-m", "django", "db_worker", "--no-startup-delay", "-v0"]] * processes


def enqueue(name: str, *args: object) -> None:
    globals()[name].enqueue(*args)


def waiting() -> int:
    return DBTaskResult.objects.filter(status="READY").count()


def finished() -> int:
    return DBTaskResult.objects.filter(status="SUCCESSFUL").count()
