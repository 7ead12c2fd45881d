"""A TCP proxy that breaks what passes through it, in the ways networks and servers do."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PASS, REFUSE, HANG = "pass", "refuse", "hang"
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: closing sends a reset, and drops what was not sent.


class FaultProxy:
    """Listens on `port` of the loopback and forwards to `target`, (host, port) or the path of a unix socket.

    Tests change these attributes while it runs:

    mode             PASS; REFUSE resets all connections, old and new ones; HANG takes new ones and forwards
                     nothing: that is held until it passes again, as in a gap of the network
    latency_seconds  how long each piece is held, in both directions
    drop_reply_to    bytes: the next request that holds them reaches the server, but its reply not the client,
                     which is cut instead; then None again
    cut_before       bytes: the next request that holds them is not forwarded, and its client cut; then None
                     again
    hits             how often the last two were met
    """

    def __init__(self, target: "tuple[str, int] | str | Path") -> None:
        self.target = target
        self.port = 0
        self.latency_seconds = 0.0
        self.drop_reply_to: bytes | None = None
        self.cut_before: bytes | None = None
        self.hits = 0
        self._mode = PASS
        self._links: set[_Link] = set()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="proxy", daemon=True)

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        assert self._listening.wait(10)
        return self

    def __exit__(self, *error: object) -> None:
        self._in_loop(self._stopping.set)
        self._thread.join(10)

    @property
    def mode(self) -> str:
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        assert mode in (PASS, REFUSE, HANG), mode
        self._in_loop(lambda: self._switch(mode))

    @property
    def connections(self) -> int:
        """How many clients are connected, and not cut."""
        return len(self._links)

    def cut_all(self) -> None:
        """Reset every connection there is; new ones are served."""
        self._in_loop(self._cut_all)

    def strand_all(self) -> None:
        """Have every connection there is stay open and carry nothing any more, as when the power of a host
        fails; new ones are served."""
        self._in_loop(lambda: [setattr(link, "is_stranded", True) for link in self._links])

    def _in_loop(self, do: Callable[[], Any]) -> None:
        """Have it done in the proxy's thread, and wait until it is."""
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (do(), done.set()))
        assert done.wait(10)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda *_: None)  # Broken connections are what it is for.
        self._stopping, self._flows = asyncio.Event(), asyncio.Event()
        self._flows.set()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1000)
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        await self._stopping.wait()
        # Before it closes, who comes in this moment is served: asyncio would forget to close its socket.
        self._loop.remove_reader(server.sockets[0].fileno())
        self._switch(REFUSE)
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
        server.close()

    def _switch(self, mode: str) -> None:
        self._mode = mode
        if mode == REFUSE:
            self._cut_all()
        if mode == HANG:
            self._flows.clear()
        else:
            self._flows.set()

    def _cut_all(self) -> None:
        for link in list(self._links):
            self._cut(link)

    def _cut(self, link: "_Link") -> None:
        link.is_cut = True
        self._links.discard(link)
        for end in (link.client, link.server):
            if end:
                _reset(end)

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        if self._mode == REFUSE:
            _reset(client)
            return
        link = _Link(client)
        self._links.add(link)
        try:
            await self._flows.wait()
            if link.is_cut:
                return
            from_server, link.server = await self._connect()
            if not link.is_cut:
                requests = self._forward(reader, link.server, link, self._look_at_request)
                replies = self._forward(from_server, client, link, self._look_at_reply)
                await asyncio.gather(requests, replies)
        except OSError:
            pass  # One side is gone, so the other is cut.
        finally:
            self._cut(link)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.target, tuple):
            return await asyncio.open_connection(*self.target)
        return await asyncio.open_unix_connection(self.target)

    async def _forward(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        link: "_Link",
        look_at: "Callable[[bytes, _Link], None]",
    ) -> None:
        while piece := await source.read(1 << 16):
            look_at(piece, link)
            if self.latency_seconds:
                await asyncio.sleep(self.latency_seconds)
            await self._flows.wait()
            if link.is_stranded:
                await self._stopping.wait()
            sink.write(piece)
            await sink.drain()
        await self._flows.wait()
        sink.write_eof()

    def _look_at_request(self, piece: bytes, link: "_Link") -> None:
        before, link.seen = link.seen, (link.seen + piece)[-200:]

        def holds(pattern: bytes | None) -> bool:
            # It may come in two pieces.
            return bool(pattern) and pattern in before[max(0, len(before) - len(pattern) + 1) :] + piece

        if holds(self.cut_before):
            self.cut_before = None
            self.hits += 1
            self._cut(link)
        elif holds(self.drop_reply_to):
            self.drop_reply_to = None
            self.hits += 1
            link.drops_reply = True

    def _look_at_reply(self, piece: bytes, link: "_Link") -> None:
        if link.drops_reply:
            self._cut(link)


@dataclass(eq=False)
class _Link:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    seen: bytes = b""
    """The end of what the client has sent."""
    drops_reply: bool = False
    is_cut: bool = False
    is_stranded: bool = False


def _reset(end: asyncio.StreamWriter) -> None:
    sock = end.get_extra_info("socket")
    if sock.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):  # Closed already.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    end.transport.abort()
