"""What jobs did, written by themselves to a file outside both stores: one line for each sign of life.

Times are those of the boot-time clock, which is one for all processes of the machine and which nobody sets.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

BEGAN, LIVES, DONE, BROKE = "began", "lives", "done", "broke"

WELL, BADLY, WELL_AT_LAST = "well", "badly", "well at last"
"""How a job is to end: always so, or badly until its last attempt."""

PLANNED = "planned"
"""The message of an error that a job was to end with."""


@dataclass
class Execution:
    """One time that a function began for an attempt of a job, as far as its process could tell."""

    job_id: UUID
    attempt: int
    pid: int
    worker_pid: int
    began: float
    last: float
    end: str = ""
    """`DONE`, `BROKE`, or empty if it did not get to its end."""

    def __str__(self) -> str:
        end = self.end or "no end"
        who = f"attempt {self.attempt} in process {self.pid} of worker {self.worker_pid}"
        return f"{who}: {self.began:.2f} … {self.last:.2f}, {end}"


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Effects:
    """Writes the signs of life of one execution, each with one write, so that lines stay whole."""

    def __init__(self, path: str, job_id: UUID, attempt: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._who = f"{job_id} {attempt} {os.getpid()} {os.getsid(0)}"  # Its worker leads the session.

    def tell(self, sign: str) -> None:
        os.write(self._file, f"{sign} {self._who} {now():.3f}\n".encode())

    def close(self) -> None:
        os.close(self._file)


def read(path: Path) -> list[Execution]:
    """The executions that a file of effects tells of, in the order in which they began."""
    executions: dict[tuple[str, ...], Execution] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        sign, job_id, attempt, pid, worker_pid, at = line.split()
        key = job_id, attempt, pid
        if sign == BEGAN:
            executions[key] = Execution(
                UUID(job_id), int(attempt), int(pid), int(worker_pid), float(at), float(at)
            )
        else:
            executions[key].last = float(at)
            executions[key].end = sign if sign in (DONE, BROKE) else ""
    return list(executions.values())
