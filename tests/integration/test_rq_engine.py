"""RQ as an engine: what is in Redis, and what may go wrong there."""

import pytest
from rq.job import Job as RQJob
from rq.registry import FailedJobRegistry

from django_jobs.engines import get_engine
from django_jobs.engines.base import Delivery
from django_jobs.engines.rq.connections import impatient_client
from django_jobs.exceptions import EngineUnavailable
from tests.conftest import Stopwatch

pytestmark = pytest.mark.django_db


@pytest.fixture
def engine(valkey):
    return get_engine("rq")


def deliveries(*jobs):
    return [Delivery.of(job) for job in jobs]


def test_rq_itself_reads_a_delivery_as_one_of_its_jobs(engine, job_factory, valkey):
    job = job_factory(timeout_seconds=77)
    engine.push(deliveries(job))

    seen = RQJob.fetch(f"{job.pk.hex}-1-0", connection=valkey, serializer="rq.serializers.JSONSerializer")

    assert seen.func_name == "django_jobs.engines.rq.trampoline.run"
    assert (seen.origin, seen.timeout, seen.get_status()) == ("file_processing", 77, "queued")
    assert (seen.result_ttl, seen.failure_ttl) == (600, 600)
    assert seen.enqueued_at is not None


def test_a_job_without_a_time_limit_has_none_in_rq(engine, job_factory, valkey):
    job = job_factory(timeout_seconds=None)

    engine.push(deliveries(job))

    assert valkey.hget(f"rq:job:{job.pk.hex}-1-0", "timeout") == b"-1"


def test_rq_knows_the_queue_after_a_push(engine, job_factory, valkey):
    engine.push(deliveries(job_factory(queue="kg_extraction")))

    assert valkey.smembers("rq:queues") == {b"rq:queue:kg_extraction"}


def test_a_delivery_that_ran_is_not_pushed_again(engine, job_factory, valkey, queued_ids):
    job = job_factory()
    engine.push(deliveries(job))
    valkey.lpop("rq:queue:file_processing")

    engine.push(deliveries(job))

    assert queued_ids("file_processing") == []


def test_one_push_hands_over_many_in_their_order(engine, job_factory, queued_ids):
    jobs = [job_factory() for _ in range(3)]

    engine.push(deliveries(*jobs))

    assert queued_ids("file_processing") == [f"{job.pk.hex}-1-0" for job in jobs]


def test_the_epoch_stays_and_is_another_after_a_flush(engine, job_factory, valkey):
    first = engine.epoch("file_processing")
    assert engine.push(deliveries(job_factory())) == engine.epoch("vectorization") == first

    valkey.flushall()

    assert engine.epoch("file_processing") != first


def test_the_epoch_of_a_restored_snapshot_is_another(engine, valkey):
    """A snapshot brings the key back, but not the run id of the server that wrote it."""
    first = engine.epoch("file_processing")
    run_id, _, rest = first.partition(":")
    restored = f"{'0' * len(run_id)}:{rest}"
    valkey.set("rq:django_jobs:epoch", restored)

    assert engine.epoch("file_processing") not in {first, restored}


def test_absent_is_what_is_not_in_the_queue(engine, job_factory, valkey):
    waiting, taken, hash_only = job_factory(), job_factory(), job_factory()
    asked = deliveries(waiting, taken, hash_only)
    engine.push(asked)
    valkey.lrem("rq:queue:file_processing", 1, asked[1].id)
    valkey.delete(f"rq:job:{asked[1].id}")
    valkey.lrem("rq:queue:file_processing", 1, asked[2].id)

    assert list(engine.absent("file_processing", asked)) == asked[1:]


def test_withdrawn_is_gone_from_queue_and_hash(engine, job_factory, valkey, queued_ids):
    job, other = job_factory(), job_factory()
    engine.push(deliveries(job, other))

    engine.withdraw(Delivery.of(job))
    engine.withdraw(Delivery.of(job))

    assert queued_ids("file_processing") == [f"{other.pk.hex}-1-0"]
    assert not valkey.exists(f"rq:job:{job.pk.hex}-1-0")


def test_looking_leaves_rqs_registries_alone(engine, job_factory, valkey):
    """Reading a registry of RQ with clean-up moves jobs; no call of ours does that."""
    registry = FailedJobRegistry("file_processing", connection=valkey)
    valkey.zadd(registry.key, {"long-expired": 1})
    job = job_factory()

    engine.push(deliveries(job))
    engine.absent("file_processing", deliveries(job))
    engine.epoch("file_processing")

    assert valkey.zrange(registry.key, 0, -1) == [b"long-expired"]


CALLS = {
    "push": lambda engine, delivery: engine.push([delivery]),
    "epoch": lambda engine, delivery: engine.epoch("file_processing"),
    "absent": lambda engine, delivery: engine.absent("file_processing", [delivery]),
    "withdraw": lambda engine, delivery: engine.withdraw(delivery),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_server_that_is_away_is_named_without_its_password(call, engine, job_factory, settings):
    settings.RQ_QUEUES = {"file_processing": {"URL": "redis://ada:secret@127.0.0.1:1/3"}}

    with pytest.raises(EngineUnavailable, match=r"^Redis at redis://ada:\*\*\*@127\.0\.0\.1:1/3: "):
        CALLS[call](engine, Delivery.of(job_factory()))


@pytest.mark.parametrize(
    ("call", "connected"), [*((call, True) for call in CALLS), ("push", False)], ids=[*CALLS, "to connect"]
)
def test_a_server_that_hangs_costs_a_second_and_no_more(call, connected, engine, job_factory, freeze):
    delivery = Delivery.of(job_factory())
    engine.epoch("file_processing")
    if not connected:
        impatient_client("file_processing").connection_pool.disconnect()

    freeze()
    with Stopwatch() as watch, pytest.raises(EngineUnavailable):
        CALLS[call](engine, delivery)

    assert watch.seconds < 1.7


def test_a_server_that_refuses_to_write_is_as_if_away(engine, job_factory, valkey):
    valkey.config_set("maxmemory", "1")
    try:
        with pytest.raises(EngineUnavailable, match="used memory > 'maxmemory'"):
            engine.push(deliveries(job_factory()))
    finally:
        valkey.config_set("maxmemory", "0")


def test_connections_are_shared_by_calls_and_queues(engine, valkey):
    for _ in range(3):
        engine.epoch("file_processing")

    assert impatient_client("file_processing") is impatient_client("vectorization")
    assert len(impatient_client("file_processing").connection_pool._available_connections) == 1


def test_a_connection_that_the_server_closed_is_replaced(engine, valkey):
    epoch = engine.epoch("file_processing")

    assert valkey.client_kill_filter(_type="normal", skipme=True) >= 1

    assert engine.epoch("file_processing") == epoch


def test_a_key_of_the_wrong_type_is_told_as_the_servers_error(engine, job_factory, valkey):
    valkey.set("rq:queue:file_processing", "not a list")

    with pytest.raises(EngineUnavailable, match="WRONGTYPE"):
        engine.push(deliveries(job_factory()))
