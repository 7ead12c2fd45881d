"""The proxy breaks what it is told to break, and nothing else."""

import socket
import socketserver
import threading
import time

import pytest

from tests.conftest import wait_until
from tests.faults.proxy import HANG, PASS, REFUSE, FaultProxy


class Echo(socketserver.StreamRequestHandler):
    """Answers each line with itself."""

    def handle(self):
        try:
            for line in self.rfile:
                self.server.heard.append(line)
                self.wfile.write(line)
        except ConnectionError:
            pass


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


class UnixEchoServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@pytest.fixture(params=["tcp", "unix"])
def server(request, tmp_path):
    if request.param == "tcp":
        server = EchoServer(("127.0.0.1", 0), Echo)
    else:
        server = UnixEchoServer(str(tmp_path / "echo"), Echo)
    with server:
        server.heard = []
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def proxy(server):
    with FaultProxy(server.server_address) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy):
    clients = []

    def connect():
        clients.append(socket.create_connection(("127.0.0.1", proxy.port), timeout=20))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


def ask(client, line):
    client.sendall(line)
    return client.recv(100)


def is_cut(client):
    try:
        return client.recv(100) == b""
    except ConnectionError:
        return True


def is_refused(connect):
    try:
        return is_cut(connect())
    except ConnectionError:
        return True


def hears_nothing(client, seconds=0.2):
    client.settimeout(seconds)
    with pytest.raises(TimeoutError):
        client.recv(100)
    client.settimeout(20)
    return True


def test_it_forwards_both_ways_and_tells_who_is_connected(proxy, connect):
    one, other = connect(), connect()

    assert (ask(one, b"a\n"), ask(other, b"b\n"), ask(one, b"c\n")) == (b"a\n", b"b\n", b"c\n")
    assert proxy.connections == 2
    one.close()
    wait_until(lambda: proxy.connections == 1)


def test_refusing_cuts_old_and_new_connections_until_it_passes_again(proxy, server, connect):
    old = connect()
    ask(old, b"before\n")

    proxy.mode = REFUSE

    assert is_cut(old)
    assert is_refused(connect)
    proxy.mode = PASS
    assert ask(connect(), b"after\n") == b"after\n"
    assert server.heard == [b"before\n", b"after\n"]


def test_hanging_holds_old_and_new_connections_until_it_passes_again(proxy, server, connect):
    old = connect()
    ask(old, b"before\n")

    proxy.mode = HANG
    new = connect()
    old.sendall(b"held\n")
    new.sendall(b"held, too\n")

    assert hears_nothing(old)
    assert hears_nothing(new)
    assert server.heard == [b"before\n"]
    proxy.mode = PASS
    assert (old.recv(100), new.recv(100)) == (b"held\n", b"held, too\n")


def test_what_hangs_is_cut_and_not_forwarded_when_it_refuses(proxy, server, connect):
    proxy.mode = HANG
    client = connect()
    client.sendall(b"held\n")

    proxy.mode = REFUSE

    assert is_cut(client)
    proxy.mode = PASS
    ask(connect(), b"after\n")
    assert server.heard == [b"after\n"]


def test_a_reply_is_dropped_once_and_its_request_was_executed(proxy, server, connect):
    client = connect()
    ask(client, b"SAY this\n")
    proxy.drop_reply_to = b"SAY"

    assert ask(client, b"other\n") == b"other\n"
    client.sendall(b"S")  # In two pieces.
    time.sleep(0.05)
    client.sendall(b"AY that\n")

    assert is_cut(client)
    assert server.heard[-1] == b"SAY that\n"
    assert ask(connect(), b"SAY again\n") == b"SAY again\n"
    assert proxy.hits == 1


def test_a_client_is_cut_once_before_its_request_is_heard(proxy, server, connect):
    client = connect()
    proxy.cut_before = b"SAY"
    client.sendall(b"SAY this\n")

    assert is_cut(client)
    assert ask(connect(), b"SAY again\n") == b"SAY again\n"
    assert (server.heard, proxy.hits) == ([b"SAY again\n"], 1)


def test_all_that_are_connected_can_be_cut(proxy, connect):
    clients = [connect(), connect()]
    for client in clients:
        ask(client, b"here\n")

    proxy.cut_all()

    assert [is_cut(client) for client in clients] == [True, True]
    assert ask(connect(), b"new\n") == b"new\n"


def test_all_that_are_connected_can_be_stranded(proxy, server, connect):
    stranded = connect()
    ask(stranded, b"before\n")

    proxy.strand_all()
    stranded.sendall(b"lost\n")

    assert ask(connect(), b"new\n") == b"new\n"
    assert hears_nothing(stranded)
    assert server.heard == [b"before\n", b"new\n"]


def test_each_way_takes_as_long_as_asked(proxy, connect):
    client = connect()
    proxy.latency_seconds = 0.1

    began = time.monotonic()
    ask(client, b"slow\n")

    assert time.monotonic() - began >= 0.2


def test_a_server_that_is_away_is_seen_as_away(proxy, server, connect):
    proxy.target = ("127.0.0.1", 1)

    assert is_refused(connect)
