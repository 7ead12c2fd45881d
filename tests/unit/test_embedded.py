"""Where the embedded server is; that it runs is tested elsewhere."""

import pytest
import redis

from django_jobs import embedded


def socket_of(url):
    return redis.Redis.from_url(url).connection_pool.connection_kwargs["path"]


def test_the_url_names_a_socket_in_the_folder():
    assert embedded.url("/srv/project/.valkey") == "unix:///srv/project/.valkey/valkey.sock"


@pytest.mark.parametrize("name", ["with space", "per%cent", "quest?ion", "ha#sh", "ü", "a:b@c"])
def test_a_client_finds_the_socket_whatever_the_folders_name(name):
    assert socket_of(embedded.url(f"/srv/{name}")) == f"/srv/{name}/valkey.sock"


def test_relative_folders_are_resolved(monkeypatch, tmp_path):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path)

    assert embedded.url("a") == embedded.url("a/../a") == embedded.url(tmp_path / "a")


@pytest.mark.parametrize("length", [80, 99, 100, 101, 150, 4000])
def test_a_socket_always_has_a_path_that_the_system_takes(length):
    path = socket_of(embedded.url("/" + "x" * length))

    assert len(path.encode()) <= 104


def test_folders_with_long_names_have_sockets_of_their_own():
    one, other = (embedded.url(f"/{'x' * 120}/{name}") for name in "ab")

    assert one != other
    assert embedded.url(f"/{'x' * 120}/a") == one


def test_a_folder_that_does_not_exist_has_no_server(tmp_path):
    assert embedded.find(tmp_path / "nowhere") is None
    assert embedded.stop(tmp_path / "nowhere") is False
    assert not (tmp_path / "nowhere").exists()
