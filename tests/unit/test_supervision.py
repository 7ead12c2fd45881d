"""What a supervisor is told: by systemd's datagrams and by a file."""

import os
import socket

import pytest

from django_jobs.supervision import Supervision


@pytest.fixture
def systemd(monkeypatch, tmp_path):
    """What listens where systemd would; what it has heard."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(str(tmp_path / "notify"))
        line.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield lambda: line.recv(1000).decode()


def test_systemd_is_told_all_that_it_asks_for(systemd):
    supervision = Supervision()

    supervision.ready()
    assert systemd().splitlines() == ["READY=1", f"MAINPID={os.getpid()}"]
    supervision.alive()
    assert systemd() == "WATCHDOG=1"
    supervision.stopping()
    assert systemd() == "STOPPING=1"


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="The abstract namespace is Linux's.")
def test_systemd_may_listen_in_the_abstract_namespace(monkeypatch, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(f"\0{tmp_path}")
        line.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{tmp_path}")

        Supervision().alive()

        assert line.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "x" * 500])
def test_who_is_not_supervised_or_no_longer_is_goes_on(monkeypatch, address):
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    supervision = Supervision()

    supervision.ready()
    supervision.alive()
    supervision.stopping()


def test_the_file_is_there_while_jobs_are_taken_and_names_the_process(monkeypatch, tmp_path):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    path = tmp_path / "ready"
    supervision = Supervision(str(path))
    assert not path.exists()

    supervision.ready()
    supervision.alive()

    assert path.read_text() == f"{os.getpid()}\n"
    supervision.stopping()
    supervision.stopping()
    assert not path.exists()


def test_the_file_may_be_named_by_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))

    Supervision("~/ready").ready()

    assert (tmp_path / "ready").exists()


def test_a_file_that_cannot_be_written_is_an_error_when_it_is_to_be_there(tmp_path):
    supervision = Supervision(str(tmp_path / "no" / "folder"))

    with pytest.raises(OSError, match="folder"):
        supervision.ready()
    supervision.stopping()
