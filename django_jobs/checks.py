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
from .environment import DefaultQueues
from .values import did_you_mean

# A problem that can also show itself later has one wording, which stands where it would be raised.
ERRORS = {
    "E001": "django_rq stands before django_jobs in INSTALLED_APPS.",
    "E002": "The jobs' database is {vendor}; django_jobs supports PostgreSQL and SQLite.",
    "E003": "USE_TZ is False.",
    "E004": "DJANGO_JOBS has the unknown key {key!r}.",
    "E005": "{problem}",
    "E006": "{problem}",
    "E007": "{problem}",
    "E008": "{problem}",
    "W001": "RQ_QUEUES declares no queue.",
    "W002": 'DJANGO_JOBS["QUEUES"] is ignored: the project declares RQ_QUEUES.',
    "W003": "The jobs' database is SQLite and begins transactions without the lock that writing takes.",
    "W004": 'DJANGO_JOBS["QUEUE_LIMITS"] names the queue "{name}", which does not exist.',
}


@register()
def check_apps(**kwargs: Any) -> Iterable[CheckMessage]:
    names = [config.name for config in apps.get_app_configs()]
    if "django_rq" in names and names.index("django_rq") < names.index("django_jobs"):
        yield _message("E001", 'Put "django_jobs" before "django_rq": its rqworker extends django-rq\'s.')


@register()
def check_database(**kwargs: Any) -> Iterable[CheckMessage]:
    from .models import Job

    connection = connections[router.db_for_write(Job)]
    vendor = connection.vendor
    if vendor not in {"postgresql", "sqlite"}:
        yield _message("E002", "Route the app django_jobs to such a database.", vendor=vendor)
    options = connection.settings_dict.get("OPTIONS", {})
    if vendor == "sqlite" and str(options.get("transaction_mode")).upper() not in {"IMMEDIATE", "EXCLUSIVE"}:
        yield _message(
            "W003",
            'Set "OPTIONS": {"timeout": 30, "transaction_mode": "IMMEDIATE"} in DATABASES: '
            'one that reads first and then writes fails at once with "database is locked".',
        )
    if not django_settings.USE_TZ:
        yield _message(
            "E003", "Set USE_TZ = True: times of jobs are moments, compared by the database's clock."
        )


@register()
def check_settings(**kwargs: Any) -> Iterable[CheckMessage]:
    if problem := settings.problem():
        yield _message("E005", 'For example DJANGO_JOBS = {"QUEUES": ["default", "mail"]}.', problem=problem)
        return
    given, known = settings.given(), settings.declared()
    for key, value in given.items():
        if key not in known:
            guess = get_close_matches(str(key).upper(), known, n=1)
            hint = f'Did you mean "{guess[0]}"?' if guess else f"Known are: {', '.join(known)}."
            yield _message("E004", hint, key=key)
        elif problem := known[key].problem(value):
            yield _message("E006", f"Leave it out for the default, {known[key].default!r}.", problem=problem)


@register()
def check_visible_jobs(**kwargs: Any) -> Iterable[CheckMessage]:
    from .visibility import hook_problem  # As it imports models.

    if settings.problem() or settings.declared()["VISIBLE_JOBS"].problem(
        settings.given().get("VISIBLE_JOBS")
    ):
        return  # Said by check_settings.
    if problem := hook_problem():
        hint = "Write it as def visible_jobs(user, jobs): return jobs.filter(owner=user)"
        yield _message("E008", hint, problem=problem)


@register()
def check_queues(**kwargs: Any) -> Iterable[CheckMessage]:
    queues, given = getattr(django_settings, "RQ_QUEUES", None) or {}, settings.given()
    if not queues:
        yield _message("W001", 'Add one: RQ_QUEUES = {"default": {"URL": "redis://localhost:6379/0"}}.')
    if isinstance(given, dict) and "QUEUES" in given and not isinstance(queues, DefaultQueues):
        yield _message("W002", "Name the queues in one of the two, and remove the other.")
    limited = given.get("QUEUE_LIMITS") if isinstance(given, dict) else None
    for name in limited if queues and isinstance(limited, dict) else ():
        if name not in queues:
            hint = f"Name one that exists: {did_you_mean(str(name), queues)}"
            yield _message("W004", hint, name=name)
    for engine in all_engines():
        for problem in engine.configuration_errors():
            hint = 'Give what django-rq takes, such as {"URL": "redis://host:6379/0"}.'
            yield _message("E007", hint, problem=problem)


def _message(code: str, hint: str, **values: Any) -> CheckMessage:
    kind = Error if code.startswith("E") else Warning
    return kind(ERRORS[code].format(**values), hint=hint, id=f"django_jobs.{code}")
