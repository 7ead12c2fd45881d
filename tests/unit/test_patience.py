"""Waits for a database that hangs end, and no others do."""

import os
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from django_jobs import patience as module
from django_jobs.patience import patience
from tests.conftest import Stopwatch, wait_until


@pytest.fixture
def database(monkeypatch):
    """The connection of this thread to a server that never answers; `receive` waits for that."""
    ours, theirs = socket.socketpair()
    line = SimpleNamespace(fileno=ours.fileno)
    monkeypatch.setattr(module, "connections", {"x": SimpleNamespace(connection=line, alias="x")})
    with ours, theirs:
        ours.settimeout(30)
        yield SimpleNamespace(receive=lambda: ours.recv(1), answer=lambda: theirs.send(b"1"), ours=ours)


def test_a_wait_for_an_answer_ends_with_its_connection(database, caplog):
    with Stopwatch() as watch, patience("x", 0.2):
        assert database.receive() == b""

    assert 0.1 < watch.seconds < 5
    assert wait_until(lambda: "x has not answered for 0.2 s" in caplog.text)


def test_what_is_answered_in_time_keeps_its_connection(database):
    with patience("x", 0.2):
        pass

    time.sleep(1.2)

    database.answer()
    assert database.receive() == b"1"


def test_of_two_waits_the_one_that_is_over_ends(database, monkeypatch):
    other, theirs = socket.socketpair()
    with other, theirs:
        module.connections["y"] = SimpleNamespace(connection=SimpleNamespace(fileno=other.fileno), alias="y")
        with patience("y", 60), patience("x", 0.1):
            assert database.receive() == b""

            theirs.send(b"1")
            assert other.recv(1) == b"1"


def test_a_block_inside_another_has_its_own_patience(database):
    with patience("x", 60):
        with patience("x", 60):
            pass
        assert len(module._waits) == 1
        with patience("x", 0.1):
            assert database.receive() == b""
    assert not module._waits


def test_an_error_in_the_block_ends_the_wait():
    with pytest.raises(LookupError), patience("default", 60):
        raise LookupError

    assert not module._waits


@pytest.mark.parametrize("connection", [None, object(), SimpleNamespace(fileno=lambda: 1 / 0)])
def test_what_has_no_line_to_break_is_left_alone(monkeypatch, connection):
    """SQLite, and what is not connected yet."""
    monkeypatch.setattr(module, "connections", {"x": SimpleNamespace(connection=connection, alias="x")})

    with patience("x", 0.05):
        time.sleep(0.7)


def test_a_connection_that_is_made_late_is_broken_when_its_turn_is_over_again(database):
    wrapper = module.connections["x"]
    line, wrapper.connection = wrapper.connection, None

    with patience("x", 0.2):
        time.sleep(0.3)
        wrapper.connection = line
        assert database.receive() == b""


def test_one_thread_watches_over_all_and_none_is_started_for_each(database):
    for _ in range(1000):
        with patience("x", 60):
            pass

    watching = [each for each in threading.enumerate() if each.name == "django-jobs-patience"]
    assert len(watching) == 1


def test_a_wait_that_begins_when_the_last_one_has_just_ended_is_watched(database):
    for _ in range(3):
        with patience("x", 0.01):
            time.sleep(0.02)
    module.connections["x"].connection = None
    other, theirs = socket.socketpair()
    with other, theirs:
        other.settimeout(30)
        module.connections["x"].connection = SimpleNamespace(fileno=other.fileno)
        with patience("x", 0.1):
            assert other.recv(1) == b""


def test_a_forked_process_watches_by_itself_and_only_its_own_waits(database):
    with patience("x", 60):
        if (pid := os.fork()) == 0:
            try:
                assert not module._waits
                with patience("x", 0.1):
                    assert database.receive() == b""
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
