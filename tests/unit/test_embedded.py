"""Where the embedded server is; that it runs is tested elsewhere."""

import pytest
import redis

from django_jobs import embedded, environment


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


@pytest.fixture
def project(settings, monkeypatch, tmp_path):
    """A project that declares no queues."""
    settings.BASE_DIR = tmp_path
    monkeypatch.delenv("REDIS_URL", raising=False)
    return tmp_path


def test_without_queues_there_is_a_default_one_on_the_server_of_the_environment(project, monkeypatch):
    monkeypatch.setenv("REDIS_URL", "redis://somewhere:6379/2")

    assert environment.default_rq_queues() == {"default": {"URL": "redis://somewhere:6379/2"}}


def test_without_one_it_is_on_the_embedded_server_of_the_project(project):
    url = embedded.url(project / ".django_jobs")

    assert environment.default_rq_queues() == {"default": {"URL": url}}


def test_without_the_embedded_server_it_is_on_this_machine(project, monkeypatch):
    monkeypatch.setattr(environment, "find_spec", lambda name: None)

    assert environment.default_rq_queues() == {"default": {"URL": "redis://localhost:6379/0"}}


def test_a_worker_starts_no_embedded_server_for_a_project_that_declares_its_queues(project, settings):
    settings.RQ_QUEUES = {"mail": {"URL": "redis://one"}}

    assert environment.prepare_default_server() == ""
    assert list(project.iterdir()) == []
