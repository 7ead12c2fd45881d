"""Checks of the project itself, for which no server is asked."""

import platform
import traceback
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from django.core.checks import ERROR
from django.core.checks.registry import registry as system_checks

from .. import registry, spool
from ..conf import settings as jobs_settings
from .findings import Finding, error, number, ok, quoted, told, warning

_PACKAGES = ("django", "rq", "django-rq", "redis")


def versions() -> Iterator[Finding]:
    packages = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    yield ok("versions", f"Python {platform.python_version()}, {packages}.")


def settings() -> Iterator[Finding]:
    """The system checks of django_jobs, which a worker stops at."""
    is_fine = True
    for check in system_checks.get_checks():
        if check.__module__ != "django_jobs.checks":
            continue
        for message in check(app_configs=None, databases=None):
            if message.is_silenced():
                continue
            is_fine = False
            kind = error if message.level >= ERROR else warning
            yield kind("settings", f"{message.id}: {quoted(message.msg)}", message.hint or "")
    if not is_fine:
        return
    yield ok("settings", "The settings are of use.")
    if jobs_settings.IMMEDIATE:
        yield warning(
            "settings",
            'DJANGO_JOBS["IMMEDIATE"] is True: jobs run in the process that enqueues them, not in a worker.',
            'Remove "IMMEDIATE" from DJANGO_JOBS, except in tests.',
        )


def tasks() -> Iterator[Finding]:
    """The modules `tasks` of all apps; what they print or do when they are imported, they do here too."""
    try:
        names = registry.names()
    except BaseException as problem:  # noqa: BLE001 - SystemExit, too, may be raised by a module.
        yield error(
            "tasks",
            f"The tasks cannot be imported: {told(problem)} ({_place(problem)}). "
            "No worker starts; one that runs already fails the jobs of these tasks.",
            "Correct that line, or install what it misses, then: python manage.py rqworker",
        )
    else:
        yield ok("tasks", f"All modules of tasks can be imported; they declare {len(names)}.")


def reports() -> Iterator[Finding]:
    """What workers of this host could not write to the database before they ended."""
    folder = spool.folder()
    try:
        waiting = spool.count()
    except OSError as problem:
        yield warning(
            "reports",
            f"{folder} is of no use to this user: {problem}. If workers run as this user, the reports that "
            "wait for the database die with them.",
            "Name a folder of the workers' user in SPOOL_DIRECTORY of DJANGO_JOBS, or run this as that user.",
        )
        return
    if waiting:
        yield warning(
            "reports",
            f"{number(waiting, 'report')} of workers that have ended wait in {folder}.",
            "python manage.py rqworker (any worker of this user on this host delivers them)",
        )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not found)"


def _place(problem: BaseException) -> str:
    """The file and line to look at: the innermost that is of no installed package."""
    if isinstance(problem, SyntaxError) and problem.filename:
        return f"{problem.filename}, line {problem.lineno}"
    frames = [
        frame
        for frame in traceback.extract_tb(problem.__traceback__)
        if "importlib" not in frame.filename and "site-packages" not in Path(frame.filename).parts
    ]
    return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else "place unknown"
