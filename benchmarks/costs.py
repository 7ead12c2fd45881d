"""Counts what a stretch of work asked of the servers: commands and trips to Valkey, SQL statements."""

import re
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import Servers

_STATEMENT = re.compile(rb"^worker\|LOG:  (?:statement|execute [^:]*):", re.MULTILINE)


@dataclass(frozen=True)
class Costs:
    """Of one job. `trips` are reads of the server from its clients: one for each command or pipeline sent.

    `statements` counts BEGIN and COMMIT, too; None where there is no log to count in.
    """

    commands: float
    trips: float
    statements: float | None


class Meter:
    """Counts from its making on; commands inside scripts count as commands."""

    def __init__(self, servers: Servers, log: Path | None) -> None:
        self._servers = servers
        self._log = log
        self._log_begins = log.stat().st_size if log else 0
        self._commands, self._trips = self._valkey()

    def a_job(self, jobs: int) -> Costs:
        """What each of so many jobs cost since."""
        commands, trips = self._valkey()
        statements = None
        if self._log:
            with self._log.open("rb") as file:
                file.seek(self._log_begins)
                statements = len(_STATEMENT.findall(file.read())) / jobs
        return Costs((commands - self._commands) / jobs, (trips - self._trips) / jobs, statements)

    def _valkey(self) -> tuple[int, int]:
        told = self._servers.valkey.info("commandstats")
        commands = sum(stat["calls"] for stat in told.values())
        return commands, self._servers.valkey.info("stats")["total_reads_processed"]
