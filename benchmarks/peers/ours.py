"""django_jobs, with the isolation that ISOLATION names."""

import os

import django

django.setup()

import redis  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db.models import F  # noqa: E402

from benchmarks import work  # noqa: E402
from django_jobs import enqueue_many as enqueue_calls  # noqa: E402
from django_jobs import relay, task  # noqa: E402
from django_jobs.models import Attempt, Job, JobEvent  # noqa: E402

FUNCTIONS = {"noop": "noop", "cpu": "burn", "sleep": "rest", "async sleep": "rest_async"}
QUEUE = "file_processing"
ASYNC_CONCURRENCY = 100  # As many as Taskiq awaits by default.

# A long queue can keep the server busy for seconds, which is to be measured.
server = redis.Redis.from_url(os.environ["REDIS_URL"], socket_timeout=60)


@task(queue=QUEUE)
def noop() -> None:
    work.noop()


@task(queue=QUEUE)
def burn() -> None:
    work.burn()


@task(queue=QUEUE)
def rest() -> None:
    work.rest()


@task(queue=QUEUE)
async def rest_async() -> None:
    await work.rest_async()


@task(queue=QUEUE)
def stamp(path: str, sent: float) -> None:
    work.stamp(path, sent)


def prepare() -> None:
    call_command("migrate", verbosity=0)


def worker(processes: int) -> list[list[str]]:
    command = ["-m", "django", "rqworker", QUEUE, "-v0", f"--isolation={os.environ['ISOLATION']}"]
    if os.environ["ISOLATION"] == "fork":  # One job at a time.
        return [command] * processes
    return [[*command, f"--processes={processes}", f"--async-concurrency={ASYNC_CONCURRENCY}"]]


def enqueue(name: str, *args: object) -> None:
    globals()[name].enqueue(*args)


def enqueue_many(name: str, count: int) -> None:
    """Until the last one is pushed: with many, the relay does that after the commit."""
    enqueue_calls(globals()[name].call() for _ in range(count))
    while relay.run_once() >= relay.BATCH:
        pass


def waiting() -> int:
    return server.llen(f"rq:queue:{QUEUE}")


def finished() -> int:
    return Job.objects.finished().count()


def faults(total: int) -> list[str]:
    """What is wrong with the rows if each of so many jobs has run once."""
    counted = {
        "jobs": (Job.objects.count(), total),
        "jobs that are not finished": (Job.objects.exclude(status="finished").count(), 0),
        "jobs with more than one attempt": (Job.objects.exclude(attempt=1).count(), 0),
        "attempts": (Attempt.objects.count(), total),
        "jobs with an attempt": (Attempt.objects.values("job").distinct().count(), total),
        "attempts that are not finished": (Attempt.objects.exclude(outcome="finished").count(), 0),
        "attempts of another claim": (Attempt.objects.exclude(claim_id=F("job__claim_id")).count(), 0),
        "events": (JobEvent.objects.count(), 0),
    }
    return [f"{found} {what}, not {right}" for what, (found, right) in counted.items() if found != right]
