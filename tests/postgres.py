"""Run a command with a private PostgreSQL: `python -m tests.postgres pytest`.

The cluster lives and listens in a temporary folder, which only its user may enter, and is gone when the
command ends. PostgreSQL refuses to run as root; root runs it as the user `postgres`.
"""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob
from pathlib import Path


@contextmanager
def private_cluster() -> Iterator[dict[str, str]]:
    """A running cluster; the environment variables that lead to it."""
    runs_as = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    folder = Path(tempfile.mkdtemp(prefix="django-jobs-postgres-"))
    shutil.chown(folder, runs_as.pw_uid, runs_as.pw_gid)
    data = folder / "data"
    options = f"-p 5432 -c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off"

    def run(program: str, *arguments: str) -> None:
        command = [_program(program), "-D", str(data), *arguments]
        log = (folder / "log").open("ab")
        done = subprocess.run(
            command,
            user=runs_as.pw_uid,
            group=runs_as.pw_gid,
            cwd=folder,
            stdout=log,
            stderr=log,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{program} ended with exit code {done.returncode}:\n{(folder / 'log').read_text()}")

    try:
        run("initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync")
        run("pg_ctl", "start", "--wait", "--log", str(data / "server.log"), "--options", options)
        try:
            yield {
                "DATABASE": "postgresql",
                "PGHOST": str(folder),
                "PGPORT": "5432",
                "PGUSER": "postgres",
                "DATABASE_NAME": "postgres",
            }
        finally:
            run("pg_ctl", "stop", "--mode=immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _program(name: str) -> str:
    found = shutil.which(name) or next(
        iter(sorted(glob(f"/usr/lib/postgresql/*/bin/{name}"), reverse=True)), None
    )
    if found is None:
        sys.exit(
            f"{name} is not installed; the tests on PostgreSQL need it (Debian: apt-get install postgresql)."
        )
    return found


def _run(command: list[str], environment: dict[str, str]) -> int:
    """Its exit code. The command ends before its database does, whatever tells this process to end."""
    process = subprocess.Popen(command, env={**os.environ, **environment})
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C reaches the command, too.
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    return process.wait()


if __name__ == "__main__":
    with private_cluster() as variables:
        sys.exit(_run(sys.argv[1:], variables))
