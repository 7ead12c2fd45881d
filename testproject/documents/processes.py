"""Starts the processes of the demo, starts those that die again, and stops them all."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field

from django.conf import settings

GRACE_SECONDS = 10
SHORT_LIFE_SECONDS = 5
SHORT_LIVES_ALLOWED = 3


class ProcessError(Exception):
    """Raised when a process cannot be kept running; says which, and how its log ends."""


@dataclass
class _Entry:
    name: str
    command: list
    log: object
    process: subprocess.Popen = None
    started: float = 0
    short_lives: int = field(default=0)


class Processes:
    """Some `manage.py` commands that run side by side; a context manager that stops them at its end.

    Each leads a process group of its own, so that Ctrl-C in the terminal reaches only the demo, and
    nothing that a process started survives it.
    """

    def __init__(self, log_folder):
        self._log_folder = log_folder
        self._entries = []

    def __enter__(self):
        self._log_folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *exception):
        self.stop()

    def start(self, name, *arguments):
        """Start `manage.py` with these arguments; its output goes to the log file `<name>.log`."""
        command = [sys.executable, str(settings.BASE_DIR / "manage.py"), *arguments]
        entry = _Entry(name, command, self._log_folder / f"{name}.log")
        self._entries.append(entry)
        _launch(entry)

    def restart_dead(self):
        """Start again what has ended, and return a sentence about each.

        Raises `ProcessError` for one that ended right after its start three times in a row.
        """
        return [_restart(entry) for entry in self._entries if entry.process.poll() is not None]

    def stop(self):
        """Ask all to end with SIGTERM; after a grace of 10 seconds, SIGKILL their process groups."""
        try:
            for entry in self._entries:
                entry.process.terminate()
            deadline = time.monotonic() + GRACE_SECONDS
            for entry in self._entries:
                with suppress(subprocess.TimeoutExpired):
                    entry.process.wait(max(0, deadline - time.monotonic()))
        finally:  # Also when a second Ctrl-C interrupts the waiting.
            for entry in self._entries:
                _kill_group(entry.process)
            self._entries.clear()


def free_port(wanted):
    """Return the wanted port of 127.0.0.1, or another one if it is taken."""
    for port in (wanted, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as runserver does
            probe.bind(("127.0.0.1", port))
            return probe.getsockname()[1]
    raise ProcessError("127.0.0.1 has no free port.")


def answers(port):
    """Whether a server listens on this port of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _launch(entry):
    with entry.log.open("ab") as log:
        entry.process = subprocess.Popen(
            entry.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
    entry.started = time.monotonic()


def _restart(entry):
    code = entry.process.returncode
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    lived_shortly = time.monotonic() - entry.started < SHORT_LIFE_SECONDS
    entry.short_lives = entry.short_lives + 1 if lived_shortly else 0
    if entry.short_lives >= SHORT_LIVES_ALLOWED:
        raise ProcessError(
            f"{entry.name} {how} right after its start, {entry.short_lives} times in a row. "
            f"Its log, {entry.log}, ends with:\n{_end_of(entry.log)}"
        )
    _kill_group(entry.process)
    _launch(entry)
    return f"{entry.name} {how}; it was started again."


def _kill_group(process):
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _end_of(log):
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])
