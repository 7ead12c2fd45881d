"""Redis is killed, emptied, restored, replaced, cut off: what is committed runs once, and workers go on."""

import os
import time

import pytest
from django.db.models.functions import Now

from django_jobs import enqueue_many, relay
from django_jobs.engines.rq import scripts
from django_jobs.models import Job, JobEvent
from django_jobs.states import FINISHED
from tests import tasks
from tests.conftest import ROOT, Stopwatch, lines, wait_until
from tests.faults.proxy import HANG, PASS, REFUSE, FaultProxy
from tests.faults.servers import ValkeyServer
from tests.faults.stalls import unless_stalled

LEASE_SECONDS = 3
LEASE = {"LEASE_SECONDS": str(LEASE_SECONDS)}
LONG_LEASE = {"LEASE_SECONDS": "30"}
"""Where no lease has to end, a machine that stands still for long does no harm."""


def emptied(server):
    server.client.flushall()


def killed(server):
    server.restart()


@pytest.mark.parametrize(
    ("appendonly", "disaster"),
    [("no", emptied), ("no", killed), ("yes", killed)],
    ids=["emptied", "killed", "killed-with-append-only-file"],
)
def test_what_runs_and_what_waits_ends_once_when_redis_is_emptied_or_killed(
    start_worker, queues_on, queued_ids, held, tmp_path, appendonly, disaster
):
    job, noted = held("job"), tmp_path / "noted"
    with ValkeyServer(tmp_path / "redis", appendonly=appendonly) as server:
        queues_on(server.url)
        running = tasks.hold.enqueue(*job.arguments)
        worker = start_worker("file_processing", REDIS_URL=server.url, **LONG_LEASE)
        wait_until(job.runs)
        waiting = enqueue_many(tasks.note.call(str(noted), str(number)) for number in range(5))
        wait_until(lambda: not Job.objects.queued().filter(delivered_at=None).exists())

        disaster(server)

        wait_until(lambda: len(queued_ids("file_processing")) == 5)
        job.let_go()
        for each in [running, *waiting]:
            assert (each.wait(timeout=60).status, each.attempt) == (FINISHED, 1)
        assert lines(noted) == ["0", "1", "2", "3", "4"]
        assert job.steps() == ["started", "ended"]
        assert worker.process.poll() is None
        assert not JobEvent.objects.exists()


@pytest.fixture(params=["restored", "replaced-by-a-lagging-replica"])
def time_machine(request, tmp_path, queues_on):
    """A Redis that will be as it was when `remember()` was called: (its URL, remember, go_back)."""
    with ValkeyServer(tmp_path / "redis") as server, FaultProxy(server.address) as front:
        url = f"redis://127.0.0.1:{front.port}/0"
        queues_on(url)
        if request.param == "restored":
            snapshots = []
            yield url, lambda: snapshots.append(server.snapshot()), lambda: server.restart(snapshots[0])
            return
        with FaultProxy(server.address) as line, ValkeyServer(tmp_path / "2", replica_of=line) as replica:

            def remember():
                server.client.set("the last", "write")  # WAIT is for those of the same client.
                wait_until(lambda: replica.client.info()["master_link_status"] == "up")
                assert server.client.wait(1, 10_000) == 1
                line.mode = HANG

            def go_back():
                server.kill()
                replica.client.replicaof("NO", "ONE")
                front.target = replica.address
                front.cut_all()

            yield url, remember, go_back


def test_what_redis_has_forgotten_is_delivered_anew_and_what_it_brings_back_runs_nothing(
    start_worker, time_machine, queued_ids, held, tmp_path
):
    url, remember, go_back = time_machine
    job, noted = held("job"), tmp_path / "noted"
    ended = enqueue_many(tasks.note.call(str(noted), f"ended {number}") for number in range(3))
    stale = queued_ids("file_processing")
    remember()
    worker = start_worker("file_processing", REDIS_URL=url, **LONG_LEASE)
    for each in ended:
        each.wait(timeout=60)
    running = tasks.hold.enqueue(*job.arguments)
    wait_until(job.runs)
    waiting = enqueue_many(tasks.note.call(str(noted), f"waiting {number}") for number in range(3))
    forgotten = queued_ids("file_processing")

    go_back()

    wait_until(lambda: queued_ids("file_processing") == stale + forgotten)
    job.let_go()
    for each in [running, *waiting]:
        assert (each.wait(timeout=60).status, each.attempt) == (FINISHED, 1)
    assert lines(noted) == [f"{what} {number}" for what in ("ended", "waiting") for number in range(3)]
    assert (job.steps(), worker.process.poll()) == (["started", "ended"], None)


def test_workers_follow_a_sentinel_to_the_new_master(start_worker, settings, held, tmp_path):
    job = held("job")
    (tmp_path / "sentinel_settings.py").write_text(
        "import os\n"
        "from tests.worker_settings import *\n"
        "QUEUE = {'SENTINELS': [('127.0.0.1', int(os.environ['SENTINEL_PORT']))], 'MASTER_NAME': 'main'}\n"
        "RQ_QUEUES = {name: QUEUE for name in RQ_QUEUES}\n"
    )
    with (
        ValkeyServer(tmp_path / "1") as master,
        ValkeyServer(tmp_path / "2", replica_of=master) as replica,
    ):
        wait_until(lambda: replica.client.info()["master_link_status"] == "up")
        with ValkeyServer(tmp_path / "sentinel", sentinel_of=master) as sentinel:
            queue = {"SENTINELS": [("127.0.0.1", sentinel.port)], "MASTER_NAME": "main"}
            settings.RQ_QUEUES = dict.fromkeys(settings.RQ_QUEUES, queue)
            running = tasks.hold.enqueue(*job.arguments)
            busy, idle = (
                start_worker(
                    queue,
                    DJANGO_SETTINGS_MODULE="sentinel_settings",
                    PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}",
                    SENTINEL_PORT=str(sentinel.port),
                    **LONG_LEASE,
                )
                for queue in ("file_processing", "vectorization")
            )
            wait_until(job.runs)
            wait_until(lambda: "Listening on" in idle.log.read_text())

            master.kill()
            with Stopwatch() as watch:
                following = [
                    tasks.add.using(queue=queue).enqueue(1) for queue in ("file_processing", "vectorization")
                ]
            job.let_go()

            for each in [running, *following]:
                assert (each.wait(timeout=60).status, each.attempt) == (FINISHED, 1)
            assert replica.client.role()[0] == b"master"
            assert (busy.process.poll(), idle.process.poll()) == (None, None)
            assert watch.seconds < 2


@pytest.mark.parametrize("isolation", ["fork", "prefork"])
def test_a_delivery_whose_way_to_the_worker_was_cut_is_made_anew(start_worker, redis_server, isolation):
    with FaultProxy(redis_server.address) as line, FaultProxy(redis_server.address) as other_line:
        one, several = (
            start_worker(
                *queues,
                f"--isolation={isolation}",
                REDIS_URL=f"redis://127.0.0.1:{way.port}/0",
                **LONG_LEASE,
            )
            for way, queues in ((line, ["file_processing"]), (other_line, ["vectorization", "kg_extraction"]))
        )
        for worker in (one, several):
            wait_until(lambda worker=worker: "Listening on" in worker.log.read_text())
        if isolation == "fork":  # It is asked for before there is one.
            line.drop_reply_to, other_line.drop_reply_to = b"BLMOVE", b"BLPOP"
            line.cut_all()
            other_line.cut_all()
            wait_until(lambda: (line.hits, other_line.hits) == (1, 1))
        else:
            wait_until(
                lambda: [each["cmd"] for each in redis_server.client.client_list()].count("blmove") == 3
            )
            line.drop_reply_to = other_line.drop_reply_to = scripts.sha(scripts.TAKE).encode()

        jobs = [tasks.add.using(queue=queue).enqueue(1) for queue in ("file_processing", "vectorization")]

        for job in jobs:
            assert (job.wait(timeout=60).status, job.attempt, job.attempts.count()) == (FINISHED, 1, 1)
            assert job.events.get().kind == JobEvent.Kind.REDELIVERED
        assert (line.hits, other_line.hits) == (1, 1)
        assert (one.process.poll(), several.process.poll()) == (None, None)


@pytest.mark.parametrize("fault", [REFUSE, HANG])
@unless_stalled(LEASE_SECONDS / 2)
def test_workers_without_redis_for_longer_than_their_lease_finish_what_they_run_and_go_on(
    start_worker, redis_server, held, fault
):
    during, after = held("during"), held("after")
    ends_during = tasks.hold_idempotent.enqueue(*during.arguments)
    ends_after = tasks.hold_idempotent.using(queue="vectorization").enqueue(*after.arguments)
    # It has Redis all the time, and a maintainer that would settle what others have left.
    start_worker("kg_extraction", REDIS_URL=redis_server.url, **LEASE)
    with FaultProxy(redis_server.address) as line:
        cut_off = [
            start_worker(queue, REDIS_URL=f"redis://127.0.0.1:{line.port}/0", **LEASE)
            for queue in ("file_processing", "vectorization")
        ]
        wait_until(lambda: during.runs() and after.runs())

        line.mode = fault
        during.let_go()
        assert ends_during.wait(timeout=60).status == FINISHED
        time.sleep(2 * LEASE_SECONDS + 1)  # So long it lasts.
        line.mode = PASS
        after.let_go()

        assert ends_after.wait(timeout=60).status == FINISHED
        for queue in ("file_processing", "vectorization"):
            assert tasks.add.using(queue=queue).enqueue(1).wait(timeout=60).status == FINISHED
        assert during.steps() == after.steps() == ["started", "ended"]
        assert [worker.process.poll() for worker in cut_off] == [None, None]
        assert not JobEvent.objects.exists()


def test_thousands_that_wait_are_delivered_within_seconds_after_redis_is_back_empty(
    start_worker, redis_server, queued_ids
):
    worker = start_worker("vectorization", REDIS_URL=redis_server.url)
    wait_until(lambda: "Listening on" in worker.log.read_text())
    redis_server.kill()
    with relay.withheld():
        for _ in range(10):
            enqueue_many(tasks.add.call(number) for number in range(1000))
    Job.objects.update(delivered_at=Now(), delivered_epoch="of the server that was")
    wait_until(lambda: "Nothing can be delivered" in worker.log.read_text())

    redis_server.start()
    with Stopwatch() as watch:
        wait_until(lambda: redis_server.client.llen("rq:queue:file_processing") >= 10_000)

    print(f"10,000 jobs were delivered in {watch.seconds:.1f} s.")
    assert watch.seconds < 30
    wait_until(lambda: not Job.objects.filter(delivered_epoch="of the server that was").exists())
    ids = queued_ids("file_processing")
    assert len(ids) == 10_000
    assert ids == sorted(set(ids))
