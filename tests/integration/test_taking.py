"""The prefork worker in RQ's queues: what it takes, and what RQ's own tools then see."""

import select
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from redis.exceptions import OutOfMemoryError
from rq import Queue as RQQueue
from rq import Worker as RQWorker
from rq.executions import Execution, ExecutionRegistry
from rq.job import Job as RQJob
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend

from django_jobs.engines import get_engine
from django_jobs.engines.base import Delivery
from django_jobs.engines.rq import scripts, taking
from django_jobs.engines.rq.horses import asked_of
from django_jobs.engines.rq.taking import Arrivals, End, Taken, Taking
from django_jobs.models import Job
from tests import tasks

pytestmark = pytest.mark.django_db

QUEUES = ["file_processing", "vectorization", "kg_extraction"]


@pytest.fixture
def queues(valkey):
    return [RQQueue(name, connection=valkey) for name in QUEUES]


@pytest.fixture
def rq_worker(valkey, queues):
    """As RQ registers ours."""
    worker = RQWorker(queues, connection=valkey, name="w1")
    worker.register_birth()
    return worker


@pytest.fixture
def hand(valkey, queues, rq_worker):
    return Taking(valkey, queues, "w1", rq_worker.key)


@pytest.fixture
def push(job_factory, valkey):
    """Deliver that many new jobs; their ids in RQ."""

    def deliver(count=1, queue="file_processing"):
        deliveries = [Delivery.of(job_factory(queue=queue)) for _ in range(count)]
        get_engine("rq").push(deliveries)
        return [delivery.id for delivery in deliveries]

    return deliver


def exchange(hand, ends=(), **values):
    told = {"room": 100, "slots": 0, "execution": "e1", "quotas": [0] * len(QUEUES), "is_busy": False}
    hand.ask(ends, **{**told, "worked_seconds": 0.0, **values})
    return hand.answer()


def ids(taken):
    return [each.id for each in taken]


def fetch(valkey, job_id):
    return RQJob.fetch(job_id, connection=valkey, serializer=JSONSerializer)


def running(valkey, queue="file_processing"):
    return StartedJobRegistry(queue, connection=valkey).get_job_ids(cleanup=False)


def keys(valkey):
    return {key.decode() for key in valkey.scan_iter()}


# What is taken


def test_what_stands_first_is_taken_in_its_order_up_to_the_room(hand, push, queued_ids):
    pushed = push(5)

    assert exchange(hand, room=3) == [Taken("file_processing", each, "e1") for each in pushed[:3]]
    assert queued_ids("file_processing") == pushed[3:]
    assert ids(exchange(hand, room=3)) == pushed[3:]
    assert exchange(hand, room=3) == []


def test_queues_are_served_strictly_in_their_order(hand, push):
    last, first = push(3, "kg_extraction"), push(3, "file_processing")

    assert ids(exchange(hand, room=4)) == [*first, last[0]]


def test_each_queue_gives_its_quota_and_what_is_left_is_taken_in_order(hand, push):
    pushed = {name: push(4, name) for name in QUEUES}

    taken = exchange(hand, room=6, quotas=[2, 1, 2])

    by_queue = {name: [each.id for each in taken if each.queue == name] for name in QUEUES}
    assert by_queue == {
        "file_processing": pushed["file_processing"][:3],
        "vectorization": pushed["vectorization"][:1],
        "kg_extraction": pushed["kg_extraction"][:2],
    }


def test_queues_may_be_served_in_another_order_for_once(hand, push, queues):
    files, vectors, graphs = (push(2, name) for name in QUEUES)

    taken = exchange(hand, room=4, quotas=[1, 1, 1], order=queues[1:] + queues[:1])

    assert ids(taken) == [vectors[0], graphs[0], files[0], vectors[1]]
    assert [each.queue for each in taken] == [*QUEUES[1:], QUEUES[0], QUEUES[1]]


def test_what_a_queue_has_not_the_others_give(hand, push):
    pushed = push(5, "kg_extraction")

    assert ids(exchange(hand, room=4, quotas=[2, 1, 1])) == pushed[:4]


def test_paused_queues_are_passed_over_and_the_quotas_stay_with_their_queues(hand, push, queued_ids):
    push(3, "file_processing"), push(3, "vectorization"), push(3, "kg_extraction")

    taken = exchange(hand, room=3, quotas=[3, 1, 2], paused={"file_processing"})

    assert [each.queue for each in taken] == ["vectorization", "kg_extraction", "kg_extraction"]
    assert len(queued_ids("file_processing")) == 3
    assert exchange(hand, paused=set(QUEUES)) == []


def test_without_room_nothing_is_taken_and_ends_are_told(hand, push, valkey, queued_ids):
    pushed = push(2)
    (taken,) = exchange(hand, room=1)

    assert exchange(hand, [End(taken, taking.FINISHED)], room=0) == []

    assert fetch(valkey, taken.id).get_status() == "finished"
    assert queued_ids("file_processing") == pushed[1:]


def test_who_is_suspended_takes_nothing_and_tells_its_ends_all_the_same(hand, push, valkey, queued_ids):
    pushed = push(2)
    (taken,) = exchange(hand, room=1)
    suspend(valkey)

    assert exchange(hand, [End(taken, taking.FINISHED)]) is None

    assert fetch(valkey, taken.id).get_status() == "finished"
    assert queued_ids("file_processing") == pushed[1:]
    resume(valkey)
    assert ids(exchange(hand)) == pushed[1:]


def test_plain_jobs_go_where_rq_puts_what_is_taken_and_deliveries_do_not(hand, push, queues, valkey):
    plain = queues[0].enqueue(tasks.record, "path", "line")
    (pushed,) = push()

    taken = exchange(hand, room=5, slots=5)

    assert ids(taken) == [plain.id, pushed]
    assert valkey.lrange(queues[0].intermediate_queue_key, 0, -1) == [plain.id.encode()]
    assert running(valkey) == [pushed]
    assert RQJob.fetch(plain.id, connection=valkey).get_status() == "queued"


@pytest.mark.parametrize(("room", "slots", "taken"), [(5, 0, 1), (0, 5, 0), (5, 1, 4), (1, 5, 2), (5, 5, 5)])
def test_a_queue_whose_first_job_finds_no_place_is_left(hand, push, queues, room, slots, taken):
    """Else what stands behind it would overtake it."""
    order = [*push(), queues[0].enqueue(tasks.record).id, *push(2), queues[0].enqueue(tasks.record).id]
    elsewhere = push(1, "vectorization")

    still_room = room > len([each for each in order[:taken] if each.endswith("-1-0")])
    expected = [*order[:taken], *(elsewhere if still_room else [])]
    assert ids(exchange(hand, room=room, slots=slots)) == expected


def test_two_workers_take_no_job_both(hand, push, valkey, queues):
    pushed = push(200)
    hands = [hand, Taking(valkey, queues, "w2", "rq:worker:w2")]
    taken = [[], []]

    def take(number):
        while got := exchange(hands[number], room=7, execution=f"e{number}"):
            taken[number] += ids(got)

    threads = [threading.Thread(target=take, args=[number]) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sorted(taken[0] + taken[1]) == sorted(pushed)


@pytest.mark.parametrize("ends", [True, False])
def test_a_server_that_forgot_the_scripts_is_told_them(hand, push, valkey, ends):
    push(3)
    (taken,) = exchange(hand, room=1)
    valkey.script_flush()

    again = exchange(hand, [End(taken, taking.FINISHED)] if ends else [], room=1)

    assert len(again) == 1
    assert fetch(valkey, taken.id).get_status() == ("finished" if ends else "started")
    assert int(valkey.hget("rq:worker:w1", "successful_job_count") or 0) == ends
    valkey.script_flush()
    assert len(exchange(hand)) == 1


# What RQ's tools see


def test_rq_sees_what_runs_as_if_its_own_worker_ran_it(hand, push, valkey):
    (pushed,) = push()
    before = datetime.now(UTC)

    exchange(hand)

    job = fetch(valkey, pushed)
    assert (job.get_status(), job.worker_name, job.is_started) == ("started", "w1", True)
    assert before - timedelta(seconds=1) <= job.started_at <= datetime.now(UTC)
    assert job.last_heartbeat == job.started_at
    assert running(valkey) == [pushed]
    (execution,) = job.get_executions()
    assert (execution.id, execution.job_id) == ("e1", pushed)
    assert abs(execution.created_at - before) < timedelta(seconds=5)
    assert Execution.fetch("e1", pushed, valkey).composite_key == f"{pushed}:e1"
    assert ExecutionRegistry(pushed, connection=valkey).get_execution_ids() == ["e1"]
    (worker,) = RQWorker.all(connection=valkey)
    assert (worker.name, worker.get_state()) == ("w1", "busy")
    assert valkey.smembers("rq:worker:w1:executions") == {f"{pushed}:e1".encode()}
    assert StartedJobRegistry("file_processing", connection=valkey).get_job_ids() == [pushed]  # Cleaned.


@pytest.mark.parametrize(
    ("status", "seen", "registry", "result", "counts"),
    [
        (taking.FINISHED, "finished", FinishedJobRegistry, Result.Type.SUCCESSFUL, (1, 0)),
        (taking.FAILED, "failed", FailedJobRegistry, Result.Type.FAILED, (0, 1)),
        (taking.STOPPED, "stopped", FailedJobRegistry, Result.Type.STOPPED, (0, 1)),
    ],
)
def test_rq_sees_what_has_run_as_if_its_own_worker_had_run_it(
    hand, push, valkey, rq_worker, status, seen, registry, result, counts
):
    (pushed,) = push()
    (taken,) = exchange(hand)
    reason = "" if status == taking.FINISHED else "Its error is told in the database. ü"

    exchange(hand, [End(taken, status, reason)], worked_seconds=1.25)

    job = fetch(valkey, pushed)
    assert (job.get_status(), job.worker_name) == (seen, "w1")
    assert abs(job.ended_at - datetime.now(UTC)) < timedelta(seconds=5)
    assert running(valkey) == []
    assert registry("file_processing", connection=valkey).get_job_ids() == [pushed]
    (told,) = Result.all(job, serializer=JSONSerializer)
    assert (told.type, told.exc_string or "", told.worker_name) == (result, reason, "w1")
    assert job.get_executions() == []
    assert not [key for key in keys(valkey) if key.startswith("rq:execution")]
    assert valkey.smembers("rq:worker:w1:executions") == set()
    rq_worker.refresh()
    assert (rq_worker.successful_job_count, rq_worker.failed_job_count) == counts
    assert (rq_worker.total_working_time, rq_worker.get_state()) == (1.25, "idle")
    assert all(0 < valkey.ttl(key) <= 600 for key in keys(valkey) if pushed in key)


def test_a_worker_that_has_more_stays_busy(hand, push, rq_worker):
    push(2)
    first, _ = exchange(hand)

    exchange(hand, [End(first, taking.FINISHED)], is_busy=True, room=0)

    rq_worker.refresh()
    assert rq_worker.get_state() == "busy"


def test_nothing_is_left_of_what_has_not_run(hand, push, valkey, rq_worker):
    push()
    known = keys(valkey)
    (taken,) = exchange(hand)

    exchange(hand, [End(taken, taking.DROPPED)])

    assert keys(valkey) <= {*known, "rq:worker:w1"} - {f"rq:job:{taken.id}"}
    assert (rq_worker.successful_job_count, rq_worker.failed_job_count) == (0, 0)


def test_a_delivery_that_was_removed_while_it_ran_does_not_come_back(hand, push, valkey):
    (pushed,) = push()
    (taken,) = exchange(hand)
    fetch(valkey, pushed).delete()

    exchange(hand, [End(taken, taking.FINISHED)])

    assert not [key for key in keys(valkey) if pushed in key]
    assert FinishedJobRegistry("file_processing", connection=valkey).get_job_ids() == []


def test_no_entry_of_a_worker_comes_about_by_ends(hand, push, valkey):
    """As after a flush: its next sign of life registers it anew, in full."""
    push()
    (taken,) = exchange(hand)
    valkey.delete("rq:worker:w1")

    exchange(hand, [End(taken, taking.FINISHED)], room=0)

    assert "rq:worker:w1" not in keys(valkey)


def test_more_than_one_command_takes_are_taken_and_have_ended_all_the_same(
    hand, push, queues, valkey, monkeypatch
):
    monkeypatch.setattr(taking, "MOST_FINISHED_KEPT", 10)
    first = push(2 * scripts.MOST_AT_ONCE + 1)
    plain = queues[0].enqueue(tasks.record, "path", "line").id
    pushed = [*first, plain, *push(3)]

    taken = exchange(hand, room=len(pushed), slots=1)

    assert ids(taken) == pushed
    deliveries = [each for each in taken if each.id != plain]
    assert set(running(valkey)) == {each.id for each in deliveries}
    exchange(hand, [End(each, taking.FINISHED) for each in deliveries], room=0)
    assert not running(valkey)
    assert not list(valkey.scan_iter("rq:execution*"))
    assert set(FinishedJobRegistry("file_processing", connection=valkey).get_job_ids()) < set(pushed)
    assert len(list(valkey.scan_iter("rq:results:*"))) == 10


@pytest.mark.parametrize("status", [taking.FINISHED, taking.FAILED])
def test_what_is_kept_of_what_has_run_is_bounded(hand, push, valkey, monkeypatch, status):
    monkeypatch.setattr(taking, f"MOST_{status.upper()}_KEPT", 10)
    pushed = push(60)
    for _ in range(6):
        exchange(hand, [End(each, status) for each in exchange(hand, room=10)], room=0)

    registry = FinishedJobRegistry if status == taking.FINISHED else FailedJobRegistry
    kept = registry("file_processing", connection=valkey).get_job_ids()
    assert set(kept) <= set(pushed)
    assert len(kept) <= 10
    assert len(list(valkey.scan_iter("rq:job:*"))) == len(kept)
    assert len(list(valkey.scan_iter("rq:results:*"))) == len(kept)


def test_what_is_kept_is_bounded_though_plain_jobs_stand_before_it_and_these_stay(
    hand, push, valkey, monkeypatch
):
    monkeypatch.setattr(taking, "MOST_FINISHED_KEPT", 10)
    soon = {f"plain-{number}": time.time() + 5 for number in range(6)}
    valkey.zadd("rq:finished:file_processing", soon)
    push(40)

    for _ in range(4):
        exchange(hand, [End(each, taking.FINISHED) for each in exchange(hand, room=10)], room=0)

    kept = FinishedJobRegistry("file_processing", connection=valkey).get_job_ids()
    assert set(soon) <= set(kept)
    assert len(kept) <= 10 + len(soon)


def test_rq_takes_what_runs_for_running_as_long_as_that_is_said(hand, push, valkey):
    (pushed,) = push()
    taken = exchange(hand)
    soon = time.time() + 10
    valkey.zadd("rq:wip:file_processing", {f"{pushed}:e1": soon})
    valkey.expire(f"rq:execution:{pushed}:e1", 10)
    valkey.expire(f"rq:executions:{pushed}", 10)

    hand.say_they_run(taken)

    assert valkey.zscore("rq:wip:file_processing", f"{pushed}:e1") > soon + 60
    assert valkey.ttl(f"rq:execution:{pushed}:e1") > 60
    assert valkey.ttl(f"rq:executions:{pushed}") > 60
    (execution,) = fetch(valkey, pushed).get_executions()
    assert abs(execution.last_heartbeat - datetime.now(UTC)) < timedelta(seconds=5)


def test_what_has_ended_meanwhile_does_not_begin_to_run_again(hand, push, valkey):
    push()
    (taken,) = exchange(hand)
    exchange(hand, [End(taken, taking.FINISHED)])

    hand.say_they_run([taken])

    assert running(valkey) == []


def test_what_was_taken_and_not_claimed_stands_in_its_place_again(hand, push, valkey, queued_ids, rq_worker):
    pushed, others = push(3), push(2, "vectorization")
    known = keys(valkey)
    taken = exchange(hand, room=4)

    hand.put_back(taken)

    assert queued_ids("file_processing") == pushed
    assert queued_ids("vectorization") == others
    assert keys(valkey) - known <= {"rq:worker:w1"}
    assert running(valkey) == running(valkey, "vectorization") == []
    assert fetch(valkey, pushed[0]).get_status() == "queued"
    assert ids(exchange(hand)) == [*pushed, *others]


# A full server


@pytest.fixture
def full(valkey):
    """Have the server take nothing more until the test ends."""
    before = valkey.config_get("maxmemory")["maxmemory"]
    yield lambda: valkey.config_set("maxmemory", 1)
    valkey.config_set("maxmemory", before)


def test_a_full_server_is_told_apart_and_still_gives_deliveries(hand, push, queues, full, queued_ids):
    plain = queues[0].enqueue(tasks.record)
    pushed, others = push(3), push(2, "vectorization")
    exchange(hand, room=0, slots=0)
    full()

    with pytest.raises(taking.RedisError) as raised:
        exchange(hand, slots=1)  # A plain job, for whose record there is no room.
    assert taking.is_full(raised.value)
    assert taking.is_full(OutOfMemoryError("used memory"))
    assert not taking.is_full(ConnectionError("no"))

    taken = hand.take_from_full_server(4, 100)

    assert ids(taken) == [*pushed, others[0]]
    assert queued_ids("file_processing") == [plain.id]
    assert queued_ids("vectorization") == others[1:]


def test_no_more_of_a_full_server_is_looked_through_than_said(hand, push, queues):
    for _ in range(3):
        queues[0].enqueue(tasks.record)
    pushed = push(2)

    assert hand.take_from_full_server(10, 3) == []
    assert ids(hand.take_from_full_server(10, 4)) == pushed[:1]


def test_a_full_server_is_relieved_of_what_has_ended(hand, push, valkey, full):
    pushed = push(3)
    taken = exchange(hand)
    full()

    hand.forget([End(each, taking.FINISHED) for each in taken[:2]])

    assert not [key for key in keys(valkey) if pushed[0] in key or pushed[1] in key]
    assert running(valkey) == pushed[2:]
    assert valkey.smembers("rq:worker:w1:executions") == {f"{pushed[2]}:e1".encode()}


# Arrivals


@pytest.fixture
def arrivals(valkey, queues):
    made = Arrivals(valkey, queues)
    yield made
    made.forget()


def heard_within(arrivals, seconds):
    readable, _, _ = select.select(list(arrivals.sockets()), [], [], seconds)
    return arrivals.heard(readable)


@pytest.mark.parametrize("queue", QUEUES)
def test_what_arrives_in_any_queue_wakes_within_milliseconds_and_stays(arrivals, push, queued_ids, queue):
    waits = []
    for _ in range(10):
        arrivals.ask(())
        assert not heard_within(arrivals, 0)
        (pushed,) = push(1, queue)
        began = time.monotonic()
        assert heard_within(arrivals, 5)
        waits.append(time.monotonic() - began)
        assert queued_ids(queue) == [pushed]
        get_engine("rq").withdraw(Delivery(*_parts(pushed, queue)))

    assert sorted(waits)[5] < 0.01


def _parts(delivery_id, queue):

    return Job.objects.filter(pk=delivery_id[:32]).values_list(*Delivery.COLUMNS).get()


def test_what_stands_there_already_is_heard_of_at_once_in_its_order(arrivals, push, queued_ids):
    pushed = push(3)

    arrivals.ask(())

    assert heard_within(arrivals, 5)
    assert queued_ids("file_processing") == pushed


def test_who_has_asked_asks_not_twice(arrivals, valkey):
    arrivals.ask(())
    arrivals.ask(())

    assert wait_for_blocked(valkey) == len(QUEUES)


def wait_for_blocked(valkey):
    deadline = time.monotonic() + 5
    while (count := valkey.info("clients")["blocked_clients"]) < len(QUEUES) and time.monotonic() < deadline:
        time.sleep(0.01)
    return count


def test_of_paused_queues_nothing_is_heard(arrivals, push):
    arrivals.ask({"file_processing"})
    push(1, "file_processing")

    assert len(list(arrivals.sockets())) == 2
    assert not heard_within(arrivals, 0.05)
    arrivals.ask(())
    assert heard_within(arrivals, 5)


def test_an_answer_that_nothing_has_come_is_no_arrival(arrivals, monkeypatch, push):
    monkeypatch.setattr(Arrivals, "ASK_AGAIN_SECONDS", 0.01)
    arrivals.ask(())

    assert not heard_within(arrivals, 5)

    while list(arrivals.sockets()):
        heard_within(arrivals, 5)
    arrivals.ask(())
    push()
    assert heard_within(arrivals, 5)


def test_who_forgets_begins_anew(arrivals, push, valkey):
    arrivals.ask(())
    arrivals.forget()
    assert list(arrivals.sockets()) == []

    arrivals.ask(())
    push()

    assert heard_within(arrivals, 5)


def test_a_server_that_ends_the_connection_is_an_error_and_forgetting_helps(arrivals, push, valkey):
    arrivals.ask(())
    wait_for_blocked(valkey)
    valkey.client_kill_filter(_type="normal", skipme=True)

    with pytest.raises((taking.RedisError, OSError)):
        heard_within(arrivals, 5)

    arrivals.forget()
    arrivals.ask(())
    push()
    assert heard_within(arrivals, 5)


@pytest.mark.parametrize(
    ("data", "asks"),
    [
        (b'{"command": "kill-horse"}', True),
        (b'{"command": "shutdown"}', False),
        (b"{", False),
        (b"[]", False),
        (b"5", False),
        (None, False),
    ],
)
def test_rqs_command_to_kill_is_told_from_all_else(data, asks):
    assert bool(asked_of({"data": data}, "kill-horse")) is asks
