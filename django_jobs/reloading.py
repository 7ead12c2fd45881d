"""For development: a command that is ended and started anew when a Python file of the project changes."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from django.apps import apps
from django.utils.autoreload import StatReloader, get_child_arguments

RELOADER = "DJANGO_JOBS_RELOADER"
"""The environment variable by which a child knows that it is one: the id of the process that watches."""
LOOK_EVERY_SECONDS = 0.5


def run_reloading(tell: Callable[[str], None]) -> int:
    """Run this process's own command as a child, anew after each change of a file; its last exit code.

    A child is ended with SIGTERM and waited for, however long its work takes. One that ends with an error by
    itself, say because a file cannot be imported, is started anew after the next change. SIGTERM and SIGINT
    are passed on to it, and end this too.
    """
    children: list[subprocess.Popen[bytes]] = []
    signals: list[int] = []

    def pass_on(signum: int, frame: FrameType | None) -> None:
        signals.append(signum)
        for child in children[-1:]:
            child.send_signal(signum)  # Does nothing when it has ended.

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    while True:
        files = _files()
        child = subprocess.Popen(get_child_arguments(), env={**os.environ, RELOADER: str(os.getpid())})  # noqa: S603
        children.append(child)
        changed = _await_change(files, lambda: bool(signals or child.poll() is not None))  # noqa: B023
        if child.returncode and not signals:
            tell(f"It ended with exit code {child.returncode}, and starts anew when a file changes.")
            changed = _await_change(files, lambda: bool(signals))
        elif changed:
            tell(f"{changed} has changed: starting anew when the job that runs has ended.")
            child.terminate()
        child.wait()
        if signals or changed is None:
            return child.returncode


def _await_change(files: dict[Path, float], ends: Callable[[], bool]) -> Path | None:
    """The first of the files that is new, gone, or written; None when it ends before."""
    while not ends():
        changed = dict(_files().items() ^ files.items())
        if changed:
            return next(iter(changed))
        time.sleep(LOOK_EVERY_SECONDS)
    return None


def _files() -> dict[Path, float]:
    """When each file was written: those of all modules that are imported here, and of the project's apps."""
    reloader = StatReloader()
    for app in apps.get_app_configs():
        if not {"site-packages", "dist-packages"} & set(Path(app.path).parts):
            reloader.watch_dir(Path(app.path), "**/*.py")
    return dict(reloader.snapshot_files())
