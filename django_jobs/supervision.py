"""Tells whoever supervises this process how it is: systemd by its notifications, probes by a file."""

import os
import socket
from contextlib import suppress
from pathlib import Path


class Supervision:
    """`ready_file` is there from `ready()` to `stopping()`. Without systemd its notifications go nowhere."""

    def __init__(self, ready_file: str | None = None) -> None:
        self._file = Path(ready_file).expanduser() if ready_file else None
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):  # Of Linux's abstract namespace.
            self._address = f"\0{self._address[1:]}"

    def ready(self) -> None:
        """Raises `OSError` if the file cannot be written."""
        if self._file:
            self._file.write_text(f"{os.getpid()}\n")
        self._notify(f"READY=1\nMAINPID={os.getpid()}")

    def alive(self) -> None:
        """For systemd's watchdog; to be called more often than that asks for."""
        self._notify("WATCHDOG=1")

    def stopping(self) -> None:
        if self._file:
            with suppress(OSError):
                self._file.unlink()
        self._notify("STOPPING=1")

    def _notify(self, state: str) -> None:
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.sendto(state.encode(), self._address)
