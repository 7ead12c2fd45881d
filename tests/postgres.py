"""Run a command with a private PostgreSQL: `python -m tests.postgres pytest`.

The cluster lives and listens in a temporary folder, which only its user may enter, and is gone when the
command ends. PostgreSQL refuses to run as root; root runs it as the user `postgres`.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import glob
from pathlib import Path

from django_jobs.processes import identity

FOLDER_PREFIX = "django-jobs-postgres-"


class Cluster:
    """A PostgreSQL of our own in a folder: made, started, stopped and killed at will.

    It listens on a unix socket there and, with `tcp`, on the same port of the loopback. As a context manager
    it is made and started, and gone in the end.
    """

    def __init__(self, folder: Path | None = None, *, tcp: bool = False) -> None:
        self._user = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
            shutil.chown(folder, self._user.pw_uid, self._user.pw_gid)
        self.folder, self.data = folder, folder / "data"
        self.port = _free_port() if tcp else 5432
        self._addresses = "127.0.0.1" if tcp else ""

    @classmethod
    def of_environment(cls) -> "Cluster | None":
        """The one that `python -m tests.postgres` started for this process; None if none was."""
        folder = Path(os.environ.get("PGHOST", ""))
        if os.environ.get("DATABASE") == "postgresql" and folder.name.startswith(FOLDER_PREFIX):
            return cls(folder)
        return None

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables that lead to it."""
        return {
            "DATABASE": "postgresql",
            "PGHOST": str(self.folder),
            "PGPORT": str(self.port),
            "PGUSER": "postgres",
            "DATABASE_NAME": "postgres",
        }

    @property
    def socket(self) -> Path:
        return self.folder / f".s.PGSQL.{self.port}"

    def __enter__(self) -> "Cluster":
        try:
            self._run("initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync")
            self.start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if self.runs():
                self.stop()
        finally:
            self._remove()

    def runs(self) -> bool:
        return self._pid() is not None

    def start(self) -> None:
        """Start it and wait until it answers, which after a crash takes a moment longer."""
        options = (
            f"-p {self.port} -c listen_addresses='{self._addresses}' "
            f"-c unix_socket_directories='{self.folder}' -c fsync=off"
        )
        log = str(self.data / "server.log")
        self._run("pg_ctl", "start", "--wait", "--log", log, "--options", options)

    def stop(self, mode: str = "immediate") -> None:
        """`immediate` ends its processes where they are, `fast` rolls back, `smart` waits for its clients."""
        self._run("pg_ctl", "stop", f"--mode={mode}")

    def restart(self, mode: str = "immediate") -> None:
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """kill -9 of all its processes, as the kernel does when memory runs out."""
        postmaster = self._pid()
        assert postmaster, f"The cluster in {self.folder} does not run."
        os.kill(postmaster, signal.SIGSTOP)  # So that it starts no others meanwhile.
        doomed = [postmaster, *_children(postmaster)]
        for pid in doomed:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while any(map(identity, doomed)):
            assert time.monotonic() < deadline, f"{doomed} do not die."
            time.sleep(0.02)
        # Where nobody reaps it, its process number stays taken, and the next start would be refused.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        Path(f"{self.socket}.lock").unlink(missing_ok=True)

    def _pid(self) -> int | None:
        """The process number of its postmaster, None if it does not run."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split()[0])
        except (OSError, IndexError):
            return None
        return pid if identity(pid) else None

    def _run(self, program: str, *arguments: str) -> None:
        with (self.folder / "log").open("ab") as log:
            done = subprocess.run(
                [_program(program), "-D", str(self.data), *arguments],
                user=self._user.pw_uid,
                group=self._user.pw_gid,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
            )
        if done.returncode:
            told = (self.folder / "log").read_text()
            sys.exit(f"{program} ended with exit code {done.returncode}:\n{told}")

    def _remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def private_cluster() -> Iterator[dict[str, str]]:
    """A running cluster; the environment variables that lead to it."""
    with Cluster() as cluster:
        yield cluster.variables


def _program(name: str) -> str:
    found = shutil.which(name) or next(
        iter(sorted(glob(f"/usr/lib/postgresql/*/bin/{name}"), reverse=True)), None
    )
    if found is None:
        sys.exit(
            f"{name} is not installed; the tests on PostgreSQL need it (Debian: apt-get install postgresql)."
        )
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # A system that does not tell; they end by themselves soon after their parent.
        return []


def _run(command: list[str], environment: dict[str, str]) -> int:
    """Its exit code. The command ends before its database does, whatever tells this process to end."""
    process = subprocess.Popen(command, env={**os.environ, **environment})
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C reaches the command, too.
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    return process.wait()


if __name__ == "__main__":
    with private_cluster() as variables:
        sys.exit(_run(sys.argv[1:], variables))
