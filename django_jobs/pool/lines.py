"""The lines between a worker and a child: jobs go one way, reports come the other."""

import os
import select
import socket
import sys
from collections.abc import Iterator
from struct import Struct
from uuid import UUID

from ..batches import Claimed, Report
from ..models import Attempt
from ..processes import memory_file
from ..states import Status

# Each job is a message of its own, that either the child takes or the worker takes back.
_MESSAGES = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM
LARGEST_ROW = 60_000
"""in bytes, that is sent in a message; a larger one goes in a file"""
_BUFFER_BYTES = 1_000_000

_HEAD = Struct(
    "<I16sBBd?"
)  # The length of what follows; job; outcome; status that comes next; seconds it ran; if word is awaited.
_OUTCOMES = list(Attempt.Outcome.values)
_STATUSES = ["", *Status.values]
RECORDED, STOP = b"R", b"S"
"""Notes to a child: the end of a job is recorded; an async job is to be stopped."""
_PROGRESS = 255
"""Stands for the outcome where an attempt goes on and tells how far it is."""


def job_line() -> tuple[socket.socket, socket.socket]:
    """The worker's and the child's end of the line on which jobs go."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, _MESSAGES)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    return ours, theirs


def report_line() -> tuple[socket.socket, socket.socket]:
    """The worker's and the child's end of the line on which reports come."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    return ours, theirs


def send_job(line: socket.socket, claimed: Claimed) -> None:
    """Raises `BlockingIOError` while the line holds as much as it can."""
    told, row = claimed.job_id.bytes, claimed.row.encode()
    if len(row) <= LARGEST_ROW:
        line.send(told + row)
        return
    descriptor = memory_file()
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(row)
        socket.send_fds(line, [told], [descriptor])
    finally:
        os.close(descriptor)


def receive_job(line: socket.socket) -> tuple[UUID, str] | None:
    """The id of the next job, and its `Claimed.row`; None when no more will come."""
    while True:
        try:
            message, descriptors, _, _ = socket.recv_fds(line, LARGEST_ROW + 16, 1)
            break
        except BlockingIOError:  # Its worker may have taken it back.
            select.select([line], [], [])
    if not message:
        return None
    row = message[16:]
    for descriptor in descriptors:
        with open(descriptor, "rb") as file:
            file.seek(0)
            row = file.read()
    return UUID(bytes=message[:16]), row.decode()


def send_note(line: socket.socket, what: bytes, job_id: UUID) -> bool:
    """False while the line holds as much as it can. Nobody may listen any more."""
    try:
        line.send(what + job_id.bytes)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def receive_note(line: socket.socket) -> tuple[bytes, UUID] | None:
    """What the worker says of a job: `RECORDED` or `STOP`; None when it says no more."""
    message = line.recv(17)
    return (message[:1], UUID(bytes=message[1:])) if message else None


def pack_report(report: Report) -> bytes:
    document = report.document.encode()
    outcome, status = _OUTCOMES.index(report.outcome), _STATUSES.index(report.status)
    told = report.job_id.bytes, outcome, status, report.ran_seconds, report.is_awaited
    return _HEAD.pack(len(document), *told) + document


def pack_progress(job_id: UUID, document: str) -> bytes:
    told = document.encode()
    return _HEAD.pack(len(told), job_id.bytes, _PROGRESS, 0, 0, False) + told


class Reports:
    """Puts together what comes in pieces."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[UUID, Report | str]]:
        """The reports that are complete now, or what an attempt tells that goes on; with the id of the
        job."""
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= _HEAD.size:
            length, told_id, outcome, status, ran_seconds, is_awaited = _HEAD.unpack_from(self._buffer, start)
            end = start + _HEAD.size + length
            if len(self._buffer) < end:
                break
            document = self._buffer[start + _HEAD.size : end].decode()
            job_id = UUID(bytes=told_id)
            start = end
            if outcome == _PROGRESS:
                yield job_id, document
            else:
                told = _OUTCOMES[outcome], _STATUSES[status]
                yield job_id, Report(job_id, "", *told, ran_seconds, document, is_awaited)
        del self._buffer[:start]
