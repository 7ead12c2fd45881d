"""What was seen, in words: what is wrong, how bad that is, and where to see more."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from django.utils.formats import date_format, number_format
from django.utils.timezone import localtime
from django.utils.translation import gettext, ngettext

from ..models import Worker
from ..models.workers import MOST_COUNTED
from .looking import LONG_WAIT, MOST_TOLD, Found, idle, listening, tells

Level = Literal["ok", "degraded", "stalled"]
Trouble = Literal["undeclared", "untaken", "stuck", "undelivered", "paused"]
Page = Literal["dashboard", "jobs", "errors", "queues", "workers"]

_RANK: dict[Level, int] = {"stalled": 0, "degraded": 1, "ok": 2}


@dataclass(frozen=True, slots=True)
class Reason:
    """A sentence in the user's language, and where to see more: a page of the admin, with a search in it."""

    text: str
    page: Page
    query: str = ""
    level: Level = "degraded"


@dataclass(frozen=True, slots=True)
class TroubledQueue:
    """A queue where jobs wait in vain, with the worst cause."""

    name: str
    trouble: Trouble
    waiting: int
    """Counted up to `MOST_TOLD`."""
    since: datetime | None
    """Since when the first of them waits."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`running` and `waiting` are counted up to `MOST_COUNTED`; `waiting` is what is queued, also on paused
    queues."""

    level: Level
    reasons: list[Reason]
    """The worst first."""
    running: int
    waiting: int
    failed_last_hour: int | None
    """None while nobody counts it: no maintainer runs, and something has ended since. All that `figures`
    tells stands still then."""
    oldest_waiting_seconds: float | None
    """How long the first of the jobs that could run now has waited; None if there is none."""
    undelivered: int | None
    """How many are not handed to a server, though the first of them waits for `PATIENCE`; None while one is
    away. Of each queue up to `MOST_TOLD`."""
    workers: int
    """How many live, counted up to `MOST_WORKERS`."""
    silent: int
    """How many went silent within `SILENT_FOR`."""
    queues: list[TroubledQueue]
    at: datetime


def judge(found: Found) -> Verdict:
    reasons = sorted(_reasons(found), key=lambda reason: _RANK[reason.level])
    could_run = [since for name, since in found.oldest.items() if name not in found.paused]
    is_known = all(server.epoch is not None for server in found.servers)
    return Verdict(
        level=reasons[0].level if reasons else "ok",
        reasons=reasons,
        running=found.running,
        waiting=found.waiting,
        failed_last_hour=None if found.lacks_figures else found.hour.failed,
        oldest_waiting_seconds=(
            max(0.0, (found.now - min(could_run)).total_seconds()) if could_run else None
        ),
        undelivered=sum(found.undelivered.values()) if is_known else None,
        workers=len(found.alive),
        silent=len(found.silent),
        queues=list(_troubled(found)),
        at=found.at,
    )


def _reasons(found: Found) -> Iterator[Reason]:
    for tell in (_away_servers, _untaken, _stuck, _not_delivered, _unmaintained, _silent, _failing, _paused):
        yield from tell(found)


def _troubled(found: Found) -> Iterator[TroubledQueue]:
    troubles: dict[str, Trouble] = dict.fromkeys(found.undeclared, "undeclared")
    for name in found.untaken:
        troubles.setdefault(name, "paused" if name in found.paused else "untaken")
    for name in found.oldest:
        if _idle_beside(name, found):
            troubles.setdefault(name, "stuck")
    for name in found.undelivered:
        troubles.setdefault(name, "undelivered")
    for name, trouble in sorted(troubles.items(), key=lambda each: each[1] == "paused"):
        yield TroubledQueue(name, trouble, found.waiting_on.get(name) or 1, found.since.get(name))


def _idle_beside(queue: str, found: Found) -> list[Worker]:
    """Those who are idle although a job of this queue could have run for long."""
    away = {name for server in found.servers if server.away_since for name in server.queues}
    if queue in found.paused or queue in away or found.now - found.oldest[queue] < LONG_WAIT:
        return []
    return idle(listening(queue, found.alive))


def _blocking(found: Found) -> Level:
    """How bad it is that something cannot run: does anything?"""
    return "degraded" if found.moves else "stalled"


def _away_servers(found: Found) -> Iterator[Reason]:
    for server in found.servers:
        if server.away_since is not None:
            has_waiting = any(name in found.oldest and name not in found.paused for name in server.queues)
            yield Reason(
                gettext(
                    "{server} cannot be reached, at least since {time}; nothing is delivered to its queues."
                ).format(server=server.address, time=_clock(server.away_since)),
                "queues",
                level=_blocking(found) if has_waiting else "degraded",
            )


def _untaken(found: Found) -> Iterator[Reason]:
    for name in found.undeclared:
        text = ngettext(
            "{count} job waits on {queue}, a queue that is not declared.",
            "{count} jobs wait on {queue}, a queue that is not declared.",
            found.waiting_on[name],
        )
        yield Reason(_told(text, name, found), "jobs", _waiting(name), _blocking(found))
    for name in found.untaken:
        if name in found.paused or name in found.undeclared:
            continue
        text = ngettext(
            "No live worker listens on {queue}, where {count} job waits.",
            "No live worker listens on {queue}, where {count} jobs wait.",
            found.waiting_on[name],
        )
        yield Reason(_told(text, name, found), "queues", level=_blocking(found))


def _stuck(found: Found) -> Iterator[Reason]:
    for name, since in found.oldest.items():
        if idle := _idle_beside(name, found):
            text = ngettext(
                "A job waits on {queue} since {time}, although {count} worker listens there and is idle.",
                "A job waits on {queue} since {time}, although {count} workers listen there and are idle.",
                len(idle),
            )
            told = text.format(queue=name, time=_clock(since), count=len(idle))
            yield Reason(told, "jobs", _waiting(name), "stalled")


def _not_delivered(found: Found) -> Iterator[Reason]:
    count = sum(found.undelivered.values())
    if count and found.undelivered_since:
        text = ngettext(
            "{count} job is queued and not delivered, since {time}.",
            "{count} jobs are queued and not delivered, the first since {time}.",
            count,
        )
        told = text.format(count=capped(count, MOST_TOLD), time=_clock(found.undelivered_since))
        yield Reason(told, "queues", level=_blocking(found))


def _unmaintained(found: Found) -> Iterator[Reason]:
    if found.lacks_maintainer:
        text = gettext(
            "No maintainer runs: what is due, undelivered or lost is left as it is, and figures and errors "
            "stand still."
        )
        yield Reason(text, "workers")


def _silent(found: Found) -> Iterator[Reason]:
    if found.silent:
        # Not which: the page of the workers says so, to those who may see it.
        last = max(worker.seen_at for worker in found.silent)
        text = ngettext(
            "{count} worker went silent without saying goodbye, at {time}.",
            "{count} workers went silent without saying goodbye, the last one at {time}.",
            len(found.silent),
        )
        yield Reason(text.format(count=len(found.silent), time=_clock(last)), "workers")


def _failing(found: Found) -> Iterator[Reason]:
    rate, before = found.hour.failure_rate, found.rate_before
    if not tells(found.hour) or rate < 2 * (before or 0):
        return
    if before is None:
        text = gettext("{rate} of the attempts of the last hour failed.").format(rate=percentage(rate))
    else:
        text = gettext(
            "{rate} of the attempts of the last hour failed, against {before} in the same hour yesterday."
        ).format(rate=percentage(rate), before=percentage(before))
    yield Reason(text, "errors")


def _paused(found: Found) -> Iterator[Reason]:
    for name in found.untaken:
        if name in found.paused:
            text = ngettext(
                "{queue} is paused, and {count} job waits on it.",
                "{queue} is paused, and {count} jobs wait on it.",
                found.waiting_on[name],
            )
            yield Reason(_told(text, name, found), "queues", level="ok")


def _told(text: str, queue: str, found: Found) -> str:
    return text.format(queue=queue, count=capped(found.waiting_on[queue], MOST_TOLD))


def _waiting(queue: str) -> str:
    return f"status:queued queue:{quoted(queue)}"


def _clock(moment: datetime) -> str:
    """The time of the day, with the day if it is another one."""
    here = localtime(moment)
    time = date_format(here, "H:i:s")
    if here.date() == localtime().date():
        return time
    return gettext("{date} {time}").format(date=date_format(here, "SHORT_DATE_FORMAT"), time=time)


def capped(count: int, most: int = MOST_COUNTED) -> str:
    """How a count is written that goes no further than `most`."""
    number = number_format(min(count, most), force_grouping=True)
    return gettext("{number}+").format(number=number) if count >= most else number


def percentage(share: float) -> str:
    """A share of 1, in the language's own writing."""
    return gettext("{percent} %").format(percent=round(100 * share))


def quoted(value: str) -> str:
    """This text as a value in a search, whatever it contains."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
