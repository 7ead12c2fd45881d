"""Who takes part: ours on each database, and its peers as their documentation sets them up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.servers import Database


@dataclass(frozen=True)
class Contestant:
    """What is measured under one name.

    `app` is its module in `benchmarks.peers`; `packages` are installed in an environment of its own, without
    any it runs in ours; `keeps` says what is left of each job when it has ended.
    """

    name: str
    title: str
    app: str
    keeps: str
    packages: tuple[str, ...] = ()
    database: Database | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        return self.app == "ours"


_OURS = {"DJANGO_SETTINGS_MODULE": "benchmarks.peers.ours_settings"}
_CELERY = ("celery[redis]>=5.5", "django-celery-results>=2.6", "django>=5.2", "psycopg[binary]>=3.2")
_TASKIQ = ("taskiq>=0.12", "taskiq-redis>=1.1")

ALL = (
    Contestant(
        "ours",
        "django_jobs, prefork, PostgreSQL",
        "ours",
        "job, attempt",
        database=Database.POSTGRESQL,
        variables={**_OURS, "ISOLATION": "prefork"},
    ),
    Contestant(
        "ours-fork",
        "django_jobs, fork, PostgreSQL",
        "ours",
        "job, attempt",
        database=Database.POSTGRESQL,
        variables={**_OURS, "ISOLATION": "fork"},
    ),
    Contestant(
        "ours-sqlite",
        "django_jobs, prefork, SQLite",
        "ours",
        "job, attempt",
        database=Database.SQLITE,
        variables={**_OURS, "ISOLATION": "prefork"},
    ),
    Contestant("rq", "RQ Worker", "rq", "result in Redis", variables={"WORKER_CLASS": "rq.Worker"}),
    Contestant(
        "rq-simple",
        "RQ SimpleWorker",
        "rq",
        "result in Redis",
        variables={"WORKER_CLASS": "rq.SimpleWorker"},
    ),
    Contestant(
        "celery",
        "Celery prefork",
        "celery",
        "result in Redis",
        _CELERY,
        variables={"RESULTS": "redis"},
    ),
    Contestant(
        "celery-django",
        "Celery prefork, django-celery-results",
        "celery",
        "result in PostgreSQL",
        _CELERY,
        Database.POSTGRESQL,
        {"RESULTS": "django-db", "DJANGO_SETTINGS_MODULE": "benchmarks.peers.celery_settings"},
    ),
    Contestant(
        "taskiq",
        "Taskiq, ListQueueBroker",
        "taskiq",
        "result in Redis",
        _TASKIQ,
        variables={"BROKER": "ListQueueBroker"},
    ),
    Contestant(
        "taskiq-stream",
        "Taskiq, RedisStreamBroker",
        "taskiq",
        "result in Redis",
        _TASKIQ,
        variables={"BROKER": "RedisStreamBroker"},
    ),
    Contestant("dramatiq", "Dramatiq", "dramatiq", "result in Redis", ("dramatiq[redis]>=2",)),
    Contestant("huey", "Huey, process workers", "huey", "result in Redis", ("huey>=3", "redis>=6")),
    Contestant(
        "django-tasks-db",
        "django-tasks-db",
        "django_tasks_db",
        "job in PostgreSQL",
        ("django-tasks-db>=0.13", "django>=6.0", "psycopg[binary]>=3.2"),
        Database.POSTGRESQL,
        {"DJANGO_SETTINGS_MODULE": "benchmarks.peers.django_tasks_db_settings"},
    ),
    Contestant(
        "django-vtasks",
        "django-vtasks, Valkey",
        "django_vtasks",
        "nothing",
        ("django-vtasks[valkey]>=3.2", "psycopg[binary]>=3.2", "redis>=6"),
        Database.POSTGRESQL,  # Its settings need one; jobs on Valkey do not use it.
        {"DJANGO_SETTINGS_MODULE": "benchmarks.peers.django_vtasks_settings"},
    ),
)


def chosen(names: Sequence[str]) -> list[Contestant]:
    """Those of these names, with their variants ("rq" is also "rq-simple"), and ours; all if none is named.

    Raises `ValueError` for a name that nobody has.
    """
    known = {contestant.name for contestant in ALL}
    for name in names:
        if not any(each == name or each.startswith(f"{name}-") for each in known):
            raise ValueError(f"There is no {name!r}; there are {', '.join(sorted(known))}.")
    if not names:
        return list(ALL)
    return [
        each
        for each in ALL
        if each.name == "ours" or any(f"{each.name}-".startswith(f"{name}-") for name in names)
    ]
