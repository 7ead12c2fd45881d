"""Servers that the environment names, reached for real: with users, passwords, IPv6 and TLS."""

import asyncio
import os
import shutil
import socket
import ssl
import subprocess
import threading
from contextlib import contextmanager

import pytest
import redis
from django_rq.connection_utils import get_redis_connection

from django_jobs import embedded
from django_jobs.environment import default_rq_queues, prepare_default_server, redis_url

USER = "ada@shop:ü%"
PASSWORD = "p@:/?#[]%2F&= +'\\ü€ "


@pytest.fixture
def project(settings, monkeypatch, tmp_path):
    """The folder of a project that declares no queues, in an environment that names no server."""
    settings.BASE_DIR = tmp_path
    settings.DJANGO_JOBS = {}
    for name in list(os.environ):
        if name.startswith(("REDIS_", "TASKIQ_REDIS_")):
            monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def named(project, monkeypatch):
    """Set variables, and connect to the server they name as the queues do."""

    @contextmanager
    def connect(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        with get_redis_connection(default_rq_queues()["default"]) as client:
            yield client

    return connect


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server that knows a user with an odd name and an odd password."""
    directory = tmp_path_factory.mktemp("valkey")
    server = embedded.start(directory)
    with redis.Redis.from_url(server.url) as client:
        client.acl_setuser(USER, enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], commands=["+@all"])
    yield server
    embedded.stop(directory)


@pytest.fixture(scope="module")
def port(server):
    """A port of this machine on which the server listens too."""
    addresses = ["127.0.0.1", "::1"] if has_ipv6() else ["127.0.0.1"]
    number = free_port()
    with redis.Redis.from_url(server.url) as client:
        client.execute_command("CONFIG", "SET", "bind", " ".join(addresses), "port", number)
    return number


def free_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as unused:
            unused.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_a_user_with_an_odd_password_is_let_in(named, port):
    with named(
        REDIS_HOST="127.0.0.1", REDIS_PORT=port, REDIS_DB=3, REDIS_USERNAME=USER, REDIS_PASSWORD=PASSWORD
    ) as client:
        assert client.acl_whoami() == USER
        assert client.client_info()["db"] == 3


def test_the_same_user_with_another_password_is_not(named, port):
    with (
        named(
            REDIS_HOST="127.0.0.1", REDIS_PORT=port, REDIS_USERNAME=USER, REDIS_PASSWORD=PASSWORD[:-1]
        ) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


def test_a_file_lets_the_user_in_too(named, port, project):
    quoted = PASSWORD.replace("\\", "\\\\")
    (project / ".env").write_text(f'REDIS_USERNAME="{USER}"\nREDIS_PASSWORD="{quoted}"\n')

    with named(TASKIQ_REDIS_HOST="127.0.0.1", TASKIQ_REDIS_PORT=port) as client:
        assert client.acl_whoami() == USER


@pytest.mark.skipif(not has_ipv6(), reason="This machine has no IPv6.")
@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_host_is_reached(named, port, host):
    with named(REDIS_HOST=host, REDIS_PORT=port) as client:
        assert client.ping()
        assert client.client_info()["laddr"] == f"[::1]:{port}"


def test_a_socket_is_reached_by_its_url(named, server):
    with named(REDIS_URL=server.url) as client:
        assert client.ping()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for this machine that its own key signed; the key lies in the same file."""
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate.")
    file = tmp_path_factory.mktemp("tls") / "own.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost "
        "-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout own.key -out own.crt"
    )
    subprocess.run(
        command.split(),
        cwd=file.parent,
        check=True,
        capture_output=True,
        timeout=120,
    )
    file.write_text(file.with_suffix(".key").read_text() + file.with_suffix(".crt").read_text())
    return file


@pytest.fixture
def tls_port(server, certificate):
    """A port on which TLS is spoken: by a tunnel to the server, which itself is built without it."""
    path = redis.Redis.from_url(server.url).connection_pool.connection_kwargs["path"]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def pump(reader, writer):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def tunnel(reader, writer):
        inner_reader, inner_writer = await asyncio.open_unix_connection(path)
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer), return_exceptions=True)

    async def serve():
        ended = asyncio.Event()
        stop.append((asyncio.get_running_loop(), ended))
        async with await asyncio.start_server(tunnel, "127.0.0.1", 0, ssl=context) as listening:
            ports.append(listening.sockets[0].getsockname()[1])
            ready.set()
            await ended.wait()

    stop, ports, ready = [], [], threading.Event()
    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    assert ready.wait(timeout=60)
    yield ports[0]
    [(loop, ended)] = stop
    loop.call_soon_threadsafe(ended.set)
    thread.join(timeout=60)


def test_tls_is_spoken_with_a_server_whose_certificate_is_trusted(named, tls_port, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    with named(
        REDIS_HOST="localhost",
        REDIS_PORT=tls_port,
        REDIS_SSL="true",
        REDIS_USERNAME=USER,
        REDIS_PASSWORD=PASSWORD,
    ) as client:
        assert client.acl_whoami() == USER


def test_a_url_may_name_the_authority_it_trusts(named, tls_port, certificate):
    with named(REDIS_URL=f"rediss://localhost:{tls_port}/0?ssl_ca_certs={certificate}") as client:
        assert client.ping()


def test_a_server_whose_certificate_is_not_trusted_is_not_talked_to(named, tls_port):
    with (
        named(REDIS_HOST="localhost", REDIS_PORT=tls_port, REDIS_SSL="true") as client,
        pytest.raises(redis.ConnectionError, match="certificate verify failed"),
    ):
        client.ping()


def test_a_project_without_queues_gets_its_own_server_and_is_told(project, settings):
    settings.RQ_QUEUES = default_rq_queues()

    told = prepare_default_server()

    try:
        server = embedded.find(project / ".django_jobs")
        assert server
        assert told == (
            "No RQ_QUEUES, no REDIS_URL and no REDIS_HOST: "
            f"using an embedded Valkey in {project / '.django_jobs'}."
        )
    finally:
        embedded.stop(project / ".django_jobs")


def test_a_project_that_puts_its_queues_there_itself_gets_it_too(project, settings):
    settings.RQ_QUEUES = {"mine": {"URL": redis_url(project)}}

    told = prepare_default_server()

    try:
        assert embedded.find(project / ".django_jobs")
        assert told == f"RQ_QUEUES names it: using an embedded Valkey in {project / '.django_jobs'}."
    finally:
        embedded.stop(project / ".django_jobs")
