"""Is it all right? One word for the whole, with the reasons, at a bounded cost.

`stalled`: something should run, and nothing does. `degraded`: it runs, but something is wrong. A reason of
the level `ok` is worth knowing and nothing wrong: somebody paused a queue.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from django.db import router
from django.db.models import BooleanField, Exists, ExpressionWrapper, Q, QuerySet
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.formats import date_format, number_format
from django.utils.timezone import localtime
from django.utils.translation import gettext, ngettext

from . import figures, servers, sql
from .models import Job, Queue, Worker
from .models.counting import CountOf, EarliestOf, selected
from .models.workers import MOST_COUNTED, MOST_WORKERS
from .servers import Server

Level = Literal["ok", "degraded", "stalled"]
Trouble = Literal["undeclared", "untaken", "stuck", "undelivered", "paused"]
Page = Literal["dashboard", "jobs", "errors", "queues", "workers"]

PATIENCE = timedelta(seconds=10)
"""Relay and workers take less, unless something is wrong."""
LONG_WAIT = timedelta(minutes=5)
SILENT_FOR = timedelta(hours=1)
"""For how long a worker that went silent is a reason; what it ran has been rescued long before."""
LEAST_ATTEMPTS = 20
"""Of fewer attempts no rate is told."""
LEAST_FAILURE_RATE = 0.05
MOST_QUEUES = 500
MOST_TOLD = 1_000
"""Counts of one queue go no further: there may be many queues."""
MOST_SEARCHED = 100
"""Among so many undelivered jobs the first one is looked for: they stand in the order of their ids."""
KEPT_SECONDS = 1

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


def examine() -> Verdict:
    """Look at the database and at the servers, and judge.

    At most 8 statements, and one question to each server of at most a second; to one that did not answer,
    none for a few seconds. Changes nothing.
    """
    return _judge(_look())


def lately() -> Verdict:
    """`examine()`, of what this process found within the last second: it stands on every page."""
    global _kept
    if _kept is None or time.monotonic() - _kept[0] > KEPT_SECONDS:
        _kept = time.monotonic(), _look()
    return _judge(_kept[1])


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


@dataclass(frozen=True, slots=True)
class _Found:
    """What was seen; nothing in words, as several languages may ask."""

    at: datetime
    now: datetime
    """By the database's clock."""
    running: int
    waiting: int
    since: Mapping[str, datetime]
    """{queue: since when its first job waits}"""
    oldest: Mapping[str, datetime]
    """The same of those that are declared."""
    undeclared: Sequence[str]
    """Queues where jobs wait that are declared nowhere."""
    untaken: Sequence[str]
    """Queues where jobs wait that are paused, undeclared, or that nobody listens on."""
    waiting_on: Mapping[str, int]
    """{one of these queues, or one beside which a worker is idle, or of `undelivered`: how many wait}"""
    undelivered: Mapping[str, int]
    undelivered_since: datetime | None
    moves: bool
    """True if a worker that lives runs a job, or a job has just ended."""
    lacks_maintainer: bool
    lacks_figures: bool
    """True if attempts have ended that no maintainer counts."""
    servers: Sequence[Server]
    paused: Collection[str]
    alive: Sequence[Worker]
    silent: Sequence[Worker]
    hour: figures.Figures
    rate_before: float | None
    """Of the same hour yesterday; None where it is not asked for, or too few ended to tell."""


_kept: tuple[float, _Found] | None = None


def _look() -> _Found:
    asked = servers.ask()
    declared = {name for server in asked for name in server.queues}
    paused = set(Queue.objects.filter(paused=True).values_list("name", flat=True))
    # The living first: of those that went silent there may be any number.
    is_alive = ExpressionWrapper(Q(leased_until__gte=Now()), BooleanField())
    workers = list(Worker.objects.annotate(is_alive=is_alive).order_by("-leased_until")[:MOST_WORKERS])
    alive = [worker for worker in workers if worker.is_alive]
    waiting = sql.waiting_since(router.db_for_write(Job), MOST_QUEUES)
    untaken = [
        name for name in waiting if name in paused or name not in declared or not _listening(name, alive)
    ]
    held = [name for name in waiting if name in untaken or _idle(_listening(name, alive))]
    undelivered_on = {
        (name, side): jobs
        for server in asked
        for name in server.queues
        if name in waiting and name not in paused and server.epoch is not None
        for side, jobs in enumerate(_undelivered(name, server.epoch))
    }
    counted = selected(
        {
            "now": Now(),
            "running": CountOf(Job.objects.started().order_by("id")),
            "waiting": CountOf(Job.objects.queued().order_by("id")),
            "scheduled": Exists(Job.objects.scheduled()),
            "works": Exists(Job.objects.started().filter(worker__in=[worker.pk for worker in alive])),
            "ended": Exists(Job.objects.filter(finished_at__gte=Now() - PATIENCE)),
            "maintained": Exists(figures.maintainers()),
            "uncounted": Exists(figures.uncounted()),
            **{("on", name): CountOf(_waiting_on(name), MOST_TOLD) for name in held},
            **{("undelivered", *key): CountOf(jobs, MOST_TOLD) for key, jobs in undelivered_on.items()},
            **{("since", *key): EarliestOf(jobs, MOST_SEARCHED) for key, jobs in undelivered_on.items()},
        }
    )
    now = counted["now"] or timezone.now()  # Without any job, nothing is said of times.
    has_maintainer = counted["maintained"] if counted["now"] else figures.maintainers().exists()
    undelivered: Counter[str] = Counter()
    undelivered_since: list[datetime] = []
    for name, side in undelivered_on:
        since = counted["since", name, side]
        if since and since < now - PATIENCE:
            undelivered[name] += counted["undelivered", name, side]
            undelivered_since.append(since)
    late = {name: CountOf(_waiting_on(name), MOST_TOLD) for name in undelivered if name not in held}
    waiting_on = {name: counted["on", name] or 0 for name in held} | selected(late)
    hour = figures.total(timedelta(hours=1))
    has_work = bool(counted["running"] or counted["waiting"] or counted["scheduled"] or alive)
    return _Found(
        at=timezone.now(),
        now=now,
        running=counted["running"] or 0,
        waiting=counted["waiting"] or 0,
        since={name: at for name, at in waiting.items() if at},
        oldest={name: at for name, at in waiting.items() if at and name in declared},
        undeclared=[name for name in waiting if name not in declared],
        untaken=untaken,
        waiting_on=waiting_on,
        undelivered=undelivered,
        undelivered_since=min(undelivered_since, default=None),
        moves=bool(counted["works"] or counted["ended"]),
        lacks_maintainer=has_work and not has_maintainer,
        lacks_figures=bool(counted["uncounted"]),
        servers=asked,
        paused=paused,
        alive=alive,
        silent=[worker for worker in workers if not worker.is_alive and worker.seen_at > now - SILENT_FOR],
        hour=hour,
        rate_before=_rate_before(now) if _tells(hour) else None,
    )


def _waiting_on(queue: str) -> QuerySet[Job]:
    """In the order of an index, as otherwise PostgreSQL may look for them in all of the table."""
    return Job.objects.literally_queued().filter(queue=queue).order_by("queued_at")


def _undelivered(queue: str, epoch: str) -> tuple[QuerySet[Job], QuerySet[Job]]:
    """Two ranges of an index, in its order: the epochs before and after the present one.

    Nothing is asked of their times: PostgreSQL would read all that is queued by the index of these.
    """
    jobs = Job.objects.literally_queued().ours().filter(queue=queue).order_by("delivered_epoch", "id")
    return jobs.filter(delivered_epoch__lt=epoch), jobs.filter(delivered_epoch__gt=epoch)


def _listening(queue: str, workers: Iterable[Worker]) -> list[Worker]:
    """Those that take from this queue; one that was quieted takes nothing more."""
    return [
        worker
        for worker in workers
        if queue in worker.queues and worker.state != Worker.State.QUIET and not worker.order
    ]


def _tells(hour: figures.Figures) -> bool:
    return hour.ended >= LEAST_ATTEMPTS and hour.failure_rate >= LEAST_FAILURE_RATE


def _rate_before(now: datetime) -> float | None:
    minutes = figures.series("minute", now - timedelta(hours=25), now - timedelta(hours=24))
    ended = sum(minute.ended for minute in minutes)
    return sum(minute.failed for minute in minutes) / ended if ended >= LEAST_ATTEMPTS else None


def _judge(found: _Found) -> Verdict:
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


def _reasons(found: _Found) -> Iterator[Reason]:
    for tell in (_away_servers, _untaken, _stuck, _not_delivered, _unmaintained, _silent, _failing, _paused):
        yield from tell(found)


def _troubled(found: _Found) -> Iterator[TroubledQueue]:
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


def _idle_beside(queue: str, found: _Found) -> list[Worker]:
    """Those who are idle although a job of this queue could have run for long."""
    away = {name for server in found.servers if server.away_since for name in server.queues}
    if queue in found.paused or queue in away or found.now - found.oldest[queue] < LONG_WAIT:
        return []
    return _idle(_listening(queue, found.alive))


def _idle(workers: Iterable[Worker]) -> list[Worker]:
    return [worker for worker in workers if worker.state == Worker.State.IDLE]


def _blocking(found: _Found) -> Level:
    """How bad it is that something cannot run: does anything?"""
    return "degraded" if found.moves else "stalled"


def _away_servers(found: _Found) -> Iterator[Reason]:
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


def _untaken(found: _Found) -> Iterator[Reason]:
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


def _stuck(found: _Found) -> Iterator[Reason]:
    for name, since in found.oldest.items():
        if idle := _idle_beside(name, found):
            text = ngettext(
                "A job waits on {queue} since {time}, although {count} worker listens there and is idle.",
                "A job waits on {queue} since {time}, although {count} workers listen there and are idle.",
                len(idle),
            )
            told = text.format(queue=name, time=_clock(since), count=len(idle))
            yield Reason(told, "jobs", _waiting(name), "stalled")


def _not_delivered(found: _Found) -> Iterator[Reason]:
    count = sum(found.undelivered.values())
    if count and found.undelivered_since:
        text = ngettext(
            "{count} job is queued and not delivered, since {time}.",
            "{count} jobs are queued and not delivered, the first since {time}.",
            count,
        )
        told = text.format(count=capped(count, MOST_TOLD), time=_clock(found.undelivered_since))
        yield Reason(told, "queues", level=_blocking(found))


def _unmaintained(found: _Found) -> Iterator[Reason]:
    if found.lacks_maintainer:
        text = gettext(
            "No maintainer runs: what is due, undelivered or lost is left as it is, and figures and errors "
            "stand still."
        )
        yield Reason(text, "workers")


def _silent(found: _Found) -> Iterator[Reason]:
    if found.silent:
        # Not which: the page of the workers says so, to those who may see it.
        last = max(worker.seen_at for worker in found.silent)
        text = ngettext(
            "{count} worker went silent without saying goodbye, at {time}.",
            "{count} workers went silent without saying goodbye, the last one at {time}.",
            len(found.silent),
        )
        yield Reason(text.format(count=len(found.silent), time=_clock(last)), "workers")


def _failing(found: _Found) -> Iterator[Reason]:
    rate, before = found.hour.failure_rate, found.rate_before
    if not _tells(found.hour) or rate < 2 * (before or 0):
        return
    if before is None:
        text = gettext("{rate} of the attempts of the last hour failed.").format(rate=percentage(rate))
    else:
        text = gettext(
            "{rate} of the attempts of the last hour failed, against {before} in the same hour yesterday."
        ).format(rate=percentage(rate), before=percentage(before))
    yield Reason(text, "errors")


def _paused(found: _Found) -> Iterator[Reason]:
    for name in found.untaken:
        if name in found.paused:
            text = ngettext(
                "{queue} is paused, and {count} job waits on it.",
                "{queue} is paused, and {count} jobs wait on it.",
                found.waiting_on[name],
            )
            yield Reason(_told(text, name, found), "queues", level="ok")


def _told(text: str, queue: str, found: _Found) -> str:
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
