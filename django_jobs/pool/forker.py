"""The process that forks a worker's children.

It has no threads and no connections, and has imported the project once, so that forking is safe, and cheap in
memory. The first one is forked by the worker before that makes any of these; a further one, with freshly
imported code, is the worker's own command started anew.
"""

import contextlib
import gc
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
from typing import Any

from ..processes import die_with_parent, disconnect_databases
from . import child
from .child import LimitsOfTime
from .seats import Seats

FORKER_VARIABLE = "DJANGO_JOBS_FORKER"
"""Tells the worker's command that it is to be a forker: which descriptor is its line to the worker, and
more."""

_MESSAGE_BYTES = 10_000

logger = logging.getLogger(__name__)


class Forker:
    """The worker's side: asks for children, hears of them."""

    def __init__(self, seats: Seats, limits: LimitsOfTime, *, fresh: bool = False) -> None:
        """`limits` end what takes too long in the children. `fresh`: with the code as it is on disk now;
        raises `OSError` if that cannot be started."""
        self.line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.pid = _start_anew(theirs, seats) if fresh else _fork(theirs, seats, limits, self.line)
        self.line.setblocking(False)
        self.is_ready = not fresh

    def fork(self, options: dict[str, Any], *ends: socket.socket) -> None:
        """Ask for a child with these options, see `child.Options`, and its ends of the lines."""
        self.line.setblocking(True)
        try:
            socket.send_fds(self.line, [json.dumps(options).encode()], [end.fileno() for end in ends])
        finally:
            self.line.setblocking(False)

    def heard(self) -> list[dict[str, Any]] | None:
        """What it has told since the last call: {"forked": number, "pid": …}, {"ended": pid, "status": …,
        "memory_kb": …}. None when it has ended."""
        told: list[dict[str, Any]] = []
        while True:
            try:
                message = self.line.recv(_MESSAGE_BYTES)
            except BlockingIOError:
                return told
            except ConnectionError:
                message = b""
            if not message:
                return told or None
            note = json.loads(message)
            if "ready" in note:
                self.is_ready = True
            else:
                told.append(note)

    def close(self) -> None:
        """Have it end when its last child has."""
        with contextlib.suppress(OSError):
            self.line.send(b"")  # Others that the worker forked may hold the line as well.


def _fork(theirs: socket.socket, seats: Seats, limits: LimitsOfTime, ours: socket.socket) -> int:
    parent_pid = os.getpid()
    disconnect_databases()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            serve(theirs, seats, limits, parent_pid)
        finally:
            os._exit(0)
    return pid


def _start_anew(theirs: socket.socket, seats: Seats) -> int:
    told = {
        "line": theirs.fileno(),
        "memory": seats.descriptor,
        "children": seats.children,
        "per_child": seats.per_child,
        "worker": os.getpid(),
    }
    started = subprocess.Popen(  # noqa: S603 - The command that runs already.
        [sys.executable, *sys.orig_argv[1:]],
        env={**os.environ, FORKER_VARIABLE: json.dumps(told)},
        pass_fds=[theirs.fileno(), seats.descriptor],
        stdin=subprocess.DEVNULL,
    )
    started.returncode = 0  # It is waited for like the one that was forked.
    return started.pid


def is_asked() -> bool:
    """True if this process was started to be a forker."""
    return FORKER_VARIABLE in os.environ


def serve_if_asked(limits: LimitsOfTime) -> None:
    """Be a forker until the worker ends, if this process was started as one; then exit."""
    if asked := os.environ.pop(FORKER_VARIABLE, ""):
        told = json.loads(asked)
        seats = Seats(told["children"], told["per_child"], told["memory"])
        serve(socket.socket(fileno=told["line"]), seats, limits, told["worker"])
        sys.exit(0)


def serve(line: socket.socket, seats: Seats, limits: LimitsOfTime, parent_pid: int) -> None:
    """Fork children as asked and tell of their ends, until the worker closes the line and all have ended."""
    die_with_parent(parent_pid)
    disconnect_databases()  # What was imported may have asked one.
    woken, waking = socket.socketpair()
    for end in (woken, waking):
        end.setblocking(False)
    signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        # A handler rather than SIG_IGN, which what a job starts would inherit. The worker decides.
        signal.signal(number, _pass)
    gc.freeze()  # Children that collect garbage must not copy all that was imported.
    line.send(b'{"ready": true}')
    pids: set[int] = set()
    is_open = True
    while is_open or pids:
        select.select([woken, *([line] if is_open else [])], [], [], 1)
        with contextlib.suppress(BlockingIOError):
            woken.recv(1000)
        if is_open:
            line.setblocking(False)
            try:
                message, ends, _, _ = socket.recv_fds(line, _MESSAGE_BYTES, 3)
            except BlockingIOError:
                pass
            except ConnectionError:
                is_open = False
            else:
                is_open = bool(message)
                if message:
                    options = json.loads(message)
                    if pid := _fork_child(options, ends, seats, limits, [line, woken, waking]):
                        pids.add(pid)
                        _tell(line, {"forked": options["number"], "pid": pid})
        for pid, status, usage in _ended():
            pids.discard(pid)
            if is_open:
                # Linux tells kilobytes, macOS bytes.
                memory = usage.ru_maxrss if sys.platform == "linux" else usage.ru_maxrss // 1024
                _tell(line, {"ended": pid, "status": status, "memory_kb": memory})


def _fork_child(
    options: dict[str, Any],
    ends: list[int],
    seats: Seats,
    limits: LimitsOfTime,
    mine: list[socket.socket],
) -> int | None:
    """Its pid; None if the system has no room for it now. The worker then sees its lines closed, and asks
    again."""
    parent_pid, pid = os.getpid(), None
    try:
        pid = os.fork()
    except OSError as error:
        logger.warning("A child could not be forked: %s", error)
    if pid == 0:
        status = 1
        try:
            os.setpgrp()  # So that it can be killed with all that its job has started.
            die_with_parent(parent_pid)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for each in mine:
                each.close()
            jobs, told, notes = (socket.socket(fileno=end) for end in ends)
            child.serve(child.Options(**options), seats, limits, jobs, told, notes)
            status = 0
        except BaseException:  # noqa: BLE001 - It may not go on as a forker.
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    if pid:
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # In both processes, as either may be first.
    for end in ends:
        os.close(end)
    return pid


def _ended() -> list[tuple[int, int, Any]]:
    ended = []
    with contextlib.suppress(ChildProcessError):
        while (found := os.wait4(-1, os.WNOHANG))[0]:
            ended.append(found)
    return ended


def _tell(line: socket.socket, note: dict[str, Any]) -> None:
    line.setblocking(True)
    with contextlib.suppress(OSError):
        line.send(json.dumps(note).encode())


def _pass(signum: int, frame: object) -> None:
    pass
