"""The commands on a real terminal: tables, bars, questions, and what is watched."""

import os
import re
import signal
import subprocess
import sys
import termios
import threading
from contextlib import contextmanager
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections

from django_jobs.models import Queue
from django_jobs.states import CANCELED, FAILED, QUEUED, STARTED
from tests.conftest import ROOT, fresh, wait_until

pytestmark = pytest.mark.usefixtures("valkey")

COLOR = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """A pseudo-terminal: what is written to it, and what somebody types."""

    def __init__(self):
        self._person, program = os.openpty()
        termios.tcsetwinsize(program, (24, 100))
        self.file = os.fdopen(program, "w", buffering=1)
        self.keyboard = os.fdopen(os.dup(program))
        self._read = bytearray()
        self._reader = threading.Thread(target=self._collect)
        self._reader.start()

    def type(self, text):
        os.write(self._person, text.encode())

    @property
    def text(self):
        return self._read.decode(errors="replace")

    def close(self):
        self.file.close()
        self.keyboard.close()
        self._reader.join(timeout=60)
        os.close(self._person)

    def _collect(self):
        try:
            while piece := os.read(self._person, 4096):
                self._read += piece
        except OSError:  # The other end was closed.
            pass


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    terminal = Terminal()
    yield terminal
    terminal.close()


@pytest.fixture
def failed(job_factory):
    return [job_factory(status=FAILED, error_type="ValueError", error_message="x " * 90) for _ in range(3)]


@pytest.mark.parametrize("command", ["list_failed", "list_queues", "list_workers", "jobs_status"])
def test_tables_are_drawn_on_a_terminal_and_plain_in_a_pipe(failed, job_factory, terminal, command):
    job = job_factory(status=STARTED)
    ids = [str(job.pk)] if command in {"list_workers", "jobs_status"} else []
    ids = [str(job.pk) for job in failed] if command == "list_failed" else ids
    pipe = StringIO()

    call_command(command, stdout=terminal.file)
    call_command(command, stdout=pipe)

    wait_until(lambda: "─" in terminal.text and terminal.text.endswith("\n"))
    assert COLOR.search(terminal.text)
    assert "\x1b" not in pipe.getvalue()
    assert "─" not in pipe.getvalue()
    for whole in ids:
        assert whole in terminal.text
        assert whole in pipe.getvalue()


def test_on_a_narrow_terminal_nothing_is_cut(failed, terminal, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")

    call_command("list_failed", stdout=terminal.file)

    wait_until(lambda: terminal.text.count("tests.tasks.add   file_processing") == 3)
    assert all(str(job.pk) in terminal.text for job in failed)
    assert terminal.text.count("x ") >= 3 * 89


def test_what_stands_in_a_table_is_text_and_no_markup(job_factory, terminal):
    job_factory(status=FAILED, error_type="[red]Error[/red]")

    call_command("list_failed", stdout=terminal.file)

    wait_until(lambda: "[red]Error[/red]" in terminal.text)


def test_a_bar_shows_on_a_terminal_how_far_a_requeue_is(failed, terminal):
    out = StringIO()

    call_command("requeue_failed", "--all", "--json", stdout=out, stderr=terminal.file)

    wait_until(lambda: "3/3" in terminal.text)
    assert out.getvalue() == '{\n  "done": 3,\n  "refused": {}\n}\n'


def test_a_pipe_gets_no_bar(failed):
    err = StringIO()

    call_command("requeue_failed", "--all", stdout=StringIO(), stderr=err)

    assert err.getvalue() == ""


@pytest.mark.parametrize(("answer", "status"), [("y\n", CANCELED), ("n\n", QUEUED), ("\n", QUEUED)])
def test_a_person_at_a_terminal_is_asked_whether_all_is_meant(
    job_factory, terminal, monkeypatch, answer, status
):
    jobs = [job_factory(), job_factory(queue="vectorization")]
    monkeypatch.setattr(sys, "stdin", terminal.keyboard)
    terminal.type(answer)

    try:
        call_command("jobs_cancel", "--all", stdout=terminal.file)
    except CommandError as error:
        assert "Nothing was canceled; --yes cancels 2 jobs" in str(error)  # noqa: PT017

    wait_until(lambda: "Cancel 2 jobs of all queues (queued, scheduled, deferred)? [y/N]" in terminal.text)
    assert [fresh(job).status for job in jobs] == [status, status]


@pytest.fixture
def watch(transactional_db, valkey_server, tmp_path):
    """Watch as a process of its own, writing to a file or a terminal."""

    @contextmanager
    def start(*arguments, out):
        process = subprocess.Popen(
            [sys.executable, "manage.py", "jobs_status", "--watch", "0.1", *arguments],
            cwd=ROOT,
            env={
                **os.environ,
                "DJANGO_SETTINGS_MODULE": "tests.worker_settings",
                "DATABASE_NAME": str(connections["default"].settings_dict["NAME"]),
                "REDIS_URL": valkey_server.url,
                "PROJECT_DATA": str(tmp_path),
            },
            stdout=out,
            stderr=subprocess.STDOUT,
            # A shell's background jobs, as these tests may be, ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            yield process
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
            process.wait(timeout=60)

    return start


def test_in_a_pipe_one_block_follows_the_other_until_ctrl_c(watch, tmp_path):
    path = tmp_path / "told"

    with path.open("wb") as out, watch(out=out):
        wait_until(lambda: path.read_text().count("queue  ") >= 2)
        Queue.objects.create(name="vectorization", paused=True)
        wait_until(lambda: "vectorization (paused)" in path.read_text())

    assert "\x1b" not in path.read_text()
    assert "Traceback" not in path.read_text()


def test_for_programs_each_look_is_a_line(watch, tmp_path):
    path = tmp_path / "told"

    with path.open("wb") as out, watch("--json", out=out):
        wait_until(lambda: len(path.read_text().splitlines()) >= 3)

    lines = path.read_text().splitlines()
    assert all(re.fullmatch(r'\{"queues": \[.*\], "workers": \[\]\}', line) for line in lines)


def test_for_programs_a_line_is_whole_on_a_terminal_too(watch, terminal):
    with watch("--json", out=terminal.file):
        wait_until(lambda: terminal.text.count("\n") >= 2)

    assert re.fullmatch(r'\{"queues": \[.*\], "workers": \[\]\}', terminal.text.splitlines()[0])


def test_on_a_terminal_it_is_drawn_in_its_place(watch, terminal):
    with watch(out=terminal.file):
        wait_until(lambda: len(re.findall(r"\x1b\[\d*A", terminal.text)) >= 20)  # The cursor goes up.
        Queue.objects.create(name="vectorization", paused=True)
        wait_until(lambda: "vectorization (paused)" in terminal.text)

    assert "Traceback" not in terminal.text


def test_watching_goes_on_while_the_database_does_not_answer(watch, tmp_path):
    path = tmp_path / "told"
    with path.open("wb") as out, watch(out=out):
        wait_until(lambda: "queue  " in path.read_text())
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE django_jobs_worker RENAME TO elsewhere")
            try:
                wait_until(lambda: "The database does not answer: " in path.read_text())
            finally:
                cursor.execute("ALTER TABLE elsewhere RENAME TO django_jobs_worker")
        before = path.read_text().count("queue  ")

        wait_until(lambda: path.read_text().count("queue  ") > before + 1)
