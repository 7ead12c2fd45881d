"""System checks: what would make django_jobs fail later is said at start. None reaches for the network."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Warning, register  # noqa: A004
from django.db import connections, router

from .conf import settings
from .engines import all_engines

ERRORS = {
    "E001": "django_rq stands before django_jobs in INSTALLED_APPS.",
    "E002": "The jobs' database is {vendor}; django_jobs supports PostgreSQL and SQLite.",
    "E003": "USE_TZ is False.",
    "E004": "DJANGO_JOBS has the unknown key {key!r}.",
    "E005": "DJANGO_JOBS is {value!r}.",
    "E006": "DJANGO_JOBS[{key!r}] is {value!r}.",
    "E007": "{problem}",
    "W001": "RQ_QUEUES declares no queue.",
}


@register()
def check_apps(**kwargs: Any) -> Iterable[CheckMessage]:
    names = [config.name for config in apps.get_app_configs()]
    if "django_rq" in names and names.index("django_rq") < names.index("django_jobs"):
        yield _message("E001", 'Put "django_jobs" before "django_rq": its rqworker extends django-rq\'s.')


@register()
def check_database(**kwargs: Any) -> Iterable[CheckMessage]:
    from .models import Job

    vendor = connections[router.db_for_write(Job)].vendor
    if vendor not in {"postgresql", "sqlite"}:
        yield _message("E002", "Route the app django_jobs to such a database.", vendor=vendor)
    if not django_settings.USE_TZ:
        yield _message(
            "E003", "Set USE_TZ = True: times of jobs are moments, compared by the database's clock."
        )


@register()
def check_settings(**kwargs: Any) -> Iterable[CheckMessage]:
    given = settings.given()
    if not isinstance(given, dict):
        yield _message("E005", "Give a dictionary of settings.", value=given)
        given = {}
    for key in given:
        if key not in settings.known_keys():
            guess = get_close_matches(str(key), settings.known_keys(), n=1)
            hint = (
                f'Did you mean "{guess[0]}"?' if guess else f"Known are: {', '.join(settings.known_keys())}."
            )
            yield _message("E004", hint, key=key)
    allowed = given.get("ALLOWED_TASKS", [])
    if not isinstance(allowed, list | tuple | set) or not all(isinstance(path, str) for path in allowed):
        yield _message("E006", "Give a list of dotted paths.", key="ALLOWED_TASKS", value=allowed)
    lease = given.get("LEASE_SECONDS", 15)
    if isinstance(lease, bool) or not isinstance(lease, int | float) or not 1 <= lease < float("inf"):
        yield _message("E006", "Give a number of seconds, at least 1.", key="LEASE_SECONDS", value=lease)
    if not getattr(django_settings, "RQ_QUEUES", None):
        yield _message("W001", 'Add one: RQ_QUEUES = {"default": {"URL": "redis://localhost:6379/0"}}.')


@register()
def check_queues(**kwargs: Any) -> Iterable[CheckMessage]:
    for engine in all_engines():
        for problem in engine.configuration_errors():
            hint = 'Give what django-rq takes, such as {"URL": "redis://host:6379/0"}.'
            yield _message("E007", hint, problem=problem)


def _message(code: str, hint: str, **values: Any) -> CheckMessage:
    kind = Error if code.startswith("E") else Warning
    return kind(ERRORS[code].format(**values), hint=hint, id=f"django_jobs.{code}")
