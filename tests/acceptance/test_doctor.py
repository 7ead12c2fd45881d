"""The classic troubles, made for real, and what jobs_doctor says; a command that it names helps."""

import json
import os
import shlex
import socket
import subprocess
import sys

import pytest
import redis
from django.db import connections

from django_jobs import embedded
from django_jobs.models import Lease, Worker
from django_jobs.states import FAILED, FINISHED, QUEUED
from tests import tasks
from tests.conftest import ROOT, fresh, wait_until


@pytest.fixture
def manage(transactional_db, valkey, valkey_server, tmp_path):
    """Run `manage.py …` as a process on this test's database and server."""

    def run(*arguments, **environment):
        environment = {
            "DJANGO_SETTINGS_MODULE": "tests.worker_settings",
            "DATABASE_NAME": str(connections["default"].settings_dict["NAME"]),
            "REDIS_URL": valkey_server.url,
            "PROJECT_DATA": str(tmp_path),
            **environment,
        }
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture
def doctor(manage):
    """What `jobs_doctor --json` says with these variables: {check: its worst finding}."""

    def examine(**environment):
        done = manage("jobs_doctor", "--json", **environment)
        answer = json.loads(done.stdout)
        assert (done.returncode == 0) == answer["ok"]
        return {each["check"]: each for each in reversed(answer["findings"])}

    return examine


@pytest.fixture
def follow(manage, start_worker):
    """Do what a fix says: a worker that it names is started and goes on, all else is run."""

    def do(fix):
        _, _, *words = shlex.split(fix[fix.index("python manage.py") :].partition(" (")[0])
        if words[0] == "rqworker":
            return start_worker(*words[1:])
        done = manage(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return do


def free_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


# 1. Redis is not reached


def test_redis_that_refuses_is_told_and_the_job_runs_once_it_is_right(doctor, start_worker):
    url = f"redis://:secret-4711@127.0.0.1:{free_port()}/0"
    job = tasks.add.enqueue(1)
    worker = start_worker("file_processing", REDIS_URL=url)
    wait_until(lambda: "is not reached" in worker.log.read_text())

    told = doctor(REDIS_URL=url)["server"]

    assert told["level"] == "error"
    assert "refuses the connection: nothing listens there" in told["found"]
    assert "RQ_QUEUES in tests.worker_settings" in told["fix"]
    assert "-4711" not in str(told)
    start_worker("file_processing")
    assert job.wait(timeout=60).status == FINISHED


def test_a_wrong_password_is_told(doctor, tmp_path):
    server = embedded.start(tmp_path / "locked")
    with redis.Redis.from_url(server.url) as client:
        client.config_set("requirepass", "right-4711")
        told = doctor(REDIS_URL=server.url.replace("unix://", "unix://:wrong-4711@"))["server"]
        client.config_set("requirepass", "")
    embedded.stop(tmp_path / "locked")

    assert "refuses the login" in told["found"]
    assert "-4711" not in str(told)


def test_a_frozen_server_is_told(doctor, freeze):
    freeze()

    assert "does not answer within a second" in doctor()["server"]["found"]


# 2. The worker does not start


@pytest.fixture
def broken_project(tmp_path):
    """Variables of a project with an app whose tasks cannot be imported."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "tasks.py").write_text(
        "print('{this is no JSON')\n"
        "from django_jobs import task\n"
        "import no_such_library\n\n\n"
        "@task(queue='file_processing')\ndef sell(): ...\n"
    )
    (tmp_path / "shop_settings.py").write_text(
        "from tests.worker_settings import *\nINSTALLED_APPS = [*INSTALLED_APPS, 'shop']\n"
    )
    return {"DJANGO_SETTINGS_MODULE": "shop_settings", "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}


def test_tasks_for_which_no_worker_starts_are_told_with_file_and_line(
    doctor, start_worker, broken_project, job_factory, tmp_path
):
    job_factory(task="shop.tasks.sell")
    assert start_worker("file_processing", **broken_project).process.wait(timeout=60) == 1

    told = doctor(**broken_project)

    assert told["tasks"]["level"] == "error"
    assert "ModuleNotFoundError: No module named 'no_such_library'" in told["tasks"]["found"]
    assert f"({tmp_path}/shop/tasks.py, line 3)" in told["tasks"]["found"]
    assert "cannot be loaded" in told["task"]["found"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def broken(:\n", "SyntaxError"),
        ("raise SystemExit('enough')\n", "SystemExit: enough"),
        ("\n\n1 / 0\n", "shop/tasks.py, line 3"),
    ],
)
def test_whatever_a_module_of_tasks_raises_is_told(doctor, broken_project, tmp_path, code, words):
    (tmp_path / "shop" / "tasks.py").write_text(code)

    told = doctor(**broken_project)["tasks"]

    assert (told["level"], words in told["found"]) == ("error", True), told


def test_a_module_of_tasks_that_takes_for_ever_is_a_warning_in_time(doctor, broken_project, tmp_path):
    (tmp_path / "shop" / "tasks.py").write_text("import time\ntime.sleep(600)\n")
    (tmp_path / "shop" / "apps.py").write_text(
        "from django.apps import AppConfig\n"
        "class Shop(AppConfig):\n"
        "    name = 'shop'\n"
        "    def ready(self):\n"
        "        from django_jobs.doctor import examination\n"
        "        examination.TASKS_SECONDS = 1\n"
    )

    told = doctor(**broken_project)

    assert (told["tasks"]["level"], "within 1 s" in told["tasks"]["found"]) == ("warning", True)
    assert told["database"]["level"] == "ok"


def test_a_database_that_is_not_migrated_is_told_and_not_made(doctor, start_worker, tmp_path):
    if connections["default"].vendor != "sqlite":
        pytest.skip("On SQLite another database is another file.")
    empty = str(tmp_path / "empty.sqlite3")

    told = doctor(DATABASE_NAME=empty)["database"]
    assert (told["level"], told["fix"]) == ("error", "python manage.py migrate")
    assert "does not exist" in told["found"]
    assert not (tmp_path / "empty.sqlite3").exists()

    worker = start_worker("file_processing", DATABASE_NAME=empty)
    wait_until(lambda: "not reached or not migrated" in worker.log.read_text())
    told = doctor(DATABASE_NAME=empty)["database"]
    assert "is not migrated: django_jobs misses 0001_initial" in told["found"]


def test_a_database_that_is_not_reached_is_told(doctor):
    port = free_port()

    told = doctor(DATABASE="postgresql", DATABASE_NAME="shop", PGHOST="127.0.0.1", PGPORT=str(port))

    assert told["database"]["level"] == "error"
    assert (
        f"(postgresql, shop at 127.0.0.1:{port}) is not reached: OperationalError"
        in told["database"]["found"]
    )
    assert "queue" not in told


# 3. A job stays queued


def test_a_job_without_a_worker_runs_when_the_command_told_is_run(doctor, follow):
    job = tasks.add.enqueue(1, 2)

    told = doctor()["queue"]
    assert "1 job waits" in told["found"]
    assert "no worker listens to it" in told["found"]
    follow(told["fix"])

    assert job.wait(timeout=60).result == 3
    wait_until(lambda: doctor()["maintainer"]["level"] == "ok")
    assert doctor()["queue"]["level"] == "ok"


def test_a_job_of_a_paused_queue_runs_when_the_command_told_is_run(doctor, follow, manage, start_worker):
    assert manage("jobs_pause", "file_processing").returncode == 0
    job = tasks.add.enqueue(1)
    start_worker("file_processing")

    told = doctor()["queue"]
    assert "The queue is paused since" in told["found"]
    assert fresh(job).status == QUEUED
    follow(told["fix"])

    assert job.wait(timeout=60).status == FINISHED


def test_a_due_job_without_a_maintainer_runs_when_the_command_told_is_run(doctor, follow, start_worker):
    job = tasks.add.using(delay=0.1).enqueue(1)
    start_worker("file_processing", "--no-maintainer")
    wait_until(Worker.objects.exists)

    told = doctor()["maintainer"]
    assert (told["level"], Lease.objects.exists()) == ("error", False)
    follow(told["fix"])

    assert job.wait(timeout=60).status == FINISHED


# 4. A job failed


def test_a_failed_job_is_told_with_the_place_and_requeued_by_the_command_told(doctor, follow, start_worker):
    job = tasks.fail.enqueue("the till is stuck")
    start_worker("file_processing", "--burst")
    assert job.wait(timeout=60).status == FAILED

    told = doctor()["failures"]
    assert "1 job failed with ValueError in the last 24 hours" in told["found"]
    assert '"the till is stuck"' in told["found"]
    assert "tests/tasks.py, line " in told["found"]
    assert "(fail)" in told["found"]
    follow(told["fix"])

    assert (fresh(job).status, fresh(job).attempt) == (QUEUED, 2)


@pytest.mark.parametrize(
    ("task", "why", "fix"),
    [
        (tasks.kill_itself, "killed from outside, as the kernel does when memory runs out", "dmesg"),
        (tasks.outlast_its_time, "longer than its time limit", "@task(timeout=SECONDS)"),
    ],
)
def test_why_a_job_was_cut_is_told(doctor, start_worker, task, why, fix):
    job = task.enqueue()
    start_worker("file_processing")
    assert job.wait(timeout=60).status == FAILED

    told = doctor()["failures"]

    assert (why in told["found"], fix in told["fix"]) == (True, True), told


# 5. An event loop runs already


@pytest.mark.parametrize(
    ("task", "message", "why", "fix"),
    [
        (tasks.run_a_loop_in_a_loop, "asyncio.run()", "started an event loop where one runs", "aenqueue("),
        (
            tasks.wait_in_a_loop_for_the_loop,
            "already running",
            "where one runs already",
            "await in it instead",
        ),
        (tasks.query_in_a_loop, "async context", "inside a running event loop", "sync_to_async"),
        (tasks.use_a_closed_loop, "Event loop is closed", "another event loop", "inside the coroutine"),
    ],
)
def test_a_job_that_fails_on_an_event_loop_is_told_what_to_write(
    doctor, start_worker, task, message, why, fix
):
    job = task.enqueue()
    start_worker("file_processing", "--burst")
    job.wait(timeout=60)
    assert (job.status, message in job.error_message) == (FAILED, True), job.error_message

    told = doctor()["failures"]

    assert (why in told["found"], fix in told["fix"]) == (True, True), told


# All of it


def test_with_a_real_worker_all_is_in_order(manage, start_worker):
    start_worker()
    wait_until(lambda: Worker.objects.exists() and Lease.objects.exists())

    done = manage("jobs_doctor")

    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "All is in order."), done.stdout


def test_a_terminal_that_knows_no_umlauts_is_no_obstacle(manage, job_factory):
    job_factory(task="tests.tasks.größe…")

    done = manage("jobs_doctor", PYTHONIOENCODING="ascii", LC_ALL="C")

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "tests.tasks.gr\\xf6\\xdfe\\u2026" in done.stdout


def test_everything_being_wrong_at_once_is_told_in_seconds(doctor, broken_project, freeze, tmp_path):
    freeze()

    told = doctor(**broken_project, DATABASE="postgresql", PGHOST="127.0.0.1", PGPORT=str(free_port()))

    assert {check for check, each in told.items() if each["level"] == "error"} == {
        "server",
        "tasks",
        "database",
    }
