"""Files in which reports wait for a database that is away, so that they are not lost with their process; and
one for each worker that tells which jobs it has begun.

In a folder that only its user may write to; read by any process of that user.
"""

import json
import logging
import os
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

from .conf import settings
from .environment import embedded_directory
from .processes import identity

_RUNNING = ".running"

logger = logging.getLogger(__name__)


def folder() -> Path:
    """Of our own, in whatever folder the project names."""
    return Path(settings.SPOOL_DIRECTORY or embedded_directory() / "spool") / "reports"


def keep(name: str, document: Mapping[str, Any]) -> Path | None:
    """Write this document so that it outlives this process and the machine; None if that is not possible."""
    place = folder()
    path = place / f"{name}.{os.getpid()}-{identity(os.getpid())}.json"
    try:
        _make(place)
        unfinished = path.with_suffix(".part")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with os.fdopen(os.open(unfinished, flags, 0o600), "w") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
        _sync(place)
    except OSError as error:
        logger.error(
            "A report cannot be kept in %s (%s); it is lost if this process ends before it is written. "
            'Name another folder in DJANGO_JOBS["SPOOL_DIRECTORY"].',
            place,
            error,
        )
        return None
    return path


def kept() -> Iterator[tuple[Path, Any]]:
    """The documents of processes that have ended."""
    place = folder()
    try:
        _check_private(place)
        for unfinished in place.glob("*.part"):
            if not _is_of_living_process(unfinished):
                drop(unfinished)
        paths = sorted(place.glob("*.json"))
    except FileNotFoundError:
        return
    except OSError as error:
        logger.error("What is kept in %s cannot be read: %s", place, error)
        return
    for path in paths:
        if _is_of_living_process(path):
            continue  # Its process will deliver it itself.
        try:
            document = json.loads(path.read_text())
        except FileNotFoundError:
            continue  # Another process has delivered it.
        except OSError as error:
            logger.error("%s cannot be read: %s", path, error)
        except ValueError as error:
            set_aside(path, error)
        else:
            yield path, document


def names() -> list[str]:
    """What the documents of all processes were named, also of living ones, and those that were set aside."""
    return [path.name.partition(".json")[0].rpartition(".")[0] for path in folder().glob("*.json*")]


def new_running_file(worker_id: UUID, size: int) -> int | None:
    """The descriptor of a file of so many bytes that tells what this worker has begun; None if there can be
    none."""
    place = folder()
    path = place / f"{worker_id.hex}.{_machine()}.{os.getpid()}-{identity(os.getpid())}{_RUNNING}"
    try:
        _make(place)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            _reserve(descriptor, size)
        except OSError:
            os.close(descriptor)
            drop(path)  # Empty, it would tell that nothing was begun.
            raise
    except OSError as error:
        logger.warning("Should this worker be killed, nobody will know what it had not begun: %s", error)
        return None
    return descriptor


def running_files_of_the_dead() -> Iterator[tuple[Path, UUID]]:
    """The files of workers of this machine that have ended without removing theirs, with their ids."""
    place = folder()
    try:
        _check_private(place)
    except OSError:
        return
    for path in place.glob(f"*{_RUNNING}"):
        worker, _, rest = path.stem.partition(".")
        machine = rest.rpartition(".")[0]
        if machine == _machine() and not _is_of_living_process(path):
            try:
                worker_id = UUID(worker)
            except ValueError:
                continue  # It is not ours.
            yield path, worker_id


def remove_running_file(worker_id: UUID) -> None:
    for path in folder().glob(f"{worker_id.hex}.*{_RUNNING}"):
        drop(path)


def count() -> int:
    """How many reports of processes that have ended wait.

    Raises `PermissionError` if the folder is not this user's alone, or could not be made by this user.
    """
    place = folder()
    try:
        _check_private(place)
    except FileNotFoundError:
        parent = next(each for each in place.parents if each.exists())
        if not os.access(parent, os.W_OK | os.X_OK):
            raise PermissionError(f"this user may not write to {parent}") from None
        return 0
    return sum(not _is_of_living_process(path) for path in place.glob("*.json"))


def set_aside(path: Path, error: Exception) -> None:
    """Keep a file that holds no report from being read again."""
    aside = path.with_suffix(".json.broken")
    logger.error("%s holds no report (%r); it is renamed to %s.", path, error, aside.name)
    with suppress(OSError):
        path.rename(aside)


def drop(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.error("%s is recorded and cannot be removed: %s", path, error)


def _is_of_living_process(path: Path) -> bool:
    pid, _, process = path.stem.rpartition(".")[2].partition("-")
    return pid.isdecimal() and identity(int(pid)) == process


def _make(place: Path) -> None:
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_private(place)
    (place / ".gitignore").write_text("*\n")


def _reserve(descriptor: int, size: int) -> None:
    """Else the system kills who writes there by way of its memory when the disk is full."""
    while (at := os.fstat(descriptor).st_size) < size:
        os.pwrite(descriptor, bytes(size - at), at)


@cache
def _machine() -> str:
    """Tells where numbers of processes mean the same: this machine since it was started, and its
    container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return socket.gethostname().replace(".", "-")


def _check_private(place: Path) -> None:
    found = place.stat()
    if found.st_uid != os.getuid():
        raise PermissionError("it belongs to another user")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError("others may write to it; it must be this user's alone (chmod 700)")


def _sync(place: Path) -> None:
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
