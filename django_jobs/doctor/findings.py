"""What a check has found, and how it is put into words."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from urllib.parse import quote, unquote

from django.conf import settings
from django.utils.timezone import localtime

from ..models.workers import MOST_COUNTED
from ..values import short

Level = Literal["ok", "warning", "error"]

_LONGEST_QUOTE = 400
_SHORTEST_SECRET = 4  # A shorter one is no secret, and would be found in every word.
_SETTINGS_WITH_SECRETS = ("DATABASES", "RQ_QUEUES")


@dataclass(frozen=True, slots=True)
class Finding:
    """What is so, and what to do about it: a command, a setting or a place to look at."""

    level: Level
    check: str
    found: str
    fix: str = ""


def ok(check: str, found: str) -> Finding:
    return Finding("ok", check, found)


def warning(check: str, found: str, fix: str) -> Finding:
    return Finding("warning", check, found, fix)


def error(check: str, found: str, fix: str) -> Finding:
    return Finding("error", check, found, fix)


def told(exception: BaseException) -> str:
    """An exception in one line, whatever its class makes of that."""
    try:
        message = str(exception)
    except Exception as problem:  # noqa: BLE001
        message = f"(its message raises {type(problem).__name__})"
    return f"{type(exception).__name__}: {quoted(message)}".rstrip(": ")


def quoted(text: str) -> str:
    """The words of others in one line: without passwords of the settings, and cut if they are long."""
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, "***")
    text = re.sub(r"//[^\s/@]*@", "//***@", text)
    return short(" ".join(text.split()), _LONGEST_QUOTE)


def printable(finding: Finding) -> Finding:
    """The finding without what steers a terminal: names and messages hold what they like."""
    return Finding(finding.level, finding.check, *map(_printable, (finding.found, finding.fix)))


def number(count: int, noun: str) -> str:
    """For example "1 job", "2 jobs", "10000 or more jobs"."""
    if count >= MOST_COUNTED:
        return f"{count} or more {noun}s"
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def since(moment: datetime, now: datetime) -> str:
    """For example "since 02:14:05 CET (12 minutes)"."""
    return f"since {_clock(moment, now)} ({span(now - moment)})"


def ago(moment: datetime, now: datetime) -> str:
    """For example "at 02:14:05 CET (12 minutes ago)"."""
    return f"at {_clock(moment, now)} ({span(now - moment)} ago)"


def span(duration: timedelta) -> str:
    seconds = max(0, int(duration.total_seconds()))
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}s"
    return f"{seconds} s"


def some(names: Iterable[str], most: int = 5) -> str:
    """The names, or the first of them and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _clock(moment: datetime, now: datetime) -> str:
    at = localtime(moment)
    day = "" if at.date() == localtime(now).date() else f"{at:%Y-%m-%d} "
    return f"{day}{at:%H:%M:%S %Z}"


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _secrets() -> set[str]:
    """The passwords of the settings, as they are and as they stand in a URL."""
    given = {name: getattr(settings, name, None) for name in _SETTINGS_WITH_SECRETS}
    found = set(_secrets_of("", given))
    forms = {form for secret in found for form in (secret, quote(secret, safe=""), unquote(secret))}
    return {form for form in forms if len(form) >= _SHORTEST_SECRET}


def _secrets_of(name: str, given: Any) -> Iterator[str]:
    if isinstance(given, dict):
        for key, value in given.items():
            yield from _secrets_of(str(key), value)
    elif isinstance(given, str):
        if re.search("PASSWORD|SECRET", name, re.IGNORECASE):
            yield given
        elif login := re.search(r"://([^\s]*)@", given):
            password = login[1].partition(":")[2]
            # Where it is not encoded, a message about the URL may hold any piece of it.
            yield from [password, *re.split(r"[:/?#@]", password)]
