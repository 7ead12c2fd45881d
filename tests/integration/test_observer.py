"""The observer: rows follow what plain RQ does, whoever tells of it and when; in RQ nothing changes."""

import pickle
import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.utils import timezone
from rq import Queue as RQQueue
from rq import Retry, SimpleWorker
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer

from django_jobs import control, observed, observer, reconciler, relay
from django_jobs.engines.base import Run
from django_jobs.engines.rq import plain
from django_jobs.exceptions import NotPossible
from django_jobs.models import Job, QueueEvent
from django_jobs.models.tallies import totals
from django_jobs.states import CANCELED, DEFERRED, FAILED, FINISHED, QUEUED, SCHEDULED, STARTED
from tests import tasks
from tests.conftest import everything_in, fresh, make_worker

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _looked_at_nothing():
    observer._seen_to.clear()


@pytest.fixture
def queue(valkey):
    return RQQueue("file_processing", connection=valkey)


@pytest.fixture
def work_elsewhere(valkey):
    """Run what waits by a worker of RQ that knows nothing of us."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def work(**options):
        SimpleWorker(["file_processing"], connection=valkey, name="elsewhere", **options).work(burst=True)

    yield work
    for number, handler in handlers.items():
        signal.signal(number, handler)


def row_of(plain_job):
    return Job.objects.get(observed_id=plain_job.id)


def attempts(job):
    return [(attempt.number, attempt.outcome) for attempt in job.attempts.all()]


def test_what_waits_in_rq_becomes_rows_and_stays_as_it_is_there(queue, valkey):
    waiting = queue.enqueue(tasks.record, "path", "line", job_timeout="2m", job_id="my-own-id")
    planned = queue.enqueue_at(datetime(2100, 1, 1, tzinfo=UTC), tasks.record, job_timeout=-1)
    dependent = queue.enqueue("tests.tasks.add", 1, depends_on=waiting)
    before = everything_in(valkey)

    assert (observer.run_once(), observer.run_once()) == (3, 0)

    assert everything_in(valkey) == before
    job = row_of(waiting)
    assert (job.observed_id, job.engine, job.queue, job.status) == (
        "my-own-id",
        "rq",
        "file_processing",
        QUEUED,
    )
    assert (job.task, job.description) == ("tests.tasks.record", "tests.tasks.record(…)")
    assert (job.timeout_seconds, job.created_at, job.queued_at) == (
        120,
        waiting.created_at,
        waiting.enqueued_at,
    )
    assert (job.attempt, job.args, job.started_at, job.delivered_at) == (1, [], None, None)
    job = row_of(planned)
    assert (job.status, job.scheduled_for, job.queued_at) == (
        SCHEDULED,
        datetime(2100, 1, 1, tzinfo=UTC),
        None,
    )
    assert job.timeout_seconds is None
    assert row_of(dependent).status == DEFERRED
    assert totals() == {}


def test_rows_of_plain_jobs_and_ours_have_one_order_of_time(queue, valkey, job_factory):
    late, early = (queue.enqueue(tasks.record) for _ in range(2))
    for plain_job, hours in ((late, 1), (early, -1)):
        created_at = datetime.now(UTC) + timedelta(hours=hours)
        valkey.hset(plain_job.key, "created_at", created_at.isoformat())
    ours = job_factory()
    observer.run_once()

    assert list(Job.objects.order_by("id")) == [row_of(early), ours, row_of(late)]


def test_a_plain_job_that_was_run_elsewhere_is_finished(queue, work_elsewhere, tmp_path):
    plain_job = queue.enqueue(tasks.record, str(tmp_path / "effects"), "line")
    observer.run_once()
    work_elsewhere()

    assert (observer.run_once(), observer.run_once()) == (1, 0)

    job = row_of(plain_job)
    assert (job.status, job.attempt, job.progress, job.result) == (FINISHED, 1, 100, None)
    assert job.created_at <= job.queued_at <= job.started_at <= job.finished_at
    attempt = job.attempts.get()
    assert (attempt.outcome, attempt.worker_name, attempt.log) == ("finished", "elsewhere", "")
    assert totals() == {("file_processing", "finished"): 1}


def test_a_plain_job_that_failed_elsewhere_tells_why(queue, work_elsewhere):
    plain_job = queue.enqueue("tests.tasks.fail", "two\nlines")
    observer.run_once()
    work_elsewhere()
    observer.run_once()

    job = row_of(plain_job)
    assert (job.status, job.error_type, job.error_message) == (FAILED, "ValueError", "two\nlines")
    assert "in fail" in job.traceback
    assert (attempts(job), job.attempts.get().traceback) == ([(1, "failed")], job.traceback)
    assert totals() == {("file_processing", "failed"): 1}


def test_retries_elsewhere_are_attempts(queue, work_elsewhere, tmp_path):
    path = str(tmp_path / "calls")
    plain_job = queue.enqueue("tests.tasks.fail_until", path, 9, retry=Retry(max=2, interval=600))
    observer.run_once()
    work_elsewhere()
    observer.run_once()

    job = row_of(plain_job)
    assert (job.status, job.attempt, job.started_at) == (SCHEDULED, 1, None)
    assert timedelta(seconds=540) < job.scheduled_for - timezone.now() <= timedelta(seconds=600)


def test_a_plain_job_that_is_requeued_in_rq_is_the_next_attempt_of_its_row(queue, work_elsewhere):
    plain_job = queue.enqueue("tests.tasks.fail")
    observer.run_once()
    work_elsewhere()
    observer.run_once()

    FailedJobRegistry(queue=queue).requeue(plain_job.id)
    observer.run_once()
    job = row_of(plain_job)
    assert (job.status, job.attempt, job.finished_at) == (QUEUED, 2, None)
    assert totals() == {}
    work_elsewhere()
    observer.run_once()

    job = fresh(job)
    assert (job.status, job.attempt, attempts(job)) == (FAILED, 2, [(1, "failed"), (2, "failed")])
    assert totals() == {("file_processing", "failed"): 1}


def test_what_is_no_longer_in_redis_is_canceled_with_the_reason(queue, valkey):
    canceled, deleted, flushed = (queue.enqueue(tasks.record) for _ in range(3))
    observer.run_once()

    canceled.cancel()
    deleted.delete()
    observer.run_once()
    told = {plain_job.id: row_of(plain_job) for plain_job in (canceled, deleted, flushed)}
    assert [job.status for job in told.values()] == [CANCELED, CANCELED, QUEUED]
    assert told[canceled.id].error_message == "It was canceled in RQ."
    assert told[deleted.id].error_message.startswith("It is no longer on its server")

    valkey.flushall()
    observer.run_once()
    assert row_of(flushed).status == CANCELED
    assert [row_of(job).attempts.count() for job in (canceled, deleted, flushed)] == [0, 0, 0]
    assert totals() == {("file_processing", "canceled"): 3}


def test_what_comes_back_to_redis_awaits_the_attempt_that_never_began(queue, valkey):
    plain_job = queue.enqueue(tasks.record)
    observer.run_once()
    dump = {key: valkey.dump(key) for key in valkey.scan_iter()}
    valkey.flushall()
    observer.run_once()

    for key, value in dump.items():
        valkey.restore(key, 0, value)
    observer.run_once()

    assert (row_of(plain_job).status, row_of(plain_job).attempt) == (QUEUED, 1)
    assert totals() == {}


def test_a_new_job_under_an_id_that_was_used_before_has_a_row_of_its_own(queue, work_elsewhere):
    queue.enqueue("tests.tasks.add", 1, job_id="nightly")
    observer.run_once()
    work_elsewhere()
    observer.run_once()

    queue.enqueue("tests.tasks.add", 1, job_id="nightly")
    observer.run_once()

    statuses = Job.objects.filter(observed_id="nightly").order_by("id").values_list("status", flat=True)
    assert list(statuses) == [FINISHED, QUEUED]


def test_a_plain_job_that_moves_to_another_queue_is_followed(queue, valkey):
    plain_job = queue.enqueue(tasks.record)
    observer.run_once()
    valkey.delete(queue.key)
    RQQueue("vectorization", connection=valkey).enqueue_job(plain_job)

    observer.run_once()

    assert (row_of(plain_job).queue, row_of(plain_job).status) == ("vectorization", QUEUED)


def test_deliveries_and_junk_are_no_plain_jobs(queue, valkey, job_factory):
    ours = job_factory()
    relay.run_once()
    valkey.rpush(queue.key, b"\xff\xfe junk", "no-such-job", "broken", "x" * 300, "wrong-type", "odd")
    valkey.hset("rq:job:broken", mapping={"status": "nonsense", "created_at": "never"})
    valkey.set("rq:job:wrong-type", "a string")
    odd = {
        "status": "queued",
        "created_at": "2026-01-01T00:00:00Z",
        "timeout": "1e9d",
        "data": b"\x80\xff",
        "description": b"\xff\x00(",
        "enqueued_at": "never",
    }
    valkey.hset("rq:job:odd", mapping=odd)
    valkey.set("rq:results:odd", "a string")
    valkey.set("rq:scheduled:file_processing", "a string")

    assert observer.run_once() == 1

    assert fresh(ours).status == QUEUED
    job = Job.objects.observed().get()
    assert (job.observed_id, job.task, job.timeout_seconds, job.queued_at) == ("odd", "", None, None)


def test_an_execution_that_rq_has_not_missed_yet_is_left_to_rq(queue, valkey):
    abandoned = queue.enqueue(tasks.record)
    valkey.delete(queue.key)
    abandoned.set_status("started")
    valkey.zadd("rq:wip:file_processing", {f"{abandoned.id}:{'0' * 32}": 1})
    valkey.zadd(f"rq:executions:{abandoned.id}", {"0" * 32: 1})
    before = everything_in(valkey)

    observer.run_once()
    observer.run_once()

    assert everything_in(valkey) == before
    job = row_of(abandoned)
    assert (job.status, job.attempt, job.claim_id.int) == (STARTED, 1, 0)


def test_nothing_is_unpickled_by_looking(queue, work_elsewhere, tmp_path):
    trap = Trap(str(tmp_path / "sprung"))
    waits = queue.enqueue(tasks.undeclared, trap, meta={"trap": trap})
    ran = queue.enqueue(tasks.undeclared, 1, meta={"trap": trap}, description=None)
    queue.connection.lrem(queue.key, 0, waits.id)
    observer.run_once()
    work_elsewhere()
    queue.push_job_id(waits.id)
    ran.connection.hset(ran.key, "result", pickle.dumps(trap))
    (tmp_path / "sprung").unlink(missing_ok=True)

    observer.run_once()

    assert not (tmp_path / "sprung").exists()
    assert (row_of(waits).status, row_of(waits).task) == (QUEUED, "tests.tasks.undeclared")
    assert row_of(ran).status == FINISHED


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return tasks.record, (self.path, "unpickled")


def test_a_look_costs_the_same_for_few_and_for_many(queue, valkey, django_assert_max_num_queries):
    def cost():
        before = valkey.info("stats")["total_reads_processed"]
        with django_assert_max_num_queries(8) as captured:
            assert observer.run_once()
        reads = valkey.info("stats")["total_reads_processed"] - before
        return len(captured), reads

    queue.enqueue(tasks.record)
    observer.run_once()
    queue.enqueue(tasks.record)
    few, reads_for_few = cost()
    queue.enqueue_many([RQQueue.prepare_data(tasks.record, args=("path", "x" * 1000)) for _ in range(15)])
    many, reads_for_many = cost()

    assert many == few
    # Where they stand, when they were created, what they are; the server may read one request in two parts.
    assert max(reads_for_few, reads_for_many) <= 6


def test_only_the_foremost_are_looked_at_and_all_are_in_the_end(queue, monkeypatch):
    monkeypatch.setattr(plain, "MOST", 3)
    monkeypatch.setattr(observer, "BATCH", 2)
    for _ in range(5):
        queue.enqueue(tasks.record)

    assert observer.run_once() == 3
    assert Job.objects.observed().count() == 3

    queue.delete(delete_jobs=True)
    assert (observer.run_once(), observer.run_once()) == (2, 1)
    assert Job.objects.canceled().count() == 3


def test_rows_that_stay_as_they_are_hold_up_no_others(queue, valkey, monkeypatch):
    monkeypatch.setattr(observer, "BATCH", 2)
    jobs = [queue.enqueue(tasks.record) for _ in range(3)]
    observer.run_once()
    *_, last = Job.objects.order_by("id")
    valkey.delete(queue.key)
    valkey.delete(f"rq:job:{last.observed_id}")

    assert [observer.run_once() for _ in range(4)] == [0, 1, 0, 0]
    assert fresh(last).status == CANCELED
    assert Job.objects.queued().count() == len(jobs) - 1


def test_a_server_that_is_away_changes_nothing(queue, settings):
    plain_job = queue.enqueue(tasks.record)
    observer.run_once()
    settings.RQ_QUEUES = {"file_processing": {"URL": "redis://127.0.0.1:1/0"}}

    assert observer.run_once() == 0
    assert row_of(plain_job).status == QUEUED


def test_a_job_that_a_live_worker_of_ours_runs_is_the_workers_to_tell(queue, valkey, work_elsewhere):
    plain_job = queue.enqueue(tasks.record)
    worker = make_worker()
    observer.record(seen_of(plain_job, STARTED, run(worker=worker)))
    valkey.flushall()

    assert (observer.run_once(), row_of(plain_job).status) == (0, STARTED)

    worker.delete()
    assert (observer.run_once(), row_of(plain_job).status) == (1, CANCELED)
    assert attempts(row_of(plain_job)) == [(1, "canceled")]


# News of executions, as our workers tell them.


def seen_of(plain_job, status, run=None, error=("", "", "")):
    seen = plain.seen(plain_job, run, error)
    return replace(seen, status=status)


def run(number=0, outcome="", worker=None, **values):
    began = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=number)
    return Run(
        uuid4(),
        "w1",
        worker_id=worker.pk if worker else None,
        started_at=began,
        ended_at=began + timedelta(seconds=90) if outcome else None,
        outcome=outcome,
        **values,
    )


def ended(run, outcome, **values):
    return replace(run, outcome=outcome, ended_at=run.started_at + timedelta(seconds=90), **values)


def test_news_tell_the_row_its_attempt_and_the_worker(queue):
    plain_job = queue.enqueue(tasks.record)
    worker = make_worker()
    first = run(worker=worker)

    observer.record(seen_of(plain_job, STARTED, first))
    job = row_of(plain_job)
    assert (job.status, job.worker, job.claim_id, job.started_at) == (
        STARTED,
        worker,
        first.id,
        first.started_at,
    )
    observer.record(seen_of(plain_job, FINISHED, ended(first, "finished", log="its log")))

    job, worker = fresh(job), fresh(worker)
    assert (job.status, job.duration) == (FINISHED, timedelta(seconds=90))
    attempt = job.attempts.get()
    assert (attempt.outcome, attempt.log, attempt.duration) == ("finished", "its log", timedelta(seconds=90))
    assert (worker.finished_count, worker.failed_count, worker.busy_seconds) == (1, 0, 90)


def story(plain_job):
    """A job that fails, is retried, and finishes: the news of it, as told in their order."""
    first, second = run(1), run(2)
    error = ("ValueError", "why", "Traceback …")
    return [
        seen_of(plain_job, STARTED, first),
        seen_of(plain_job, QUEUED, ended(first, "failed"), error),
        seen_of(plain_job, STARTED, second),
        seen_of(plain_job, FINISHED, ended(second, "finished")),
    ]


@pytest.mark.parametrize(
    "order",
    [
        [0, 1, 2, 3],
        [0, 0, 1, 1, 2, 2, 3, 3],
        [1, 3],  # The starts were lost.
        [0, 2, 1, 3],  # The retry began before the first end was told.
        [0, 2, 3, 1],
        [0, 1, 3, 2],
        [1, 0, 3, 2, 1],
    ],
)
def test_news_may_be_late_repeated_or_lost(queue, order):
    plain_job = queue.enqueue(tasks.record)
    news = story(plain_job)

    for number in order:
        observer.record(news[number])

    job = row_of(plain_job)
    assert (job.status, job.attempt, job.error_type) == (FINISHED, 2, "")
    assert attempts(job) == [(1, "failed"), (2, "finished")]
    assert job.attempts.first().error_message == "why"
    assert totals() == {("file_processing", "finished"): 1}


@pytest.mark.parametrize("looks", [(0,), (1,), (2,), (3,), (0, 1, 2, 3)])
def test_looking_between_the_news_does_no_harm(queue, looks):
    """At each point RQ tells already what the worker is about to tell."""
    plain_job = queue.enqueue(tasks.record)
    for number, news in enumerate(story(plain_job)):
        if number in looks:
            follow(news)
        observer.record(news)

    job = row_of(plain_job)
    assert (job.status, job.attempt, job.error_type) == (FINISHED, 2, "")
    assert attempts(job) == [(1, "failed"), (2, "finished")]
    assert job.attempts.first().traceback == "Traceback …"
    assert totals() == {("file_processing", "finished"): 1}


def follow(seen):
    """What the look at Redis does with a job that stands so there; RQ keeps no end of what it retries."""
    if seen.status not in (STARTED, FINISHED):
        seen = replace(seen, run=None, error=("", "", ""))
    change = observed.Change(observed.row_of(seen))
    observer._follow(change, seen)
    if change.is_needed:
        assert observed.write([change]) == 1


def test_a_look_that_was_overtaken_writes_nothing(queue):
    plain_job = queue.enqueue(tasks.record)
    first = run()
    observer.run_once()
    change = observed.Change(row_of(plain_job))
    observer._follow(change, None)

    observer.record(seen_of(plain_job, STARTED, first))

    assert observed.write([change]) == 0
    assert (row_of(plain_job).status, totals()) == (STARTED, {})


def test_a_look_that_missed_a_whole_attempt_writes_nothing(queue):
    plain_job = queue.enqueue(tasks.record)
    observer.record(seen_of(plain_job, FAILED, None))
    change = observed.Change(row_of(plain_job))
    observer._follow(change, seen_of(plain_job, QUEUED))

    observer.record(seen_of(plain_job, FAILED, run(1, "failed")))

    assert observed.write([change]) == 0
    assert (row_of(plain_job).status, attempts(row_of(plain_job))) == (FAILED, [(1, "failed")])


def test_an_execution_that_was_superseded_is_not_taken_for_a_new_one(queue):
    plain_job = queue.enqueue(tasks.record)
    first, second = run(1), run(2)
    for news in (first, second):
        observer.record(seen_of(plain_job, STARTED, news))

    follow(seen_of(plain_job, STARTED, first))

    assert (row_of(plain_job).claim_id, row_of(plain_job).attempt) == (second.id, 2)


def test_a_job_that_was_not_run_has_no_attempt(queue):
    plain_job = queue.enqueue(tasks.record)

    for _ in range(2):
        observer.record(seen_of(plain_job, FAILED, None, ("PlainJobRefused", "why", "")))

    job = row_of(plain_job)
    assert (job.status, job.attempt, job.error_type, attempts(job)) == (FAILED, 1, "PlainJobRefused", [])
    assert totals() == {("file_processing", "failed"): 1}


# Observed, and nothing else.


@pytest.mark.parametrize("status", [QUEUED, SCHEDULED, DEFERRED, STARTED])
def test_nobody_of_ours_touches_an_observed_row(valkey, job_factory, status, queued_ids):
    job_factory(
        status=status,
        observed_id="plain",
        scheduled_for=timezone.now() - timedelta(hours=1),
        delivered_at=timezone.now() - timedelta(hours=1),
        **({"worker": None} if status == STARTED else {}),
    )
    before = Job.objects.values().get()
    healer = reconciler.Reconciler()
    healer._contact_since -= 1000

    relay.run_once()
    for _ in range(3):
        healer.run_once()
    assert reconciler.Reconciler().end_lost_attempts() == 0

    assert Job.objects.values().get() == before
    assert queued_ids("file_processing") == []


VERBS = {
    "cancel": control.cancel,
    "stop": control.stop,
    "requeue": control.requeue,
    "run_now": control.run_now,
    "mark_failed": control.mark_failed,
    "move": lambda jobs: control.move(jobs, queue="vectorization"),
    "update_progress": lambda job: control.update_progress(job, 50),
    "complete": control.complete,
    "fail": lambda job: control.fail(job, "why"),
}


@pytest.mark.parametrize("status", [QUEUED, SCHEDULED, STARTED, FAILED])
@pytest.mark.parametrize("verb", VERBS)
def test_an_observed_job_is_not_steered(job_factory, verb, status):
    job = job_factory(status=status, observed_id="plain")

    with pytest.raises(NotPossible, match="was enqueued by other code with plain rq") as refusal:
        VERBS[verb](job)

    assert refusal.value.reason == "only observed"
    assert (fresh(job).status, job.events.count()) == (status, 0)
    if verb not in {"update_progress", "complete", "fail"}:
        steered = VERBS[verb](Job.objects.all())
        assert (steered.done, dict(steered.refused)) == (0, {"only observed": 1})


def test_an_emptied_queue_keeps_its_plain_jobs(job_factory):
    job = job_factory(observed_id="plain")

    assert control.empty("file_processing") == 0
    assert fresh(job).status == QUEUED


def test_an_observed_row_may_be_deleted_by_who_may(queue, work_elsewhere):
    plain_job = queue.enqueue(tasks.undeclared, 1)
    observer.run_once()
    work_elsewhere()
    observer.run_once()
    job = row_of(plain_job)

    with pytest.raises(PermissionDenied):
        control.delete(job, by=User.objects.create_user("ada"))
    control.delete(job)
    observer.run_once()

    assert not Job.objects.exists()
    assert QueueEvent.objects.get().kind == "job_deleted"
    assert totals() == {}
    assert plain_job.get_status() == "finished"


# What is read in a hash.


@pytest.mark.parametrize(
    ("call", "description", "told"),
    [
        (pickle.dumps(("a.b.f", None, (1,), {})), "a.b.f(1)", ("a.b.f", "a.b.f(…)")),
        (pickle.dumps(("a.b.f", None, (1,), {}), protocol=0), "a.b.f(1)", ("a.b.f", "a.b.f(…)")),
        (JSONSerializer.dumps(("a.b.f", None, (1,), {})), "a.b.f(1)", ("a.b.f", "a.b.f(…)")),
        (pickle.dumps(("a.b.f", None, (1,), {})), "Nightly import", ("a.b.f", "Nightly import")),
        (pickle.dumps(("a.b.f", None, (1,), {})), "", ("a.b.f", "a.b.f(…)")),
        (b"another serializer's bytes", "a.b.f(1)", ("a.b.f", "a.b.f(…)")),
        (b"another serializer's bytes", "Nightly import", ("", "Nightly import")),
        (pickle.dumps(("f" * 300, None, (), {})), "", (f"{'f' * 254}…", f"{'f' * 254}…")),
        (pickle.dumps((None, None, ("argument",), {})), "", ("", "")),
        (b"", "", ("", "")),
    ],
)
def test_a_call_is_described_without_its_arguments(call, description, told):
    assert plain.describe(call, description) == told


FRAME = '  File "a.py", line 1, in f\n    f()\n    ^^^\n'
HEAD = "Traceback (most recent call last):\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"{HEAD}{FRAME}ValueError: why\n", ("ValueError", "why")),
        (f"{HEAD}{FRAME}a.b.MyError: two\n  lines: here\n", ("a.b.MyError", "two\n  lines: here")),
        (f"{HEAD}{FRAME}KeyError\n", ("KeyError", "")),
        (f"{HEAD}{FRAME}ValueError: 1\n\nThe above …:\n\n{HEAD}{FRAME}OSError: 2\n", ("OSError", "2")),
        ("Work-horse terminated unexpectedly; waitpid returned 9", ("WorkerLost", "Work-horse terminated")),
        ("Moved to FailedJobRegistry, due to AbandonedJobError, at 1", ("WorkerLost", "Moved to Failed")),
        ("PlainJobRefused: It was not run", ("PlainJobRefused", "It was not run")),
        (f"{HEAD}", ("WorkerLost", "Traceback")),
    ],
)
def test_an_error_is_read_from_rqs_text(text, told):
    kind, message, traceback = plain.describe_error(text)

    assert (kind, message[: len(told[1])]) == told
    assert traceback in ("", text)
