"""The reconciler: what a dead worker held is ended, what a queue lost is delivered anew; no more."""

import os
import socket
import subprocess
import sys
import time
from datetime import timedelta

import pytest
import redis
from django.db import connection
from django.utils import timezone
from rq import Queue as RQQueue

from django_jobs import reconciler, relay
from django_jobs.conf import settings as jobs_settings
from django_jobs.engines import get_engine
from django_jobs.engines.base import Delivery
from django_jobs.engines.rq.taking import Taking
from django_jobs.models import Job, Queue, Worker
from django_jobs.processes import identity
from django_jobs.reconciler import Reconciler
from django_jobs.states import FAILED, FINISHED, QUEUED, SCHEDULED, STARTED
from tests.conftest import claim, fresh, make_worker, remember_witnesses, wait_until
from tests.threads import holding_locks, locked

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey", "_in_use_for_long")]


def ago(**duration):
    return timezone.now() - timedelta(**duration)


def in_contact_since(**duration):
    """A reconciler that has seen the database answer for so long."""
    healer = Reconciler()
    healer._contact_since = time.monotonic() - timedelta(**duration).total_seconds()
    return healer


def silent_worker(**values):
    return make_worker(leased_until=ago(seconds=1), seen_at=ago(seconds=16), **values)


@pytest.fixture
def _in_use_for_long(valkey):
    remember_witnesses(valkey)


def on_databases(server, declared):
    """Queues on databases of one server, which count as servers, long in use."""
    queues = {queue: {"URL": f"{server.url}?db={number}"} for queue, number in declared.items()}
    for queue in queues.values():
        remember_witnesses(redis.Redis.from_url(queue["URL"]))
    return queues


@pytest.fixture
def settled(job_factory):
    """Jobs delivered so long ago that their deliveries are no longer on their way."""

    def make(**values):
        job = job_factory(**values)
        relay.run_once()
        Job.objects.filter(pk=job.pk).update(delivered_at=ago(seconds=30))
        return fresh(job)

    return make


def test_an_attempt_whose_workers_lease_is_over_is_ended_with_the_evidence(job_factory):
    worker = silent_worker(name="w7")
    job = job_factory(status=STARTED, worker=worker)

    assert in_contact_since(seconds=16).run_once() == 1

    assert fresh(job).is_interrupted
    event = job.events.get()
    assert event.kind == "worker_lost"
    assert event.message == (
        f"Worker w7 last answered at {worker.seen_at:%Y-%m-%d %H:%M:%S} UTC. "
        "Attempt 1 was cut; nobody knows how far it got."
    )


def test_what_an_attempt_has_logged_outlives_its_worker(job_factory):
    job = job_factory(status=STARTED, worker=silent_worker(), live_log="page 1 is read")

    in_contact_since(seconds=16).run_once()

    assert (job.attempts.get().log, fresh(job).live_log) == ("page 1 is read", "")


def test_nothing_is_ended_before_a_lease_of_contact_with_the_database(job_factory):
    job = job_factory(status=STARTED, worker=silent_worker())

    in_contact_since(seconds=14).run_once()

    assert fresh(job).status == STARTED


def test_contact_counts_from_the_first_pass(job_factory, settings):
    settings.DJANGO_JOBS = {"LEASE_SECONDS": 1}
    job, healer = job_factory(status=STARTED, worker=silent_worker()), Reconciler()

    assert healer.run_once() == 0
    wait_until(lambda: healer.run_once() == 1)

    assert fresh(job).status == FAILED


def test_contact_lost_starts_the_count_anew(job_factory):
    job, healer = job_factory(status=STARTED, worker=silent_worker()), in_contact_since(seconds=60)

    healer.note_contact(lost=True)
    healer.run_once()

    assert fresh(job).status == STARTED


def test_contact_told_again_goes_on_counting(job_factory):
    job, healer = job_factory(status=STARTED, worker=silent_worker()), in_contact_since(seconds=16)

    healer.note_contact()
    healer.run_once()

    assert fresh(job).status == FAILED


def test_an_attempt_of_a_live_worker_is_left_alone(job_factory):
    job = job_factory(status=STARTED, started_at=ago(days=3))

    assert in_contact_since(days=1).run_once() == 0

    assert (fresh(job).status, job.events.count()) == (STARTED, 0)


def test_an_attempt_whose_worker_has_no_row_is_ended(job_factory):
    worker = make_worker()
    job = job_factory(status=STARTED, worker=worker)
    Worker.objects.all().delete()

    in_contact_since(seconds=16).run_once()

    assert fresh(job).is_interrupted
    assert job.events.get().message.startswith(f"Worker {worker.pk} is gone.")


def test_an_attempt_without_a_worker_is_ended(job_factory):
    job = job_factory(status=STARTED, worker=None)

    in_contact_since(seconds=16).run_once()

    assert fresh(job).is_interrupted


@pytest.mark.parametrize("status", [QUEUED, SCHEDULED, FINISHED])
def test_a_job_that_is_not_started_is_left_alone(job_factory, status):
    job = job_factory(status=status, worker=silent_worker())

    in_contact_since(days=1).run_once()

    assert (fresh(job).status, job.events.count()) == (status, 0)


def test_a_retry_and_a_rerun_are_due_after_the_rescue(job_factory):
    worker = silent_worker()
    retried = job_factory(status=STARTED, worker=worker, max_attempts=2, retry_intervals=[60])
    rerun = job_factory(status=STARTED, worker=worker, idempotent=True)

    assert in_contact_since(seconds=16).run_once() == 2

    assert (fresh(retried).status, fresh(rerun).status) == (SCHEDULED, QUEUED)


def test_the_rescued_job_of_a_dead_worker_is_not_rescued_again(job_factory):
    job_factory(status=STARTED, worker=silent_worker(), idempotent=True)
    healer = in_contact_since(seconds=16)

    assert [healer.run_once(), healer.run_once()] == [1, 0]


def test_a_worker_of_this_machine_that_runs_is_dead_only_where_the_database_never_locks(job_factory):
    here = silent_worker(hostname=socket.gethostname(), pid=os.getpid(), process=identity(os.getpid()))
    job = job_factory(status=STARTED, worker=here)

    in_contact_since(seconds=16).run_once()

    assert fresh(job).status == (STARTED if connection.vendor == "sqlite" else FAILED)


def test_a_worker_of_this_machine_whose_process_ended_is_dead(job_factory):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    told = identity(process.pid)
    process.communicate()
    gone = silent_worker(hostname=socket.gethostname(), pid=process.pid, process=told)
    job = job_factory(status=STARTED, worker=gone)

    in_contact_since(seconds=16).run_once()

    assert fresh(job).is_interrupted


def test_a_worker_whose_pid_now_belongs_to_another_process_is_dead(job_factory):
    reused = silent_worker(hostname=socket.gethostname(), pid=os.getpid(), process="1")
    job = job_factory(status=STARTED, worker=reused)

    in_contact_since(seconds=16).run_once()

    assert fresh(job).is_interrupted


def test_rows_of_workers_long_silent_are_deleted_and_those_of_others_kept():
    make_worker(name="gone", leased_until=ago(days=2))
    make_worker(name="silent", leased_until=ago(hours=2))
    make_worker(name="alive")

    in_contact_since(seconds=16).run_once()

    assert sorted(Worker.objects.values_list("name", flat=True)) == ["alive", "silent"]


def test_a_delivery_gone_from_its_queue_is_made_anew_after_two_passes(settled, valkey, queued_ids):
    job, healer = settled(), Reconciler()
    valkey.delete("rq:queue:file_processing")

    assert healer.run_once() == 0
    assert fresh(job).delivery == 0

    assert healer.run_once() == 1
    row = fresh(job)
    assert (row.status, row.attempt, row.delivery, row.delivered_epoch) == (QUEUED, 1, 1, "")
    assert [(event.kind, event.attempt) for event in job.events.all()] == [("redelivered", 1)]
    relay.run_once()
    assert queued_ids("file_processing") == [f"{job.pk.hex}-1-1"]


def test_deliveries_that_vanish_again_and_again_are_made_anew_and_told_three_times(
    settled, valkey, queued_ids
):
    job, healer = settled(), Reconciler()

    for _ in range(5):
        valkey.delete("rq:queue:file_processing")
        healer.run_once()
        assert healer.run_once() == 1
        relay.run_once()
        Job.objects.update(delivered_at=ago(seconds=30))

    assert queued_ids("file_processing") == [f"{job.pk.hex}-1-5"]
    told = list(job.events.order_by("id").values_list("message", flat=True))
    assert ["does a worker that is not of this project" in each for each in told] == [False, False, True]


def test_what_the_server_keeps_of_a_delivery_that_is_gone_expires(settled, valkey):
    job, healer = settled(), Reconciler()
    valkey.delete("rq:queue:file_processing")

    for _ in range(2):
        healer.run_once()

    assert 0 < valkey.ttl(f"rq:job:{Delivery.of(job).id}") <= 600


def test_a_delivery_missing_once_and_back_is_left_alone(settled, valkey):
    job, healer = settled(), Reconciler()
    valkey.delete("rq:queue:file_processing")
    healer.run_once()

    valkey.rpush("rq:queue:file_processing", f"{job.pk.hex}-1-0")
    assert [healer.run_once(), healer.run_once()] == [0, 0]

    valkey.delete("rq:queue:file_processing")
    assert healer.run_once() == 0
    assert fresh(job).delivery == 0


def test_a_delivery_on_its_way_to_its_claim_is_left_alone(job_factory, valkey):
    job, healer = job_factory(), Reconciler()
    relay.run_once()
    valkey.delete("rq:queue:file_processing")

    assert [healer.run_once(), healer.run_once(), healer.run_once()] == [0, 0, 0]
    assert fresh(job).delivery == 0


def test_a_delivery_that_waits_in_its_queue_is_left_alone(settled):
    job, healer = settled(), Reconciler()

    assert [healer.run_once(), healer.run_once(), healer.run_once()] == [0, 0, 0]
    assert (fresh(job).delivery, job.events.count()) == (0, 0)


def test_only_what_is_gone_of_many_is_delivered_anew(settled, valkey):
    jobs, healer = [settled() for _ in range(5)], Reconciler()
    valkey.lrem("rq:queue:file_processing", 1, f"{jobs[3].pk.hex}-1-0")

    healer.run_once()

    assert healer.run_once() == 1
    assert [fresh(job).delivery for job in jobs] == [0, 0, 0, 1, 0]


def test_how_many_are_delivered_anew_is_one_warning(settled, valkey, caplog):
    jobs, healer = [settled() for _ in range(5)], Reconciler()
    valkey.delete("rq:queue:file_processing")

    assert [healer.run_once(), healer.run_once()] == [0, len(jobs)]

    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["Deliveries gone from queue file_processing and made anew: 5."]


@pytest.mark.parametrize("how", ["noted as running", "just taken"])
def test_what_was_taken_and_forgotten_is_not_hidden_by_older_rows_behind_it(
    settled, valkey, monkeypatch, how
):
    """As those of retries and of jobs that were scheduled are."""
    monkeypatch.setattr(reconciler, "BATCH", 2)
    older, lost, healer = [settled(), settled()], settled(), Reconciler()
    queue = RQQueue("file_processing", connection=valkey)
    valkey.delete(queue.key)
    valkey.rpush(queue.key, Delivery.of(lost).id, *(f"plain-{number}" for number in range(9)))
    valkey.rpush(queue.key, *(Delivery.of(job).id for job in older))
    if how == "just taken":
        valkey.lmove(queue.key, queue.intermediate_queue_key)
    else:
        hand = Taking(valkey, [queue], "w1", "rq:worker:w1")
        hand.ask([], room=1, slots=0, execution="e", quotas=[0], is_busy=False, worked_seconds=0)
        assert hand.answer()

    assert [healer.run_once(), healer.run_once()] == [0, 1]

    assert [fresh(job).delivery for job in (*older, lost)] == [0, 0, 1]


def test_a_job_claimed_between_two_passes_is_left_alone(settled, valkey):
    job, healer = settled(), Reconciler()
    valkey.lpop("rq:queue:file_processing")
    healer.run_once()

    claim(job)

    assert healer.run_once() == 0
    assert (fresh(job).status, fresh(job).delivery) == (STARTED, 0)


def test_a_job_claimed_during_a_pass_is_left_alone(settled):
    job = settled()
    delivery = Delivery.of(job)
    claim(job)

    assert reconciler._redeliver(get_engine("rq"), delivery) is False
    assert job.events.count() == 0


def test_a_delivery_behind_thousands_of_foreign_ones_is_found(settled, valkey):
    healer = Reconciler()
    for number in range(3000):
        valkey.rpush("rq:queue:file_processing", f"plain-{number}")
    job = settled()

    assert [healer.run_once(), healer.run_once()] == [0, 0]
    assert fresh(job).delivery == 0


def test_a_server_that_is_away_makes_nothing_absent(settled, settings, caplog):
    caplog.set_level("INFO")
    job, healer = settled(), Reconciler()
    settings.RQ_QUEUES = {"file_processing": {"URL": "redis://127.0.0.1:1/0"}}

    assert [healer.run_once(), healer.run_once()] == [0, 0]

    assert fresh(job).delivery == 0
    assert "Deliveries on file_processing not checked: Redis at redis://127.0.0.1:1/0" in caplog.text


def test_while_the_server_does_not_answer_attempts_of_silent_workers_are_ended_one_lease_later(
    job_factory, settings, valkey
):
    settings.DJANGO_JOBS = {"LEASE_SECONDS": 1}
    healer, job = in_contact_since(seconds=16), job_factory(status=STARTED, worker=silent_worker())
    here = settings.RQ_QUEUES

    settings.RQ_QUEUES = {"file_processing": {"URL": "redis://127.0.0.1:1/0"}}
    assert healer.end_lost_attempts() == 0
    wait_until(lambda: healer.end_lost_attempts() == 1)

    assert fresh(job).is_interrupted
    settings.RQ_QUEUES = here


def test_a_server_that_does_not_answer_once_costs_no_witnessed_worker_its_attempt(job_factory, settings):
    healer, worker = in_contact_since(seconds=16), make_worker(leased_until=ago(hours=1))
    job = job_factory(status=STARTED, worker=worker)
    get_engine("rq").witness("file_processing", worker.pk)
    here = settings.RQ_QUEUES

    assert healer.end_lost_attempts() == 0
    settings.RQ_QUEUES = {"file_processing": {"URL": "redis://127.0.0.1:1/0"}}
    assert healer.end_lost_attempts() == 0
    settings.RQ_QUEUES = here

    assert (healer.end_lost_attempts(), fresh(job).status) == (0, STARTED)


def test_an_attempt_whose_worker_is_cut_off_from_the_database_alone_is_left_alone(job_factory):
    cut_off, dead = silent_worker(), silent_worker(name="w2")
    running, cut = job_factory(status=STARTED, worker=cut_off), job_factory(status=STARTED, worker=dead)
    get_engine("rq").witness("file_processing", cut_off.pk)

    assert in_contact_since(seconds=16).run_once() == 1

    assert (fresh(running).status, fresh(cut).is_interrupted) == (STARTED, True)


@pytest.mark.parametrize("declared", [{"kg_extraction": 0}, {"mail": 1, "kg_extraction": 0}])
def test_a_worker_of_an_undeclared_queue_is_asked_for_on_every_server(
    job_factory, settings, valkey_server, declared
):
    """A release that is older or newer declares it."""
    cut_off, dead = silent_worker(), silent_worker(name="w2")
    running, cut = (job_factory(status=STARTED, worker=worker) for worker in (cut_off, dead))
    get_engine("rq").witness("file_processing", cut_off.pk)
    settings.RQ_QUEUES = on_databases(valkey_server, declared)

    assert in_contact_since(seconds=16).run_once() == 1

    assert (fresh(running).status, fresh(cut).is_interrupted) == (STARTED, True)


def test_a_worker_of_a_job_that_was_moved_is_asked_for_on_the_server_of_its_own_queues(
    job_factory, settings, valkey_server
):
    settings.RQ_QUEUES = on_databases(valkey_server, {"file_processing": 0, "mail": 1})
    cut_off, dead = silent_worker(queues=["file_processing"]), silent_worker(name="w2")
    running, cut = (job_factory(status=STARTED, worker=worker, queue="mail") for worker in (cut_off, dead))
    get_engine("rq").witness("file_processing", cut_off.pk)

    assert in_contact_since(seconds=16).run_once() == 1

    assert (fresh(running).status, fresh(cut).is_interrupted) == (STARTED, True)


@pytest.mark.parametrize("values", [{"engine": "carrier"}, {}])
def test_a_worker_of_whom_no_server_is_known_is_spared_for_one_lease(job_factory, settings, values):
    settings.DJANGO_JOBS = {"LEASE_SECONDS": 1}
    here, settings.RQ_QUEUES = settings.RQ_QUEUES, {}
    healer, job = in_contact_since(seconds=16), job_factory(status=STARTED, worker=silent_worker(), **values)

    assert healer.end_lost_attempts() == 0
    wait_until(lambda: healer.end_lost_attempts() == 1)

    assert fresh(job).is_interrupted
    settings.RQ_QUEUES = here


def test_a_worker_whose_lease_ends_in_the_middle_of_a_pass_is_asked_for_before_its_attempt_is_ended(
    job_factory, monkeypatch
):
    cut_off, dead = make_worker(), silent_worker(name="w2")
    running, cut = job_factory(status=STARTED, worker=cut_off), job_factory(status=STARTED, worker=dead)
    get_engine("rq").witness("file_processing", cut_off.pk)
    witnessed = Reconciler._witnessed

    def ask_and_see_a_lease_end(healer, asked):
        found = witnessed(healer, asked)
        Worker.objects.filter(pk=cut_off.pk).update(leased_until=ago(seconds=1))
        return found

    monkeypatch.setattr(Reconciler, "_witnessed", ask_and_see_a_lease_end)

    healed = [in_contact_since(seconds=16).run_once() for _ in range(2)]

    assert (healed, fresh(running).status, fresh(cut).is_interrupted) == ([1, 0], STARTED, True)


def test_a_witnessed_worker_that_is_silent_for_days_keeps_its_row_and_its_attempt(job_factory):
    worker = make_worker(leased_until=ago(days=3))
    job = job_factory(status=STARTED, worker=worker)
    get_engine("rq").witness("file_processing", worker.pk)

    for _ in range(2):
        in_contact_since(seconds=16).run_once()

    assert (fresh(job).status, fresh(worker)) == (STARTED, worker)


def test_many_witnessed_attempts_hide_no_lost_one(job_factory, monkeypatch):
    monkeypatch.setattr(reconciler, "BATCH", 2)
    cut_off = silent_worker()
    for _ in range(3):
        job_factory(status=STARTED, worker=cut_off)
    lost = job_factory(status=STARTED, worker=silent_worker(name="w2"))
    get_engine("rq").witness("file_processing", cut_off.pk)

    assert in_contact_since(seconds=16).run_once() == 1

    assert fresh(lost).is_interrupted


def test_a_worker_that_is_back_in_the_middle_of_a_pass_keeps_its_attempts(job_factory, monkeypatch):
    worker = silent_worker()
    jobs = [job_factory(status=STARTED, worker=worker) for _ in range(2)]
    really_lose = reconciler.lose_unless_locked

    def lose_and_see_it_back(job, evidence, *, still):
        lost = really_lose(job, evidence, still=still)
        Worker.objects.filter(pk=worker.pk).update(leased_until=timezone.now() + timedelta(minutes=1))
        return lost

    monkeypatch.setattr(reconciler, "lose_unless_locked", lose_and_see_it_back)

    assert in_contact_since(seconds=16).run_once() == 1

    assert [fresh(job).status for job in jobs] == [FAILED, STARTED]


def test_what_a_reconciler_saw_before_others_took_over_does_not_count(job_factory, settings):
    healer, job = in_contact_since(days=1), job_factory(status=STARTED, worker=silent_worker())
    healer._unanswered_since = dict.fromkeys(get_engine("rq").servers(), 1.0)
    settings.RQ_QUEUES = {"file_processing": {"URL": "redis://127.0.0.1:1/0"}}
    healer._unanswered_since |= dict.fromkeys(get_engine("rq").servers(), 1.0)
    healer._passed_at = 0

    assert healer.run_once() == 0

    assert fresh(job).status == STARTED


def test_a_witness_remembers_for_one_lease(valkey, settings):
    settings.DJANGO_JOBS = {"LEASE_SECONDS": 1}
    engine, worker = get_engine("rq"), make_worker()

    engine.witness("file_processing", worker.pk)

    assert engine.witnessed("file_processing", [worker.pk]) == [worker.pk]
    wait_until(lambda: engine.witnessed("file_processing", [worker.pk]) == [])


def test_a_server_emptied_less_than_a_lease_ago_may_have_forgotten_any_worker(job_factory, valkey):
    job = job_factory(status=STARTED, worker=silent_worker())
    valkey.flushall()

    in_contact_since(seconds=16).run_once()
    assert fresh(job).status == STARTED
    remember_witnesses(valkey)
    in_contact_since(seconds=16).run_once()

    assert fresh(job).is_interrupted


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite locks no rows.")
@pytest.mark.django_db(transaction=True)
def test_an_attempt_whose_row_is_locked_holds_up_no_other(job_factory):
    locked, free = (job_factory(status=STARTED, worker=silent_worker(name=name)) for name in ("w1", "w2"))

    with holding_locks(lambda: Job.objects.select_for_update().get(pk=locked.pk)):
        assert in_contact_since(seconds=16).run_once() == 1

    assert (fresh(locked).status, fresh(free).status) == (STARTED, FAILED)


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite locks no rows.")
@pytest.mark.django_db(transaction=True)
def test_a_lost_delivery_whose_row_is_locked_holds_up_no_other(settled, valkey):
    (busy, free), healer = (settled(), settled()), Reconciler()
    valkey.delete("rq:queue:file_processing")

    with locked(Job.objects.filter(pk=busy.pk)):
        assert [healer.run_once(), healer.run_once()] == [0, 1]
        assert [fresh(job).delivery for job in (busy, free)] == [0, 1]

    assert [healer.run_once(), healer.run_once()].count(1) == 1
    assert fresh(busy).delivery == 1


def test_a_job_delivered_anew_and_its_old_delivery_together_run_once(settled, valkey):
    job, healer = settled(), Reconciler()
    valkey.delete("rq:queue:file_processing")
    healer.run_once()
    healer.run_once()
    get_engine("rq").push([Delivery.of(job)])
    relay.run_once()

    assert claim(job) is not None
    assert claim(job) is None


def test_a_lease_of_fifteen_seconds_is_the_default():
    assert jobs_settings.lease == timedelta(seconds=15)


def test_deliveries_of_a_paused_queue_are_not_lost_from_sight(settled, valkey, queued_ids):
    job, healer = settled(), Reconciler()
    queue = Queue.objects.create(name="file_processing", paused=True)
    valkey.lpop("rq:queue:file_processing")
    assert claim(job) is None
    [healer.run_once() for _ in range(3)]

    queue.delete()
    relay.run_once()

    assert queued_ids("file_processing") == [f"{job.pk.hex}-1-1"]


def test_rows_that_are_not_delivered_are_not_read(db):
    jobs = [Job(task="tests.tasks.add", queue="file_processing", status=QUEUED) for _ in range(10_000)]
    for start in range(0, len(jobs), 1000):
        Job.objects.bulk_create(jobs[start : start + 1000])
    Queue.objects.create(name="file_processing", paused=True)
    statements = []

    def note(execute, sql, params, many, context):
        if "delivered_at" in sql and sql.startswith("SELECT"):
            statements.append((sql, params))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note), connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("ANALYZE django_jobs_job")
        Reconciler().run_once()
        (sql, params), *_ = statements
        explain = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
        cursor.execute(f"{explain} {sql}", params)
        plan = [row[-1] for row in cursor.fetchall()]

    assert any("django_jobs_undelivered" in line for line in plan), plan
    bounds = next(line for line in plan if "Index Cond" in line or "SEARCH" in line)
    assert "delivered_epoch" in bounds, plan
    assert not any("Sort" in line or "B-TREE" in line for line in plan), plan
