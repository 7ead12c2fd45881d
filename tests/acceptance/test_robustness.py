"""Workers outlive what happens around them: Redis restarted, junk in queues, jobs that heed nothing."""

import json
import os
import signal
from uuid import uuid4

import pytest
from django.db import connection
from rq.job import Job as RQJob
from rq.queue import Queue as RQQueue

from django_jobs import embedded
from django_jobs.engines import Delivery, get_engine
from django_jobs.engines.rq import engine
from django_jobs.engines.rq.parking import PARKED_KEY
from django_jobs.models import Job, Worker
from django_jobs.processes import _children as children_of
from django_jobs.states import FAILED, FINISHED, STARTED
from tests import tasks
from tests.conftest import ROOT, fresh, lines, wait_until, write


@pytest.fixture
def restart_valkey(valkey_server):
    """kill -9 of the server; the function returned starts it again, which otherwise happens at the end."""
    directory = valkey_server.directory

    def kill():
        os.kill(embedded.find(directory).pid, signal.SIGKILL)
        wait_until(lambda: embedded.find(directory) is None)
        return lambda: embedded.start(directory)

    yield kill
    embedded.start(directory)


def test_an_idle_worker_outlives_a_restart_of_redis(start_worker, restart_valkey):
    worker = start_worker("file_processing", "vectorization")
    wait_until(lambda: "Listening on" in worker.log.read_text())

    start_again = restart_valkey()
    job = tasks.add.enqueue(1, 2)
    wait_until(lambda: "could not connect to Redis" in worker.log.read_text())
    start_again()

    job.wait(timeout=60)
    assert (job.status, job.result, worker.process.poll()) == (FINISHED, 3, None)


def test_a_job_that_ends_while_redis_is_away_is_finished_and_the_worker_goes_on(
    start_worker, restart_valkey, tmp_path
):
    effects = tmp_path / "effects"
    job = tasks.hold.enqueue(str(effects), str(tmp_path / "release"))
    worker = start_worker("file_processing")
    wait_until(effects.exists)

    start_again = restart_valkey()
    (tmp_path / "release").touch()
    job.wait(timeout=60)
    start_again()
    following = tasks.add.enqueue(1)
    following.wait(timeout=60)

    assert (job.status, following.status, worker.process.poll()) == (FINISHED, FINISHED, None)
    assert [line.split()[0] for line in lines(effects)] == ["started", "ended"]


@pytest.mark.parametrize("queues", [["file_processing"], ["file_processing", "vectorization"]])
def test_a_worker_outlives_foreign_bytes_and_broken_hashes_in_its_queue(start_worker, valkey, queues):
    valkey.rpush("rq:queue:file_processing", b"\xff\xfe junk", "no-such-job", "broken")
    valkey.hset("rq:job:broken", mapping={"data": "x", "created_at": "never", "status": "nonsense"})
    job = tasks.add.enqueue(1)

    worker = start_worker(*queues)

    job.wait(timeout=60)
    assert (job.status, worker.process.poll()) == (FINISHED, None)


def test_deliveries_of_another_project_are_parked_and_told_and_those_for_nothing_dropped(
    start_worker, valkey, job_factory, monkeypatch
):
    ended, other = job_factory(status=FINISHED), uuid4()
    strange = [Delivery.of(ended), delivery_for(ended.pk, attempt=999_999_999), delivery_for(uuid4())]
    get_engine("rq").push(strange)
    foreign = delivery_for(uuid4())
    with monkeypatch.context() as patch:
        patch.setattr(engine, "installation_id", lambda: other)
        get_engine("rq").push([foreign])
    job = tasks.add.enqueue(1)

    worker = start_worker("file_processing")

    job.wait(timeout=60)
    assert (job.status, worker.process.poll()) == (FINISHED, None)
    assert "two projects share a Redis database" in worker.log.read_text()
    (parked,) = map(json.loads, valkey.lrange(PARKED_KEY, 0, -1))
    assert parked == {"queue": "file_processing", "delivery": foreign.id, "installation": str(other)}
    assert valkey.ttl(PARKED_KEY) > 0
    valkey.delete("rq:failed:file_processing")  # RQ's own note, which lasts for minutes.
    facts = get_engine("rq").examine(["file_processing"])
    assert facts.queues["file_processing"].installations == {str(other): 1}
    assert list(ended.attempts.all()) == list(ended.events.all()) == []


def delivery_for(job_id, attempt=1):
    return Delivery(job_id, attempt, 0, "file_processing", "tests.tasks.add", None)


@pytest.mark.parametrize("isolation", ["fork", "prefork"])
def test_an_rq_job_under_the_id_of_a_delivery_runs_nothing_but_a_delivery(
    start_worker, valkey, job_factory, tmp_path, isolation
):
    job = job_factory(args=[1])
    forged = RQJob.create(
        "tests.tasks.record",
        args=(str(tmp_path / "effects"), "forged"),
        id=Delivery.of(job).id,
        origin="file_processing",
        connection=valkey,
        serializer=json_serializer(),
    )
    RQQueue("file_processing", connection=valkey, serializer=json_serializer()).enqueue_job(forged)

    worker = start_worker("file_processing", f"--isolation={isolation}")

    if isolation == "fork":
        wait_until(lambda: "would not run one" in worker.log.read_text())
    else:  # What the row allows runs, whatever Redis says.
        assert job.wait(timeout=60).status == FINISHED
    assert not (tmp_path / "effects").exists()


@pytest.fixture
def impatient(tmp_path):
    """Variables of a project whose workers kill a job a second after its time limit, not ten."""
    (tmp_path / "impatient").mkdir()
    (tmp_path / "impatient" / "__init__.py").touch()
    (tmp_path / "impatient" / "apps.py").write_text(
        "from django.apps import AppConfig\n"
        "class Impatient(AppConfig):\n"
        "    name = 'impatient'\n"
        "    def ready(self):\n"
        "        from django_jobs.engines.rq import worker\n"
        "        worker.OVERTIME_SECONDS = 1\n"
    )
    (tmp_path / "impatient_settings.py").write_text(
        "from tests.worker_settings import *\nINSTALLED_APPS = [*INSTALLED_APPS, 'impatient']\n"
    )
    return {"DJANGO_SETTINGS_MODULE": "impatient_settings", "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}


def test_a_job_that_does_not_heed_its_time_limit_is_killed(start_worker, impatient):
    job = tasks.heed_no_signal.using(timeout=1).enqueue(600)
    start_worker("file_processing", **impatient)

    job.wait(timeout=60)

    assert (job.status, job.is_interrupted) == (FAILED, True)
    assert "s after its time limit" in job.error_message


def test_a_job_runs_to_its_end_once_though_rqs_record_of_it_breaks(start_worker, valkey, tmp_path):
    effects = tmp_path / "effects"
    job = tasks.hold_idempotent.enqueue(str(effects), str(tmp_path / "release"))
    worker = start_worker("file_processing")
    wait_until(effects.exists)

    key = f"rq:worker:{fresh(job).worker.name}"
    valkey.delete(key)
    valkey.set(key, "not the hash that RQ writes its heartbeat to")
    wait_until(lambda: "is not complete" in worker.log.read_text())
    valkey.delete(key)
    (tmp_path / "release").touch()

    job.wait(timeout=60)
    assert (job.status, job.attempt) == (FINISHED, 1)
    assert [line.split()[0] for line in lines(effects)] == ["started", "ended"]


FORKS_WHILE_THERE_IS_ROOM = """
    import errno, os

    fork = os.fork

    def fork_while_there_is_room():
        if os.path.exists({full!r}):
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()

    os.fork = fork_while_there_is_room
"""


def test_a_worker_outlives_that_for_a_while_nothing_can_be_forked(start_worker, shop, tmp_path):
    (folder, environment), full = shop, tmp_path / "full"
    write(folder / "shop" / "tasks.py", FORKS_WHILE_THERE_IS_ROOM.format(full=str(full)))
    effects, release = tmp_path / "effects", tmp_path / "release"
    running = tasks.hold.enqueue(str(effects), str(release))
    worker = start_worker("file_processing", "--processes=2", **environment)
    busy = int(wait_until(lambda: lines(effects))[0].split()[1])
    wait_until(lambda: [len(children_of(pid)) for pid in children_of(worker.pid)] in ([2, 0], [0, 2]))
    before = children_of(worker.pid)
    (maintainer,) = [pid for pid in before if not children_of(pid)]
    (idle,) = [pid for each in before for pid in children_of(each) if pid != busy]

    full.touch()
    for pid in (maintainer, idle):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: "The maintainer could not be started" in worker.log.read_text())
    wait_until(lambda: "A child could not be forked" in worker.log.read_text())
    full.unlink()

    assert tasks.add.enqueue(1, 2).wait(timeout=60).status == FINISHED
    wait_until(lambda: len(set(children_of(worker.pid)) - {maintainer}) == 2)
    release.touch()
    assert running.wait(timeout=60).status == FINISHED
    assert [attempt.outcome for attempt in running.attempts.all()] == ["finished"]


def test_a_worker_may_take_the_name_of_one_that_was_killed_but_not_of_one_that_lives(start_worker):
    first = start_worker("--name", "alice")
    wait_until(lambda: "Listening on" in first.log.read_text())
    second = start_worker("--name", "alice")

    assert second.process.wait(timeout=60) == 1
    assert 'A worker named "alice" runs on' in second.log.read_text()

    first.kill()
    third = start_worker("--name", "alice")
    job = tasks.add.enqueue(1)
    job.wait(timeout=60)
    assert job.attempts.get().worker_name == "alice"
    assert third.process.poll() is None


def test_a_worker_class_of_somebody_elses_is_refused(start_worker):
    worker = start_worker("--worker-class", "rq.worker.SimpleWorker")

    assert worker.process.wait(timeout=60) == 1
    assert "--worker-class is not for this command" in worker.log.read_text()


def test_a_burst_worker_delivers_what_redis_does_not_hold_before_it_ends(start_worker, job_factory):
    job = job_factory(args=[1, 2])

    worker = start_worker("--burst")

    assert worker.process.wait(timeout=60) == 0
    assert (fresh(job).status, fresh(job).result) == (FINISHED, 3)


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no pool of connections.")
def test_no_connection_of_a_pool_crosses_a_fork(start_worker):
    start_worker("file_processing", DATABASE_POOL="yes")

    jobs = [tasks.add.enqueue(number, 1) for number in range(30)]

    for job in jobs:
        job.wait(timeout=60)
    assert [(job.status, job.result) for job in jobs] == [(FINISHED, number + 1) for number in range(30)]
    assert {job.attempts.count() for job in jobs} == {1}


def test_a_worker_that_is_killed_leaves_a_row_that_tells_when_it_was_last_seen(start_worker, tmp_path):
    job = tasks.hold.enqueue(str(tmp_path / "effects"), str(tmp_path / "never"))
    worker = start_worker("file_processing")
    wait_until(lambda: fresh(job).status == STARTED)

    worker.kill()

    row = Worker.objects.get(pid=worker.pid)
    assert Job.objects.get().worker == row
    assert row.seen_at <= row.leased_until


def json_serializer():
    class Serializer:
        @staticmethod
        def dumps(*args, **kwargs):
            return json.dumps(*args, **kwargs).encode()

        @staticmethod
        def loads(text, *args, **kwargs):
            return json.loads(text, *args, **kwargs)

    return Serializer
