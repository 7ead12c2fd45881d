"""`manage.py rqworker` as a command: how it starts, what it says, and RQ's own workers beside it."""

import os
import re
import subprocess
import sys
from contextlib import contextmanager

import pytest
import redis
from django.db import connections

from django_jobs import embedded
from django_jobs.models import Worker
from django_jobs.states import FINISHED
from tests import tasks
from tests.conftest import ROOT, fresh, wait_until


def test_an_unknown_queue_ends_the_command_and_names_the_one_that_was_meant(start_worker):
    worker = start_worker("file_procesing")

    assert worker.process.wait(timeout=15) == 1

    told = worker.log.read_text()
    assert 'CommandError: Unknown queue "file_procesing". Did you mean "file_processing"?' in told
    assert "Traceback" not in told
    assert not Worker.objects.exists()


@pytest.fixture
def later_server(tmp_path):
    """Where a server with a password will be, and a function that starts it."""
    folder = tmp_path / "later"
    bare = embedded.url(folder)
    url = bare.replace("unix://", "unix://:secret-4711@")

    def start():
        embedded.start(folder)
        with redis.Redis.from_url(bare) as client:
            client.config_set("requirepass", "secret-4711")

    yield url, start
    with redis.Redis.from_url(url) as client:
        client.config_set("requirepass", "")
    embedded.stop(folder)


def test_a_worker_waits_for_redis_and_says_so_in_one_line_without_the_password(start_worker, later_server):
    url, start_server = later_server
    job = tasks.add.enqueue(1, 2)
    worker = start_worker("file_processing", REDIS_URL=url)
    wait_until(lambda: "is not reached" in worker.log.read_text())
    [line, *_] = worker.log.read_text().splitlines()

    start_server()

    assert job.wait(timeout=20).result == 3
    assert re.search(
        r"Redis at unix://:\*\*\*@\S*valkey\.sock\S* is not reached \(.*\); trying again in 1 s", line
    )
    assert "secret-4711" not in worker.log.read_text()
    assert "Traceback" not in worker.log.read_text()


def test_a_burst_worker_runs_what_waits_and_ends(start_worker):
    jobs = [tasks.add.enqueue(number) for number in range(3)]

    worker = start_worker("file_processing", "--burst")

    assert worker.process.wait(timeout=20) == 0
    assert [fresh(job).status for job in jobs] == [FINISHED] * 3
    assert not Worker.objects.exists()


def test_jobs_worker_is_the_same_command_and_writes_its_pid(start_worker, tmp_path):
    job = tasks.add.enqueue(1)
    worker = start_worker("file_processing", "--burst", "--pid", str(tmp_path / "pid"), command="jobs_worker")

    assert worker.process.wait(timeout=20) == 0
    assert fresh(job).status == FINISHED
    assert (tmp_path / "pid").read_text() == str(worker.pid)


def test_a_worker_without_a_maintainer_leaves_due_jobs_to_another(start_worker, job_factory):
    undelivered = job_factory(args=[1])
    delivered = tasks.add.enqueue(1)

    start_worker("file_processing", "--no-maintainer")
    delivered.wait(timeout=15)
    assert fresh(undelivered).delivered_at is None

    start_worker("file_processing")
    assert undelivered.wait(timeout=15).status == FINISHED


@contextmanager
def plain_rq_worker(valkey_server, tmp_path, *arguments):
    """RQ's own `rq worker` in a process that knows Django; its log."""
    environment = {
        "DJANGO_SETTINGS_MODULE": "tests.worker_settings",
        "DATABASE_NAME": str(connections["default"].settings_dict["NAME"]),
        "REDIS_URL": valkey_server.url,
        "PROJECT_DATA": str(tmp_path),
    }
    log = tmp_path / "rq.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "rq.cli", "worker", "-c", "tests.plain_rq", *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
        )
    try:
        yield log
    finally:
        process.terminate()
        process.wait(timeout=15)


def test_rqs_own_worker_runs_our_jobs_too(transactional_db, valkey, valkey_server, tmp_path):
    good = tasks.add.enqueue(1, 2)
    bad = tasks.fail.enqueue("why")

    with plain_rq_worker(valkey_server, tmp_path, "--serializer", "json", "file_processing") as log:
        good.wait(timeout=20)
        bad.wait(timeout=20)
        wait_until(lambda: not Worker.objects.exists())

    assert (good.status, good.result) == (FINISHED, 3), log.read_text()
    assert (bad.status, bad.error_message) == ("failed", "why")
    assert good.attempts.get().worker_name.startswith("rq.")
