"""The stores of a run: one Valkey, one PostgreSQL, and for each measurement a database as after `migrate`.

Both listen on the loopback. PostgreSQL writes to the disk before it confirms a commit, Valkey once a second.
Valkey gets its memory from jemalloc where that is installed, as Debian's Redis does. Alone, the wheel's takes
the C library's malloc, with which a long queue costs it half as much again.
"""

import enum
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from pathlib import Path

import psycopg
import redis

from django_jobs import embedded
from tests.postgres import Cluster


class Database(enum.Enum):
    POSTGRESQL = "postgresql"
    SQLITE = "sqlite"


class Servers:
    """The running servers. `prepared` databases are copied for each measurement."""

    def __init__(self, folder: Path, cluster: Cluster, url: str) -> None:
        self.folder = folder
        self.url = url
        self._cluster = cluster
        self._prepared: set[str] = set()
        self.valkey = redis.Redis.from_url(url, socket_timeout=60)

    def variables(self, database: Database | None, name: str) -> dict[str, str]:
        """The environment variables that lead to the servers, and to the database of this name."""
        stored = self._file(name) if database is Database.SQLITE else name
        return {
            **self._cluster.variables,
            "DATABASE": database.value if database else "",
            "DATABASE_NAME": str(stored),
            "PROJECT_DATA": str(self.folder),
            "REDIS_URL": self.url,
        }

    def empty(self, database: Database | None, name: str, prepare: Callable[[str], None]) -> str:
        """Empty the Valkey and make a database anew; its name.

        `prepare` is called once with the name of the one that is copied then.
        """
        self.valkey.flushall()
        if database is None:
            return name
        template = f"{name}_template"
        if template not in self._prepared:
            if database is Database.POSTGRESQL:
                self.execute(f'CREATE DATABASE "{template}"')
            prepare(template)
            self._prepared.add(template)
        if database is Database.POSTGRESQL:
            self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
            self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
            self.execute("CHECKPOINT")  # The copy's own writes are not measured.
        else:
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self._file(name)}{suffix}").unlink(missing_ok=True)
            shutil.copy(self._file(template), self._file(name))
        return name

    def execute(self, *statements: str) -> None:
        variables = self._cluster.variables
        with psycopg.connect(
            host=variables["PGHOST"], port=int(variables["PGPORT"]), user="postgres", autocommit=True
        ) as connection:
            for statement in statements:
                connection.execute(statement)  # type: ignore[arg-type]

    @contextmanager
    def statements_logged(self) -> Iterator[Path]:
        """Have PostgreSQL log every statement, with the name of the application before a bar; the log."""
        self.execute("ALTER SYSTEM SET log_statement = 'all'", "SELECT pg_reload_conf()")
        try:
            yield self._cluster.data / "server.log"
        finally:
            self.execute("ALTER SYSTEM RESET log_statement", "SELECT pg_reload_conf()")

    def names(self) -> str:
        """Which servers these are, with their versions."""
        info = self.valkey.info("server")
        allocator = _allocator(info["process_id"])
        done = psycopg.connect(host=self._cluster.variables["PGHOST"], user="postgres", autocommit=True)
        with done as connection:
            shown = connection.execute("SHOW server_version").fetchone()
        version = re.match(r"[\d.]+", str(shown[0])) if shown else None
        return (
            f"Valkey {info['valkey_version']} with {allocator}, PostgreSQL {version[0] if version else '?'}"
        )

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.sqlite3"


@contextmanager
def running() -> Iterator[Servers]:
    """Both servers, in a temporary folder; gone in the end."""
    with tempfile.TemporaryDirectory(prefix="django-jobs-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with _preloaded("jemalloc"):
            server = embedded.start(folder / "valkey")
        try:
            with Cluster() as cluster:
                servers = Servers(folder, cluster, _listen(server.url))
                servers.execute(
                    "ALTER SYSTEM SET fsync = on",
                    "ALTER SYSTEM SET log_line_prefix = '%a|'",
                    "SELECT pg_reload_conf()",
                )
                yield servers
        finally:
            embedded.stop(folder / "valkey")


@contextmanager
def _preloaded(library: str) -> Iterator[None]:
    """Have programs that are started within this block use this library, if the system has it."""
    before = os.environ.get("LD_PRELOAD")
    if found := find_library(library):
        os.environ["LD_PRELOAD"] = found
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("LD_PRELOAD", None)
        else:
            os.environ["LD_PRELOAD"] = before


def _allocator(pid: int) -> str:
    """Where this server gets its memory from, as far as the system tells."""
    maps = Path(f"/proc/{pid}/maps")
    has_jemalloc = maps.is_file() and "jemalloc" in maps.read_text()
    return "jemalloc" if has_jemalloc else "the C library's malloc"


def _listen(url: str) -> str:
    """Have the embedded server listen on the loopback, too, as not all contestants know unix sockets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with redis.Redis.from_url(url) as client:
        client.config_set("bind", "127.0.0.1")
        client.config_set("port", port)
    return f"redis://127.0.0.1:{port}/0"
