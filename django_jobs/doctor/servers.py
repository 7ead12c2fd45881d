"""Checks of the engines' servers: reached or not, and fit to deliver or not."""

from collections.abc import Iterator
from urllib.parse import unquote

from django.conf import settings

from .. import embedded, environment
from ..engines.base import BaseEngine, ServerFacts
from .findings import Finding, error, ok, quoted, some, warning

MOST_SKEW_SECONDS = 5
NEARLY_FULL = 0.9


def reached(facts: ServerFacts, engine: BaseEngine) -> Iterator[Finding]:
    queues = some(facts.queues)
    if not facts.trouble:
        told = facts.version or "a server that does not tell its version"
        log = {True: ", with an append-only file", False: ", without an append-only file", None: ""}
        latency = f"{facts.latency_seconds * 1000:.1f} ms"
        yield ok(
            "server", f"{facts.address} answers in {latency}: {told}{log[facts.append_only]}, for {queues}."
        )
        return
    named, place = _named(engine)
    found, fix = _TROUBLES.get(facts.trouble, ("is not reached.", "Look at the server, and at {place}."))
    if _is_embedded(facts):
        found, fix = (
            "is the embedded server, which does not run.",
            "python manage.py jobs_redis start (a worker does it as well)",
        )
    yield error(
        "server",
        f"{facts.address} {found} {named} Its queues: {queues}. What its client says: "
        f"{quoted(facts.message).rstrip('.')}. Jobs wait in the database until it is back.",
        fix.format(place=place),
    )


_TROUBLES = {
    "refused": (
        "refuses the connection: nothing listens there.",
        "Start the server (systemctl start redis-server, or docker start CONTAINER), or correct {place}.",
    ),
    "no socket": (
        "is a socket that does not exist: no server runs there.",
        "Start the server, or correct the path in {place}.",
    ),
    "permission": (
        "may not be opened by this user.",
        "Run this as the user of the workers, or add it to the group of the socket (unixsocketperm).",
    ),
    "name": (
        "has a host whose name cannot be resolved.",
        "Correct the name in {place}, or the DNS of this host: getent hosts NAME",
    ),
    "timeout": (
        "does not answer within a second: it is frozen, overloaded or behind a firewall, or one side speaks "
        "TLS and the other does not.",
        "Look at the server's host and the firewall between; if it speaks TLS, its URL begins with "
        "rediss://, else with redis://, in {place}.",
    ),
    "password": (
        "refuses the login: the password or the user is wrong or missing.",
        "Correct them in {place}: redis://USER:PASSWORD@host:port/0, with any of @ : / ? # % in them "
        "percent-encoded.",
    ),
    "certificate": (
        "shows a certificate that is not trusted, or is for another name.",
        "Use the name in the certificate, and install its authority on this host; "
        "for tests alone: SSL_CERT_REQS = None in RQ_QUEUES.",
    ),
    "closed": (
        "closes the connection at once: one side speaks TLS and the other does not, or it has no room for "
        "another client.",
        "If the server speaks TLS, its URL begins with rediss://, else with redis://, in {place}; or raise "
        "its maxclients.",
    ),
    "clients": (
        "has no room for another client.",
        "Raise its maxclients, or end what holds connections: redis-cli client list",
    ),
    "loading": ("is reading its data after a start.", "Wait; if it lasts, look at the server's log."),
    "database": (
        "has no database of this number.",
        "Choose a lower number, the last part of the URL, in {place}.",
    ),
    "no Redis": ("answers, but is no Redis.", "Correct host and port in {place}."),
}


def outdated(facts: ServerFacts) -> Iterator[Finding]:
    if facts.lacks:
        yield error(
            "server",
            f"{facts.address} is {facts.version} and lacks {facts.lacks}; workers do not start on it.",
            "Update the server to Redis 6.2 or later, or to any Valkey.",
        )


def suspended(facts: ServerFacts) -> Iterator[Finding]:
    if facts.suspended:
        yield error(
            "server",
            f"All workers on {facts.address} are suspended; they take no job.",
            f"rq resume --url {facts.address}",
        )


def writable(facts: ServerFacts) -> Iterator[Finding]:
    if facts.role == "slave":
        yield error(
            "server",
            f"{facts.address} is a replica and refuses writes.",
            "Name the primary in RQ_QUEUES, or use SENTINELS there so that it is found after a failover.",
        )
    for name in facts.disk_errors:
        yield error(
            "server",
            f"{facts.address} could not write its data to disk ({name}); by default it refuses writes then.",
            f"Look at the free space and rights of its folder and at its log, then: {_cli(facts)} bgsave",
        )


def memory(facts: ServerFacts) -> Iterator[Finding]:
    policy = facts.memory_policy
    if not policy:
        yield warning(
            "memory",
            f"{facts.address} does not tell what it does when its memory is full.",
            "Allow its user the command INFO, or see for yourself that maxmemory-policy is noeviction.",
        )
        return
    remedy = (
        f"{_cli(facts)} config set maxmemory-policy noeviction, and the same in its configuration file or "
        "with your provider. A cache belongs on a server of its own."
    )
    if facts.deletes_any_keys:
        found = f"{facts.address} deletes any keys when its memory is full ({policy}): deliveries and queues."
        yield error("memory", found, remedy)
    elif facts.deletes_expiring_keys:
        found = f"{facts.address} deletes keys with an expiry when its memory is full ({policy})."
        yield warning("memory", found, remedy)
    else:
        yield ok("memory", f"{facts.address} deletes nothing when its memory is full ({policy}).")
    used, most = facts.used_bytes, facts.most_bytes
    if used is not None and most and used >= NEARLY_FULL * most:
        kind = error if used >= most else warning
        yield kind(
            "memory",
            f"{facts.address} uses {used / 2**20:.0f} MB of the {most / 2**20:.0f} MB it may have; "
            "when they are full, it takes no more deliveries.",
            f"Raise its maxmemory, or find what fills it: {_cli(facts)} --bigkeys",
        )


def clock(facts: ServerFacts) -> Iterator[Finding]:
    ahead = facts.ahead_seconds
    if ahead is not None and abs(ahead) > MOST_SKEW_SECONDS:
        yield warning(
            "clock",
            f"The clock of {facts.address} is {_skew(ahead)} this host's.",
            "Set both by NTP: timedatectl set-ntp true",
        )


def _skew(ahead_seconds: float) -> str:
    return f"{abs(ahead_seconds):.0f} s {'ahead of' if ahead_seconds > 0 else 'behind'}"


def _named(engine: BaseEngine) -> tuple[str, str]:
    """What names the server, as a sentence, and the place where it can be named otherwise."""
    declared = getattr(settings, engine.queues_setting, None)
    if isinstance(declared, environment.DefaultQueues):
        if not declared.server.source:
            return "It is the default: no variable names another.", f"REDIS_URL or {engine.queues_setting}"
        place = declared.server.source
    else:
        place = f"{engine.queues_setting} in {getattr(settings, 'SETTINGS_MODULE', 'the settings')}"
    return f"It is named by {place}.", place


def _is_embedded(facts: ServerFacts) -> bool:
    url = unquote(embedded.url(environment.embedded_directory()))
    return facts.trouble in {"refused", "no socket"} and facts.address.startswith(f"{url}?")


def _cli(facts: ServerFacts) -> str:
    """How redis-cli is told this server; *** stands for the password."""
    if facts.address.startswith("unix://"):
        return f"redis-cli -s {facts.address.removeprefix('unix://').partition('?')[0]}"
    return f"redis-cli -u {facts.address}" if "sentinel" not in facts.address else "redis-cli"
