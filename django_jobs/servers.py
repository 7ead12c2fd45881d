"""Which servers of the engines answer now: one question to each, and none for a while to one that did not."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.utils import timezone
from django.utils.translation import gettext

from . import relay
from .engines import BaseEngine, all_engines
from .exceptions import EngineUnavailable


@dataclass(frozen=True, slots=True)
class Server:
    engine: BaseEngine
    address: str
    queues: Sequence[str]
    epoch: str | None = None
    """None while it is away, and where it is not asked."""
    away_since: datetime | None = None
    error: str = ""
    """Why it did not answer."""


def ask(queues: Collection[str] | None = None) -> list[Server]:
    """Ask the servers that hold these queues, or all. A question takes at most a second; looking changes
    nothing, so that what is seen here holds up no deliveries."""
    return [
        _ask(engine, address, names)
        for engine in all_engines()
        for address, names in engine.servers().items()
        if queues is None or not set(queues).isdisjoint(names)
    ]


_away: dict[str, tuple[datetime, float, str]] = {}
"""{server: since when this process knows that it is away, when to ask it again, what it learned}"""


def _ask(engine: BaseEngine, address: str, queues: Sequence[str]) -> Server:
    if not relay.reaches_out():
        return Server(engine, address, queues)
    unknown = timezone.now(), 0.0, ""
    since, again_at, error = _away.get(address, unknown)
    if time.monotonic() >= again_at and not relay.rests(address):
        try:
            epoch = engine.epoch(queues[0])
        except EngineUnavailable as unavailable:
            again_at, error = time.monotonic() + relay.REST_AFTER_FAILURE_SECONDS, str(unavailable)
        else:
            _away.pop(address, None)
            return Server(engine, address, queues, epoch)
    _away[address] = since, again_at, error
    error = error or gettext("{server} has not answered lately.").format(server=address)
    return Server(engine, address, queues, away_since=since, error=error)
