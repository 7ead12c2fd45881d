"""The embedded server, started for real."""

import os
import signal
import stat
import subprocess
import sys
import threading

import pytest
import redis

from django_jobs import embedded
from django_jobs.exceptions import EmbeddedServerError
from django_jobs.processes import identity
from tests.conftest import ROOT, wait_until


@pytest.fixture
def folder(tmp_path):
    yield tmp_path / "valkey"
    embedded.stop(tmp_path / "valkey")


def test_it_starts_answers_and_stops(folder):
    server = embedded.start(folder)

    with redis.Redis.from_url(server.url) as client:
        assert client.ping() is True
    assert (server.url, server.directory) == (embedded.url(folder), folder)
    assert identity(server.pid)

    assert embedded.stop(folder) is True
    assert (identity(server.pid), embedded.find(folder)) == (None, None)
    assert embedded.stop(folder) is False


def test_a_second_start_finds_the_first(folder):
    first = embedded.start(folder)

    assert embedded.start(folder) == first == embedded.find(folder)


def test_many_starts_at_once_make_one_server(folder):
    begin, pids = threading.Barrier(5), []

    def start():
        begin.wait()
        pids.append(embedded.start(folder).pid)

    threads = [threading.Thread(target=start) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (len(pids), len(set(pids))) == (5, 1)
    assert (folder / "valkey.log").read_text().count("Server initialized") == 1


def test_another_process_finds_it_and_it_outlives_the_one_that_started_it(folder):
    code = f"from django_jobs import embedded; print(embedded.start({str(folder)!r}).pid)"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert embedded.find(folder).pid == int(told.stdout)


def test_its_data_is_kept_when_it_is_stopped(folder):
    with redis.Redis.from_url(embedded.start(folder).url) as client:
        client.set("kept", "yes")
    embedded.stop(folder)

    with redis.Redis.from_url(embedded.start(folder).url) as client:
        assert client.get("kept") == b"yes"


def test_its_data_is_kept_when_it_is_killed(folder):
    server = embedded.start(folder)
    with redis.Redis.from_url(server.url) as client:
        client.rpush("queue", *range(1000))
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: identity(server.pid) is None)
    assert embedded.find(folder) is None

    again = embedded.start(folder)

    assert again.pid != server.pid
    with redis.Redis.from_url(again.url) as client:
        assert client.llen("queue") == 1000


def test_only_its_user_may_open_the_socket(folder):
    embedded.start(folder)

    mode = (folder / "valkey.sock").stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o700


def test_it_listens_on_no_port(folder):
    with redis.Redis.from_url(embedded.start(folder).url) as client:
        assert client.config_get("port")["port"] == "0"


def test_a_folder_with_a_long_or_odd_name_will_do(tmp_path):
    folder = tmp_path / ("long " * 30) / "ü #?%"
    server = embedded.start(folder)

    try:
        with redis.Redis.from_url(embedded.url(folder)) as client:
            client.set("here", "yes")
        assert embedded.find(folder) == server
        assert any((folder / "appendonlydir").iterdir())
    finally:
        embedded.stop(folder)


def test_git_ignores_its_folder(folder):
    embedded.start(folder)

    assert (folder / ".gitignore").read_text() == "*\n"


def test_a_server_that_cannot_start_is_told_with_the_end_of_its_log(folder):
    folder.mkdir()
    (folder / "appendonlydir").write_text("in the way")

    with pytest.raises(EmbeddedServerError, match="valkey") as refused:
        embedded.start(folder, timeout_seconds=1)

    assert "appendonlydir" in str(refused.value)
