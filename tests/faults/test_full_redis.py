"""A Redis whose memory is full refuses what is new; what it holds already is run nevertheless."""

import django_rq
import pytest

from django_jobs.states import FINISHED, QUEUED
from tests import tasks
from tests.conftest import fresh, wait_until


@pytest.fixture
def fill(valkey):
    """Allow the server less memory than it uses, until the test ends."""

    def limit():
        valkey.config_set("maxmemory", valkey.info("memory")["used_memory"] // 2)

    yield limit
    valkey.config_set("maxmemory", 0)


@pytest.mark.parametrize("queues", [["file_processing"], ["file_processing", "vectorization"]])
def test_workers_run_what_a_full_server_holds_and_the_rest_later(start_worker, fill, valkey, queues):
    delivered = [tasks.add.enqueue(number) for number in range(3)]
    fill()
    late = tasks.add.enqueue(100)
    worker = start_worker(*queues)

    assert [job.wait(timeout=60).status for job in delivered] == [FINISHED] * 3
    assert [job.attempt for job in delivered] == [1, 1, 1]
    assert fresh(late).status == QUEUED
    valkey.config_set("maxmemory", 0)

    assert late.wait(timeout=60).status == FINISHED
    assert worker.process.poll() is None
    wait_until(lambda: not [key for key in valkey.keys("rq:job:*") if valkey.ttl(key) == -1])


def test_a_plain_job_of_a_full_server_stays_on_its_queue(start_worker, fill, valkey, tmp_path):
    plain = django_rq.get_queue("file_processing").enqueue(tasks.record, str(tmp_path / "effects"), "plain")
    job = tasks.add.enqueue(1)
    fill()
    start_worker("file_processing")

    assert job.wait(timeout=60).status == FINISHED
    assert plain.id.encode() in valkey.lrange("rq:queue:file_processing", 0, -1)
    valkey.config_set("maxmemory", 0)
    wait_until(lambda: plain.get_status(refresh=True) == "finished")


@pytest.fixture
def deleting(valkey):
    """Have the server delete something when it is full, until the test ends."""
    yield lambda policy: valkey.config_set("maxmemory-policy", policy)
    valkey.config_set("maxmemory-policy", "noeviction")


def test_a_worker_does_not_start_on_a_server_that_deletes_queues(start_worker, deleting):
    deleting("allkeys-lru")

    worker = start_worker("file_processing")

    assert worker.process.wait(timeout=60) == 1
    assert "deletes any keys when its memory is full (allkeys-lru), even queues." in worker.log.read_text()


def test_a_worker_warns_of_a_server_that_deletes_what_expires_and_runs(start_worker, deleting):
    deleting("volatile-lru")

    worker = start_worker("file_processing")

    assert tasks.add.enqueue(1).wait(timeout=60).status == FINISHED
    assert "deletes keys with an expiry when its memory is full (volatile-lru)" in worker.log.read_text()
