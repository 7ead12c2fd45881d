"""Runs all checks, each within its time, whatever state the project and its servers are in."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from django.db import connections

from ..engines import BaseEngine, all_engines
from ..engines.base import QueueFacts, ServerFacts
from . import database, failures, jobs, project, servers
from .findings import Finding, error, ok, printable, told, warning

SERVER_SECONDS = 2.5
"""A server is given a second for each answer; but resolving its name has no limit of its own."""
DATABASE_SECONDS = 6
TASKS_SECONDS = 10
"""Large libraries take seconds to import."""

_ORDER = {"error": 0, "warning": 1, "ok": 2}

Check = Callable[[], Iterable[Finding]]


def examine() -> list[Finding]:
    """What all checks find, the worst first.

    Takes a second or two, and some 20 at most when nothing answers. Raises nothing and changes nothing. It
    works in threads with connections of their own, and so sees what is committed.
    """
    found = [*_look("versions", project.versions), *_look("settings", project.settings)]
    found += _look("reports", project.reports)
    tasks = _Thread("tasks", project.tasks)  # Beside the servers.
    facts: list[ServerFacts] = []
    found += _look("server", partial(_servers, facts))
    remedy = "Look at what the modules named tasks do when they are imported; a worker waits for it, too."
    found += tasks.findings(TASKS_SECONDS, warning, remedy)
    rows = _Thread("database", partial(_database, facts))
    remedy = "Look at the database's host, at the network between, and at what holds locks in it."
    found += rows.findings(DATABASE_SECONDS, error, remedy)
    return [printable(each) for each in sorted(found, key=lambda each: _ORDER[each.level])]


class _Thread:
    """Looks for findings in a thread of its own, which is left behind if it takes too long."""

    def __init__(self, check: str, function: Check) -> None:
        self._check = check
        self._function = function
        self._found: list[Finding] = []
        self._thread = threading.Thread(target=self._run, name=f"django-jobs-doctor-{check}", daemon=True)
        self._thread.start()

    def findings(self, seconds: float, kind: Callable[[str, str, str], Finding], fix: str) -> list[Finding]:
        """What it has found within `seconds` from now; if that is not all, one of this kind says so."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            late = kind(self._check, f"This could not be looked at to its end within {seconds:g} s.", fix)
            return [*self._found, late]
        return self._found

    def _run(self) -> None:
        try:
            for finding in _look(self._check, self._function):
                self._found.append(finding)
        finally:
            connections.close_all()


def _look(check: str, function: Check) -> Iterator[Finding]:
    """What this check finds, and the fault that stops it."""
    try:
        yield from function()
    except Exception as problem:  # noqa: BLE001 - Anything may be out of order; that is why it looks.
        found = f"This could not be looked at: {told(problem)}."
        yield error(check, found, "Put in order what else is told here, then run this again.")


def _servers(all_facts: list[ServerFacts]) -> Iterator[Finding]:
    """What is to be said of all servers; what they told is added to `all_facts`."""
    asked = [
        (engine, _Asked(engine, address, queues))
        for engine in all_engines()
        if not engine.configuration_errors()  # Told as a finding of the settings.
        for address, queues in engine.servers().items()
    ]
    deadline = time.monotonic() + SERVER_SECONDS
    for engine, each in asked:
        facts = each.facts(deadline)
        all_facts.append(facts)
        yield from servers.reached(facts, engine)
        if lack := engine.lack_of("server_facts"):
            yield ok("server", f"{lack.reason} {lack.instead}")
        elif not facts.trouble:
            for check in _SERVER_CHECKS:
                yield from check(facts)


_SERVER_CHECKS = (servers.outdated, servers.suspended, servers.writable, servers.memory, servers.clock)


class _Asked:
    """One server, asked in a thread of its own, so that many that are away cost no more time than one."""

    def __init__(self, engine: BaseEngine, address: str, queues: Sequence[str]) -> None:
        unknown = {queue: QueueFacts() for queue in queues}
        self._facts = ServerFacts(address, unknown, trouble="timeout", message="no answer at all")
        self._thread = threading.Thread(target=self._run, args=[engine, queues], daemon=True)
        self._thread.start()

    def facts(self, deadline: float) -> ServerFacts:
        self._thread.join(max(0, deadline - time.monotonic()))
        return self._facts

    def _run(self, engine: BaseEngine, queues: Sequence[str]) -> None:
        self._facts = engine.examine(queues)


def _database(facts: Sequence[ServerFacts]) -> Iterator[Finding]:
    """Whatever the rows tell, if they can be read at all."""
    reached = list(_look("database", database.reached))
    yield from reached
    if any(each.level == "error" for each in reached):
        return
    now = database.clock()
    yield from database.skew(now)
    yield from _look("namespace", partial(database.installation, facts))
    situation = jobs.Situation.at(now, facts)
    for check, look in _CHECKS_OF_JOBS:
        yield from _look(check, partial(look, situation))
    yield from _look("failures", partial(failures.failures, now))


_CHECKS_OF_JOBS: list[tuple[str, Callable[[jobs.Situation], Iterable[Finding]]]] = [
    ("queue", jobs.queues),
    ("worker", jobs.workers),
    ("worker", jobs.strangers),
    ("maintainer", jobs.maintainer),
    ("delivery", jobs.deliveries),
    ("schedule", jobs.schedule),
    ("lost", jobs.lost),
    ("task", jobs.loadable),
]
