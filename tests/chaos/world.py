"""What a run consists of: the stores behind proxies of their own for each worker, the workers, the load."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from glob import glob
from pathlib import Path
from shutil import copytree, rmtree

from django_jobs.processes import identity
from tests.faults.proxy import PASS, FaultProxy
from tests.faults.servers import ValkeyServer
from tests.postgres import Cluster

from . import stalls
from .effects import now
from .evidence import Pause, Trouble

ROOT = Path(__file__).resolve().parent.parent.parent
LEASE_SECONDS = 2
FAKETIME = next(iter(glob("/usr/lib/*/faketime/libfaketime.so.1")), None)
"""Moves the clock of one worker, if it is installed (Debian: apt-get install faketime)."""


class World:
    """A context manager: within it all runs. Each user of the stores has a link of its own."""

    def __init__(
        self, folder: Path, *, database: str, keeps: bool, workers: int, isolation: str, mutant: str
    ) -> None:
        self.folder, self.keeps = folder, keeps
        self.effects = folder / "effects"
        self.valkey = ValkeyServer(folder / "valkey", appendonly="yes" if keeps else "no")
        self.cluster = Cluster(tcp=True) if database == "postgresql" else None
        self.environment = {
            "DJANGO_SETTINGS_MODULE": "tests.chaos.settings",
            "PROJECT_DATA": str(folder),
            "DATABASE": "sqlite",
            "DATABASE_NAME": str(folder / "db.sqlite3"),
            "REDIS_URL": self.valkey.url,
            "LEASE_SECONDS": os.environ.get("LEASE_SECONDS", str(LEASE_SECONDS)),
            "CHAOS_FOLDER": str(folder),
            "CHAOS_EFFECTS": str(self.effects),
        }
        self.isolation, self.mutant = isolation, mutant
        self.database_runs = True
        self.lease_seconds = float(self.environment["LEASE_SECONDS"])
        self._stalls = folder / "stalls"
        self.pauses: list[Pause] = []
        self.troubles: list[Trouble] = []
        self.load_link = Link(self, "load")
        self.workers = [WorkerProcess(self, f"w{number}") for number in range(1, workers + 1)]
        self.links = [self.load_link, *(worker.link for worker in self.workers)]
        self.clock = self.workers[-1].link.folder / "clock"

    def __enter__(self) -> "World":
        with ExitStack() as stack:
            stack.enter_context(self.valkey)
            if self.cluster:
                stack.enter_context(self.cluster)
                tcp = {"PGHOST": "127.0.0.1", "PGPORT": str(self.cluster.port)}
                self.environment |= {**self.cluster.variables, **tcp}
            for link in self.links:
                stack.enter_context(link)
            stack.callback(self._end_all)
            self._watch_for_stalls()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def start_workers(self) -> None:
        for worker in self.workers:
            worker.start()

    def heal(self) -> list[str]:
        """Undo all faults: servers run, links pass, nobody is stopped, all workers work.

        Returns the names of the workers that had ended by themselves.
        """
        if not self.valkey.pid:
            self.valkey.start()
        if not self.database_runs:
            self.start_database()
        for link in self.links:
            link.mend()
        ended = [worker for worker in self.workers if not worker.pid]
        for worker in self.workers:
            worker.resume_all()
        for worker in ended:
            worker.start()
        return [worker.name for worker in ended]

    def start_database(self) -> None:
        assert self.cluster
        self.cluster.start()
        self.database_runs = True

    def copy_of_valkey(self) -> Path:
        """What Valkey would find on its disk if it were killed now, or holds if it keeps nothing there."""
        if not self.keeps:
            return self.valkey.snapshot()
        copy = self.folder / f"copy-{now():.0f}"
        os.kill(self.valkey.pid, signal.SIGSTOP)
        try:
            copytree(self.valkey.folder / "appendonlydir", copy)
        finally:
            os.kill(self.valkey.pid, signal.SIGCONT)
        return copy

    def restart_valkey(self, *, with_copy: Path | None = None, lost: bool = False) -> None:
        """Start it after a kill: with what it kept, with an old copy of that, or with nothing."""
        kept = self.valkey.folder / "appendonlydir"
        if lost or (with_copy and self.keeps):
            rmtree(kept, ignore_errors=True)
        if with_copy and self.keeps:
            copytree(with_copy, kept)
        self.valkey.start(None if self.keeps else with_copy)

    def stalls(self) -> list[Pause]:
        """When the machine, or one of its processors, stood still."""
        return stalls.read(self._stalls)

    @contextmanager
    def trouble(self, *stores: str, worker: "WorkerProcess | None" = None) -> Iterator[None]:
        """Note the time of this block as one of trouble, for this worker or for all."""
        began, pids = now(), frozenset({worker.pid} if worker else ())
        yield
        self.troubles.append(Trouble(began, now(), pids, frozenset(stores)))

    def _watch_for_stalls(self) -> None:
        for processor in os.sched_getaffinity(0):
            command = [sys.executable, "-m", "tests.chaos.stalls", str(self._stalls), str(processor)]
            subprocess.Popen(command, cwd=ROOT, env={**os.environ, **self.environment})

    def _end_all(self) -> None:
        """Kill whatever was started for this run and still lives: its environment names our folder."""
        mark = f"CHAOS_FOLDER={self.folder}".encode()
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if int(path.name) != os.getpid() and mark in (path / "environ").read_bytes().split(b"\0"):
                    os.kill(int(path.name), signal.SIGKILL)
        for worker in self.workers:
            worker.bury()


class Link:
    """The way of one process group to both stores, which can be broken for it alone."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self.folder = world.folder / name
        self.folder.mkdir()
        self.redis = FaultProxy(world.valkey.address)
        self.database = FaultProxy(("127.0.0.1", world.cluster.port)) if world.cluster else None

    @property
    def proxies(self) -> list[FaultProxy]:
        return [self.redis, self.database] if self.database else [self.redis]

    @property
    def variables(self) -> dict[str, str]:
        """The environment of a process that goes this way."""
        ways = {"REDIS_URL": f"redis://127.0.0.1:{self.redis.port}/0"}
        if self.database:
            ways["PGPORT"] = str(self.database.port)
        return {**os.environ, **self._world.environment, **ways}

    def mend(self) -> None:
        for proxy in self.proxies:
            proxy.mode, proxy.drop_reply_to = PASS, None

    def __enter__(self) -> "Link":
        with ExitStack() as stack:
            for proxy in self.proxies:
                stack.enter_context(proxy)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


class WorkerProcess:
    """`manage.py rqworker` in a session of its own, with all its processes. Several after each other."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self.name = name
        self.link = Link(world, name)
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped: set[int] = set()

    @property
    def pid(self) -> int:
        """0 while it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else 0

    def start(self) -> None:
        self.bury()
        variables = self.link.variables | {"CHAOS_MUTANT": self._world.mutant}
        if FAKETIME and self.link.folder == self._world.clock.parent:
            variables |= {
                "LD_PRELOAD": FAKETIME,
                "FAKETIME_TIMESTAMP_FILE": str(self._world.clock),
                "FAKETIME_CACHE_DURATION": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "DONT_FAKE_MONOTONIC": "1",
            }
            if not self._world.clock.exists():
                self._world.clock.write_text("+0s\n")
        with (self.link.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "manage.py",
                    "rqworker",
                    "file_processing",
                    f"--isolation={self._world.isolation}",
                    *(["--max-jobs-per-child=15", "--grace=5"] if self._world.isolation == "prefork" else []),
                ],
                cwd=ROOT,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def bury(self) -> None:
        if self._process:
            self._process.wait(timeout=60)

    def session(self) -> list[int]:
        """The processes of its session that live: itself, its maintainer, its job and what they started."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if os.getsid(int(path.name)) == self.pid and identity(int(path.name)):
                    found.append(int(path.name))
        return found if self.pid else []

    def children(self, *, at_work: bool) -> list[int]:
        """The processes that run jobs, which lead groups of their own; else its maintainer, and who
        forks the processes for jobs."""
        children = [pid for pid in self.session() if pid != self.pid]
        return [pid for pid in children if (_group(pid) != self.pid) == at_work]

    def stop(self, pids: list[int]) -> None:
        """SIGSTOP; they are continued by `resume_all()`."""
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                self._stopped.add(pid)

    def resume_all(self) -> None:
        while self._stopped:
            with suppress(ProcessLookupError):
                os.kill(self._stopped.pop(), signal.SIGCONT)

    def terminate(self, patience_seconds: float) -> None:
        """SIGTERM, as a deploy does; kill -9 of what has not ended in this time."""
        assert self._process
        self._process.terminate()
        try:
            self._process.wait(timeout=patience_seconds)
        except subprocess.TimeoutExpired:
            kill(self.session())


def kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def start_load(world: World, *arguments: str) -> subprocess.Popen[bytes]:
    with (world.folder / "load" / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.load", *arguments],
            cwd=ROOT,
            env=world.load_link.variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
