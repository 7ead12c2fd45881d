"""Checks of the database: reached, migrated, and of one mind with the servers about who and when it is."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

from django.db import Error, connections, router
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.db.models.functions import Now
from django.utils import timezone

from ..engines.base import ServerFacts
from ..models import Installation, Job
from .findings import Finding, error, ok, some, span, told, warning
from .servers import MOST_SKEW_SECONDS


def reached() -> Iterator[Finding]:
    """One finding: an error if there is no sense in asking the database anything more."""
    alias = router.db_for_write(Job)
    connection = connections[alias]
    told_of = connection.settings_dict
    file = str(told_of["NAME"])
    host = f" at {told_of['HOST']}:{told_of['PORT']}" if told_of["HOST"] else ""
    name = f'The database "{alias}" ({connection.vendor}, {file}{host})'
    migrate = f"python manage.py migrate{'' if alias == 'default' else f' --database {alias}'}"
    if connection.vendor == "sqlite" and ":" not in file and not Path(file).exists():
        # Connecting would make one.
        yield error("database", f"{name} does not exist. Workers wait until it does.", migrate)
        return
    try:
        connection.ensure_connection()
    except Error as problem:
        yield error(
            "database",
            f"{name} is not reached: {told(problem)}. Nothing starts; what runs goes on and reports later.",
            f'Start it, or correct DATABASES["{alias}"].',
        )
        return
    loader = MigrationLoader(connection)
    known = [key for key in loader.graph.nodes if key[0] == "django_jobs"]
    applied = {key for key in loader.applied_migrations if key[0] == "django_jobs"}
    if missing := sorted(migration for _, migration in set(known) - applied):
        yield error(
            "database",
            f"{name} is not migrated: django_jobs misses {some(missing)}. Workers wait until it is.",
            migrate,
        )
    elif known and (newer := sorted(migration for _, migration in applied - set(loader.disk_migrations))):
        yield warning(
            "database",
            f"{name} is migrated further than this code knows: {some(newer)}.",
            "Deploy the version of django_jobs that the others run; this process has an older one.",
        )
    else:
        yield ok("database", f"{name} is reached and migrated.")


def clock() -> datetime:
    """The database's time now, by which all times of jobs are told."""
    rows = MigrationRecorder.Migration.objects.using(router.db_for_write(Job))
    now: datetime | None = rows.annotate(now=Now()).values_list("now", flat=True).first()
    return now or timezone.now()


def skew(now: datetime) -> Iterator[Finding]:
    """How far this host's clock is off. `now` has just been asked for."""
    ahead = now - timezone.now()
    if abs(ahead) > timedelta(seconds=MOST_SKEW_SECONDS):
        side = "ahead of" if ahead > timedelta(0) else "behind"
        yield warning(
            "clock",
            f"The database's clock is {span(abs(ahead))} {side} this host's. Jobs are timed by the "
            "database's, but a time given with at= is one of this host.",
            "Set both by NTP: timedatectl set-ntp true",
        )
    else:
        yield ok("clock", "The database's clock and this host's agree.")


def installation(servers: Iterable[ServerFacts]) -> Iterator[Finding]:
    """Whether all processes and projects on the servers keep apart what they should."""
    own = Installation.objects.first()
    if own is None:
        return  # Nothing was ever enqueued.
    for facts in servers:
        if own.namespace and facts.namespace and own.namespace != facts.namespace:
            yield error(
                "namespace",
                f'Here the keys in Redis begin with "{facts.namespace}", for the last worker that started '
                f'they began with "{own.namespace}": they do not see each other\'s deliveries.',
                f'Give all processes the same environment variable: RQ_KEY_PREFIX="{own.namespace}"',
            )
        for queue, told_of in facts.queues.items():
            foreign = {name: count for name, count in told_of.installations.items() if name != str(own.pk)}
            if foreign:
                yield error(
                    "foreign",
                    f'On queue "{queue}" of {facts.address} there are deliveries of another project: '
                    f"{sum(foreign.values())} of installation {some(foreign)}; this one is {own.pk}.",
                    "Give each project a Redis database of its own (the number at the end of the URL), or an "
                    "environment variable RQ_KEY_PREFIX of its own.",
                )
