"""Starts a contestant's processes, watches their memory, and ends each of them, whatever happens."""

import json
import os
import select
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL
from typing import Any

from django_jobs.processes import identity

ROOT = Path(__file__).resolve().parent.parent
GRACE_SECONDS = 3
SAMPLE_SECONDS = 0.5


class Broken(Exception):
    """A process of a contestant failed, or did not answer in time; with the end of what it wrote."""


class Driver:
    """A contestant's `benchmarks.driver`, whose functions are called by name."""

    def __init__(self, python: str, app: str, variables: Mapping[str, str]) -> None:
        self._errors = _log()
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.driver", app],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
            env={**os.environ, **variables, "PGAPPNAME": "driver"},
        )

    def __enter__(self) -> "Driver":
        return self

    def __exit__(self, *error: object) -> None:
        """Let it close its connections, and kill it if it does not end."""
        assert self._process.stdin
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(GRACE_SECONDS)
        except BaseException as interruption:
            self._process.kill()
            self._process.wait()
            if not isinstance(interruption, subprocess.TimeoutExpired):
                raise
        finally:
            self._errors.close()

    def __call__(self, name: str, *arguments: object, most_seconds: float = 120) -> Any:
        """What that function returns. Raises `Broken`."""
        assert self._process.stdin
        assert self._process.stdout
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps([name, *arguments]).encode() + b"\n")
            self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], most_seconds)[0]:
            raise Broken(f"{name} took more than {most_seconds:g} s: {_end_of(self._errors)}")
        reply = self._process.stdout.readline()
        if not reply:
            with suppress(subprocess.TimeoutExpired):  # It tells why after it has closed its output.
                self._process.wait(GRACE_SECONDS)
            raise Broken(f"{name} failed: {_end_of(self._errors)}")
        return json.loads(reply)


class Workers:
    """The worker processes of a contestant, from `commands`, with all that they start themselves."""

    def __init__(self, python: str, commands: Sequence[Sequence[str]], variables: Mapping[str, str]) -> None:
        self._log = _log()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._sample)
        self.peak_bytes = 0
        try:
            for command in commands:
                process = subprocess.Popen(
                    [python, *command],
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                    cwd=ROOT,
                    env={**os.environ, **variables, "PGAPPNAME": "worker"},
                )
                self._processes.append(process)
        except BaseException:
            self._end()
            raise
        self._watch.start()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._watch.join()
        self._end()
        self._log.close()

    def check(self) -> None:
        """Raise `Broken` if one of them has ended."""
        for process in self._processes:
            if process.poll() is not None:
                raise Broken(f"A worker ended with code {process.returncode}: {_end_of(self._log)}")

    def told(self) -> str:
        """The end of what they wrote."""
        return _end_of(self._log)

    def memory_bytes(self) -> int:
        """What they take of the machine's memory now, what they share counted once (PSS)."""
        return sum(_pss_bytes(pid) for pid in self._family())

    def child_bytes(self) -> int:
        """What the largest process that runs jobs has in memory (RSS), where another one forks them."""
        forked = [pid for process in self._processes for pid in _descendants(process.pid)]
        children = [pid for parent in forked for pid in _descendants(parent)]
        return max(map(rss_bytes, children), default=0)

    def parent_bytes(self) -> int:
        """The same of the processes started here alone, without those that they started."""
        return sum(_pss_bytes(process.pid) for process in self._processes)

    def _sample(self) -> None:
        is_over = False
        while not is_over:
            is_over = self._ended.wait(SAMPLE_SECONDS)
            self.peak_bytes = max(self.peak_bytes, self.memory_bytes())

    def _family(self) -> list[int]:
        return [pid for process in self._processes for pid in (process.pid, *_descendants(process.pid))]

    def _end(self) -> None:
        family = {pid: identity(pid) for pid in self._family()}
        for process in self._processes:
            process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline and _living(family):
            for process in self._processes:
                process.poll()
            time.sleep(0.02)
        for pid in _living(family | {pid: identity(pid) for pid in self._family()}):
            with suppress(ProcessLookupError):
                os.kill(pid, SIGKILL)
        for process in self._processes:
            process.wait()


def _living(family: Mapping[int, str | None]) -> list[int]:
    return [pid for pid, known in family.items() if known and identity(pid) == known]


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                for child in (thread / "children").read_text().split():
                    found += [int(child), *_descendants(int(child))]
    return found


def rss_bytes(pid: int) -> int:
    return _memory_bytes(pid, "Rss")


def _pss_bytes(pid: int) -> int:
    return _memory_bytes(pid, "Pss")


def _memory_bytes(pid: int, kind: str) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(f"{kind}:"):
                return 1024 * int(line.split()[1])
    return 0


def _log() -> Any:
    """A file to which processes write while this one reads."""
    return tempfile.TemporaryFile("a+b")


def _end_of(file: Any) -> str:
    file.seek(0)
    return file.read()[-3000:].decode(errors="replace")
