import os
import re
import signal
import socket

import pytest

from django_jobs.processes import identity
from testproject.documents.processes import ProcessError, Processes, free_port
from tests.conftest import wait_until


def command(code):
    """Arguments of manage.py that run this Python code."""
    return ["shell", "--no-imports", "--command", code]


@pytest.fixture
def processes(tmp_path):
    with Processes(tmp_path / "logs") as processes:
        yield processes


@pytest.fixture
def pid_in(tmp_path):
    """Read the process id that a process has written into the file of this name."""

    def read(name, other_than=None):
        path = tmp_path / name
        wait_until(lambda: path.exists() and path.read_text().strip() not in ("", str(other_than)))
        return int(path.read_text())

    return read


def sleeper(path, prelude=""):
    return command(
        f"import os, pathlib, subprocess, signal, time; {prelude}"
        f"pathlib.Path({str(path)!r}).write_text(str(os.getpid())); time.sleep(600)"
    )


def test_a_killed_process_is_started_again_and_named(processes, pid_in, tmp_path):
    processes.start("sleeper", *sleeper(tmp_path / "pid"))
    pid = pid_in("pid")

    os.kill(pid, signal.SIGKILL)
    sentences = []
    wait_until(lambda: sentences.extend(processes.restart_dead()) or sentences)

    assert sentences == ["sleeper was killed by SIGKILL; it was started again."]
    assert identity(pid_in("pid", other_than=pid))


def test_a_process_that_ends_at_once_again_and_again_is_an_error_with_its_log(processes, monkeypatch):
    monkeypatch.setattr("testproject.documents.processes.SHORT_LIFE_SECONDS", 3600)
    processes.start("broken", *command("raise SystemExit('out of order')"))

    def error():
        try:
            processes.restart_dead()
        except ProcessError as raised:
            return str(raised)

    assert re.search(r"(?s)broken ended with exit code 1 .*out of order", wait_until(error))


def test_stop_ends_a_process_that_ignores_sigterm_and_its_children(processes, pid_in, tmp_path, monkeypatch):
    monkeypatch.setattr("testproject.documents.processes.GRACE_SECONDS", 0.2)
    child = f"subprocess.Popen(['sh', '-c', 'echo $$ > {tmp_path / 'child'}; sleep 600']); "
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    processes.start("stubborn", *sleeper(tmp_path / "pid", prelude=ignore + child))
    pids = [pid_in("pid"), pid_in("child")]

    processes.stop()

    wait_until(lambda: not any(map(identity, pids)))


def test_a_taken_port_is_replaced_by_a_free_one():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        taken = server.getsockname()[1]

        assert free_port(taken) not in (taken, 0)

    assert free_port(taken) == taken
