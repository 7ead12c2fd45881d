"""Which jobs a command is about: those with the given ids, those that filters let through, or all."""

import re
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import CommandError
from django.db.models import QuerySet
from django.utils.dateparse import parse_date, parse_datetime
from django.utils.timezone import is_naive, make_aware

from .. import control, monitor
from ..exceptions import JobsError
from ..models import Job, get_job
from ..models.counting import bounded_count
from .terminal import TerminalCommand, counted

_FILTERS = {
    "queue": ("NAME", "Only jobs of this queue."),
    "task": ("NAME", "Only jobs of this task."),
    "error": ("TEXT", "Only jobs with this text in the type or message of their error."),
    "since": ("WHEN", "Only jobs that failed in the last 90m, 2h, 3d, 1w, or since a date or date-time."),
}
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_LONGEST = timedelta(days=36_500)


def add_filters(parser: ArgumentParser, *names: str, limit: int | None = None) -> None:
    for name in names or _FILTERS:
        metavar, text = _FILTERS[name]
        parser.add_argument(f"--{name}", metavar=metavar, help=text)
    default = f"; {limit} by default" if limit else ""
    parser.add_argument("--limit", type=int, default=limit, metavar="N", help=f"At most so many{default}.")


def add_choice(parser: ArgumentParser, *filters: str) -> None:
    """For commands that change jobs: which ones is to be said, be it with `--all`."""
    parser.add_argument("ids", nargs="*", metavar="ID", help="Ids of jobs.")
    parser.add_argument("--all", action="store_true", help="All of them, on all queues.")
    add_filters(parser, *filters)


def check_choice(options: Mapping[str, Any], *more: str) -> None:
    """Raise `CommandError` unless ids, filters or `--all` are given, and only one of them.

    `more` are options that do not choose by themselves, but do not go with ids.
    """
    filters = [name for name in _FILTERS if options.get(name) is not None]
    if bool(options["ids"]) + bool(filters) + bool(options["all"]) != 1:
        known = ", ".join(f"--{name}" for name in _FILTERS if name in options)
        raise CommandError(f"Say which jobs: ids, or filters ({known}), or --all; one of the three.")
    if options["ids"]:
        for name in ("limit", *more):
            if options[name]:
                option = f"--{name.replace('_', '-')}"
                raise CommandError(f"{option} is for filters and --all; ids say exactly which jobs.")


def selected(options: Mapping[str, Any], *statuses: str) -> QuerySet[Job]:
    """The jobs in these states that the filters let through, newest first. Raises `CommandError`."""
    limit = options["limit"]
    if limit is not None and limit < 1:
        raise CommandError(f"--limit is {limit}; allowed is a whole number from 1.")
    filters = {name: options[name] for name in _FILTERS if options.get(name) is not None}
    for name, value in filters.items():
        if not value:  # As from an unset variable of a script, which means anything but all jobs.
            raise CommandError(f"--{name} is empty; give it a value or leave it out.")
    if "since" in filters:
        filters["since"] = point_in_time("--since", filters["since"])
    try:
        return monitor.matching_jobs(*statuses, **filters)
    except ValueError as error:
        raise CommandError(str(error)) from error


def steer_named(
    command: TerminalCommand, ids: Iterable[str], verb: Callable[[Job], object], *, noun: str, verbed: str
) -> None:
    """Do this to each of the jobs with these ids and say so; an error in the end names the others."""
    steered, problems = control.Steered(), []
    for job_id in ids:
        try:
            verb(get_job(job_id))
            steered.done += 1
        except JobsError as error:
            problems.append(str(error))
    _tell(command, steered, noun, verbed)
    if problems:
        raise CommandError("\n".join(problems))


def steer_selected(
    command: TerminalCommand,
    jobs: QuerySet[Job],
    verb: Callable[[QuerySet[Job]], control.Steered],
    limit: int | None,
    *,
    noun: str,
    verbed: str,
) -> None:
    """Do this to these jobs, oldest first, with a bar on a terminal; say how many, and why not the others."""
    steered = control.Steered()
    with command.progress(count(jobs, limit)) as advance:
        for page in monitor.in_pages(jobs, limit):
            part = verb(page)
            steered.done += part.done
            steered.refused += part.refused
            advance(part.done + part.refused.total())
    _tell(command, steered, noun, verbed)


def count(jobs: QuerySet[Job], limit: int | None) -> int:
    """How many of these jobs will be steered, as far as counting goes."""
    matching = bounded_count(jobs)
    return matching if limit is None else min(matching, limit)


def _tell(command: TerminalCommand, steered: control.Steered, noun: str, verbed: str) -> None:
    if command.wants_json:
        command.show_json({"done": steered.done, "refused": steered.refused})
        return
    why = ", ".join(f"{number} {reason}" for reason, number in steered.refused.most_common())
    others = f"; {steered.refused.total()} not: {why}" if why else ""
    command.show(f"{counted(steered.done, noun)} {verbed}{others}.")


def point_in_time(option: str, given: str) -> datetime | timedelta:
    """What an option says: a time, or how long ago it is. Raises `CommandError`."""
    try:
        if duration := re.fullmatch(r"(\d+)([smhdw])", given):
            ago = timedelta(**{_UNITS[duration[2]]: int(duration[1])})
            if ago <= _LONGEST:
                return ago
        elif day := parse_date(given):
            return make_aware(datetime(day.year, day.month, day.day))  # noqa: DTZ001 - It gets one here.
        elif at := parse_datetime(given):
            return make_aware(at) if is_naive(at) else at
    except (ValueError, OverflowError):
        pass
    raise CommandError(
        f'{option} is "{given}"; allowed are a duration such as 90m, 2h, 3d or 1w, at most 36500d, '
        "and a date or date-time such as 2026-01-31 or 2026-01-31T08:00."
    )
