"""What the tests stand on: a real Valkey, real workers as processes, rows made as a worker would."""

import base64
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.db import connection, connections, transaction
from django.db.models.functions import Now
from django.test import Client, TransactionTestCase
from uuid6 import uuid7

from django_jobs import embedded, engines, executor, registry, relay, rlimits, servers, tasks, verdict
from django_jobs.engines.rq.connections import impatient_client
from django_jobs.engines.rq.engine import EPOCH_KEY
from django_jobs.models import Job, Worker
from django_jobs.models.workers import installation_id
from django_jobs.reports import report
from django_jobs.states import QUEUED, STARTED
from tests.postgres import Cluster

ROOT = Path(__file__).resolve().parent.parent
ISOLATION = os.environ.get("ISOLATION", "prefork")
"""How the workers of these tests run jobs, where a test does not say."""


def wait_until(check: Callable[[], Any], timeout_seconds: float = 120) -> Any:
    """Call `check` until it raises nothing and returns something true; then re-raise its last failure."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            if answer := check():
                return answer
            failure: Exception = AssertionError(f"still {answer!r} after {timeout_seconds:g} s")
        except Exception as error:
            failure = error
        if time.monotonic() > deadline:
            raise failure
        time.sleep(0.05)


class Stopwatch:
    """Tells how many seconds a block takes, without those in which the whole machine stands still."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> "Stopwatch":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _tick(self) -> None:
        at, is_over = time.monotonic(), False
        while not is_over:
            is_over = self._stopped.wait(0.02)
            before, at = at, time.monotonic()
            self.seconds += min(at - before, 0.2)  # A late tick was held up, as all else was.


def lines(path: Path) -> list[str]:
    """What jobs have recorded in a file of effects."""
    return path.read_text().splitlines() if path.exists() else []


def write(path: Path, code: str) -> None:
    """Write a module, so that even its time in whole seconds differs from that of what stood there before."""
    before = path.stat().st_mtime if path.exists() else 0
    path.write_text(textwrap.dedent(code))
    os.utime(path, (before + 2, before + 2) if before else None)


def fresh(row: Any) -> Any:
    """The row as it is in the database now."""
    return type(row)._base_manager.get(pk=row.pk)


def delete_rows(test: TransactionTestCase | type[TransactionTestCase] = TransactionTestCase) -> None:
    """After a test that commits: a tenth of the time of Django's flush, which truncates all tables and then
    writes what migrations wrote, one row after the other."""
    for alias in test._databases_names(include_mirrors=False):
        connection = connections[alias]
        with transaction.atomic(using=alias), connection.cursor() as cursor:
            for table in set(connection.introspection.django_table_names()) - _OF_MIGRATIONS:
                cursor.execute(f"DELETE FROM {connection.ops.quote_name(table)}")


_OF_MIGRATIONS = {"django_content_type", "auth_permission", "django_migrations"}
TransactionTestCase._fixture_teardown = delete_rows


@pytest.fixture(scope="session")
def django_db_keepdb(django_db_keepdb: bool) -> bool:
    """A private cluster goes as a whole. To drop a database of it fails while autovacuum works there, which
    on a busy machine lasts for longer than PostgreSQL waits."""
    return django_db_keepdb or Cluster.of_environment() is not None


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.EmbeddedServer]:
    directory = tmp_path_factory.mktemp("valkey")
    yield embedded.start(directory)
    embedded.stop(directory)


@pytest.fixture
def narrow_database(db: None) -> Iterator[None]:
    """A database that takes no long text, as each has its limit somewhere."""
    connection.ensure_connection()
    if connection.vendor == "sqlite":
        before = connection.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 20_000)
        yield
        connection.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, before)
    else:
        with connection.cursor() as cursor:  # An index takes no more than 2,704 bytes of it.
            cursor.execute("CREATE INDEX narrow_result ON django_jobs_job ((result::text))")
            cursor.execute("CREATE INDEX narrow_traceback ON django_jobs_job (traceback)")
        yield
        if not connection.in_atomic_block:  # Else they go with the test's transaction.
            with connection.cursor() as cursor:
                cursor.execute("DROP INDEX narrow_result, narrow_traceback")


@pytest.fixture
def valkey(valkey_server: embedded.EmbeddedServer) -> Iterator[redis.Redis]:
    """An empty server, and all queues of the project on it."""
    declared = settings.RQ_QUEUES
    settings.RQ_QUEUES = {name: {**queue, "URL": valkey_server.url} for name, queue in declared.items()}
    with redis.Redis.from_url(valkey_server.url, socket_timeout=60) as client:
        client.flushall()
        yield client
    settings.RQ_QUEUES = declared


@pytest.fixture
def bare_engine(
    valkey: redis.Redis, valkey_server: embedded.EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[engines.BaseEngine]:
    """A second engine, `bare`, with the queues `letters` and `parcels`; it has none of the capabilities."""
    declared = dict.fromkeys(["letters", "parcels"], valkey_server.url)
    monkeypatch.setattr(settings, "BARE_QUEUES", declared, raising=False)
    monkeypatch.setitem(engines._ENGINES, "bare", "tests.bare_engine.BareEngine")
    yield engines.get_engine("bare")
    engines.get_engine.cache_clear()


def remember_witnesses(client: redis.Redis) -> None:
    """Have an empty server seem in use for long, so that nobody takes it to have forgotten witnesses."""
    client.set(EPOCH_KEY, f"{client.info('server')['run_id']}:old:1")


@pytest.fixture
def unasked_server() -> Iterator[str]:
    """All queues of the project are on a server that takes connections and must never get one."""
    declared = settings.RQ_QUEUES
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        settings.RQ_QUEUES = {name: {**queue, "URL": url} for name, queue in declared.items()}
        yield url
        settings.RQ_QUEUES = declared
        listener.setblocking(False)
        with suppress(BlockingIOError):
            listener.accept()[0].close()
            pytest.fail("Somebody has connected to the server.")


@pytest.fixture
def freeze(valkey: redis.Redis, valkey_server: embedded.EmbeddedServer) -> Iterator[Callable[[], None]]:
    """Make the server take connections and answer nothing from now on, until the test ends."""
    frozen: list[int] = []

    def stop() -> None:
        server = embedded.find(valkey_server.directory)  # Restarted by other tests, it has another pid.
        assert server
        frozen.append(server.pid)
        os.kill(server.pid, signal.SIGSTOP)

    yield stop
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    """Each test has a database and servers of its own; the process must not remember another's."""
    installation_id.cache_clear()
    relay._resting_until.clear()
    verdict._kept = None
    servers._away.clear()
    yield
    installation_id.cache_clear()


@pytest.fixture
def forget_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that declare tasks of their own."""
    monkeypatch.setattr(registry, "_declared", dict(registry._declared))
    monkeypatch.setattr(tasks, "_tasks", dict(tasks._tasks))
    monkeypatch.setattr(rlimits, "_declared", dict(rlimits._declared))


@pytest.fixture
def job_factory(db: None) -> Callable[..., Job]:
    """A row as enqueue() writes it, changed as asked; a started one is held by a live worker."""

    def make(**values: Any) -> Job:
        values.setdefault("task", "tests.tasks.add")
        values.setdefault("queue", "file_processing")
        values.setdefault("status", QUEUED)
        if values["status"] == STARTED:
            values.setdefault("claim_id", uuid4())
            values.setdefault("started_at", Now())
            if "worker" not in values:
                values["worker"] = make_worker()
        job = Job.objects.create(**values)
        job.refresh_from_db()
        return job

    return make


@pytest.fixture
def client_who_may(db: None, client: Client) -> Callable[..., Client]:
    """A logged-in member of staff with just the given permissions on django_jobs."""

    def log_in(*codenames: str) -> Client:
        user = User.objects.create_user("op", is_staff=True)
        user.user_permissions.set(
            Permission.objects.filter(content_type__app_label="django_jobs", codename__in=codenames)
        )
        client.force_login(user)
        return client

    return log_in


def own_jobs(user: Any, jobs: Any) -> Any:
    """For VISIBLE_JOBS."""
    return jobs.filter(owner=user)


def make_worker(**values: Any) -> Worker:
    """The row of a worker that lives, unless `leased_until` says otherwise."""
    values.setdefault("leased_until", Now() + timedelta(hours=1))
    worker = Worker(id=uuid7(), name="w1", engine="rq", hostname="host", pid=1)
    for name, value in values.items():
        setattr(worker, name, value)
    worker.save(force_insert=True)
    return worker


def claim(job: Job, *, worker: Worker | None = None, claim_id: UUID | None = None) -> Job | None:
    """What a worker does first with the delivery this job awaits: the started job, None if not to be had."""
    worker = worker or make_worker()
    return executor.claim(job.pk, job.attempt, worker=worker, claim_id=claim_id or uuid4())


def execute(job: Job, *, worker: Worker | None = None) -> Job:
    """Claim, run and report the attempt this job awaits, as a worker does; the job as it is then."""
    worker = worker or make_worker()
    started = claim(job, worker=worker)
    assert started, f"job {job.pk} could not be claimed"
    outcome, _ = executor.run(started, no_time_limit)
    report(started, outcome, worker_name=worker.name)
    return fresh(job)


def no_time_limit(seconds: int | None) -> AbstractContextManager[None]:
    return nullcontext()


def everything_in(valkey: redis.Redis) -> str:
    """All keys and values of the server as text; what RQ packed is unpacked."""
    readers: dict[bytes, Callable[[bytes], Any]] = {
        b"string": lambda key: [valkey.get(key)],
        b"hash": lambda key: [item for pair in valkey.hgetall(key).items() for item in pair],
        b"list": lambda key: valkey.lrange(key, 0, -1),
        b"set": valkey.smembers,
        b"zset": lambda key: valkey.zrange(key, 0, -1),
        b"stream": lambda key: [
            item for _, fields in valkey.xrange(key) for pair in fields.items() for item in pair
        ],
    }
    told = [item for key in valkey.scan_iter() for item in (key, *readers[valkey.type(key)](key))]
    return "\n".join(form.decode(errors="replace") for item in told for form in _forms(item))


def _forms(item: bytes) -> Iterator[bytes]:
    yield item
    with suppress(zlib.error):
        yield zlib.decompress(item)
    with suppress(ValueError, zlib.error):
        unpacked = base64.b64decode(item, validate=True)
        yield unpacked
        yield zlib.decompress(unpacked)


class WorkerProcess:
    """`manage.py rqworker` as a process of its own, in a session of its own."""

    def __init__(self, command: str, *arguments: str, environment: dict[str, str]) -> None:
        self.log = Path(environment["PROJECT_DATA"]) / f"worker-{uuid4().hex[:6]}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", command, *arguments],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.pid = self.process.pid

    def kill(self) -> None:
        """kill -9 of the worker alone; what it forked has to see to itself."""
        self.process.kill()
        self.process.wait(timeout=60)

    def stop(self) -> int:
        """SIGTERM, as a deploy does; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(timeout=60)


def worker_environment(server: embedded.EmbeddedServer, folder: Path) -> dict[str, str]:
    """What a process needs to work on the tests' database and this server."""
    return {
        "DJANGO_SETTINGS_MODULE": "tests.worker_settings",
        "DATABASE_NAME": str(connections["default"].settings_dict["NAME"]),
        "REDIS_URL": server.url,
        "PROJECT_DATA": str(folder),
    }


@pytest.fixture
def start_worker(
    transactional_db: None,
    valkey: redis.Redis,
    valkey_server: embedded.EmbeddedServer,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Callable[..., WorkerProcess]]:
    """Start real workers on this test's database and server; they end with the test."""
    workers: list[WorkerProcess] = []
    environment = worker_environment(valkey_server, tmp_path)

    def start(*arguments: str, command: str = "rqworker", **more_environment: str) -> WorkerProcess:
        """With one process for jobs, so that they run in turn, unless the arguments say otherwise."""
        given = {argument.partition("=")[0] for argument in arguments}
        if command in ("rqworker", "jobs_worker") and not given & {"--processes", "--isolation"}:
            arguments = (*arguments, "--isolation=fork" if ISOLATION == "fork" else "--processes=1")
        workers.append(WorkerProcess(command, *arguments, environment={**environment, **more_environment}))
        return workers[-1]

    yield start
    codes = [worker.process.poll() for worker in workers]
    for worker in workers:
        worker.end()
    if request.node.stash.get(_failed, False):
        for worker, code in zip(workers, codes, strict=True):
            state = "until then it ran" if code is None else f"it had ended with code {code}"
            print(f"--- {worker.log.name}: {state}\n{worker.log.read_text()}")


_failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    if report.when == "call":
        item.stash[_failed] = report.failed
    return report


@pytest.fixture
def shop(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A project of its own, with the app `shop`: its folder, and the environment in which it is found."""
    folder = tmp_path / "project"
    (folder / "shop").mkdir(parents=True)
    (folder / "shop" / "__init__.py").touch()
    (folder / "shop_settings.py").write_text(
        "from tests.worker_settings import *\nINSTALLED_APPS = [*INSTALLED_APPS, 'shop']\n"
    )
    environment = {"DJANGO_SETTINGS_MODULE": "shop_settings", "PYTHONPATH": f"{folder}:{ROOT}"}
    return folder, environment


VERSION = """
    import time
    from pathlib import Path
    from django_jobs import task

    @task(queue="file_processing")
    def version(begun, release):
        Path(begun).touch()
        while not Path(release).exists():
            time.sleep(0.02)
        return {version}
"""
"""The tasks of `shop` in one version of its code."""


@pytest.fixture
def version(job_factory: Callable[..., Job], tmp_path: Path) -> Callable[[], int]:
    """What a job returns that is enqueued now: the version of the code that runs it."""

    def ask() -> int:
        job = job_factory(task="shop.tasks.version", args=[str(tmp_path / "asked"), str(tmp_path)])
        return job.wait(timeout=60).result

    return ask


@pytest.fixture
def queued_ids(valkey: redis.Redis) -> Callable[[str], list[str]]:
    """The ids of the deliveries that wait in a queue."""

    def ids(queue: str) -> list[str]:
        return [item.decode() for item in impatient_client(queue).lrange(f"rq:queue:{queue}", 0, -1)]

    return ids
