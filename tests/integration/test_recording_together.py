"""Claims and reports of many attempts at once: rows become what they become one by one."""

import json
import secrets
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.utils import timezone

from django_jobs import Retry, batches, outcomes, reports, sql
from django_jobs.batches import Report
from django_jobs.models import Attempt, FigureDelta, Job, Queue, Worker
from django_jobs.models.tallies import totals
from django_jobs.outbox import Outbox
from django_jobs.outcomes import Outcome
from django_jobs.states import CANCELED, DEFERRED, FAILED, FINISHED, QUEUED, SCHEDULED, STARTED
from tests.conftest import fresh, make_worker
from tests.threads import holding_locks

pytestmark = pytest.mark.django_db

OTHER_WORKER, OTHER_CLAIM = uuid4(), uuid4()
SOON = timedelta(seconds=30)
LONG_AGO = timedelta(minutes=6)
DONE = {"progress": 100, "progress_message": "done", "stage": "", "stages": {}, "stage_names": []}
IN_STAGES = {
    "progress": 33,
    "progress_message": "page 2 of “Ünï\t🦉”",
    "stage": "reading",
    "stages": {
        "writing": {"status": "pending", "progress": 0},
        "a": {"status": "done", "progress": 100},
        "reading": {"status": "processing", "progress": 33},
    },
    "stage_names": ["writing", "a", "reading"],
}


def failed(**told):
    return Outcome.failed("ValueError", "no paper, 50 % “gone” 🦉", "Traceback …\n  'x' \\ %s", **told)


def retried(most, interval=0):
    retry = Retry(max=most, interval=interval)
    return Outcome.retried(retry, "Retry", str(retry), "Traceback …")


RESULTS = {
    "nothing": None,
    "zero": 0,
    "false": False,
    "an empty text": "",
    "an empty list": [],
    "nested": {"a": [1, None, {"ü": [True, {}]}], "": {"": ""}},
    "a large number": 2**80,
    "large numbers": [2**53 + 1, -(2**63), 10**30],
    "fractions": [0.1 + 0.2, 1 / 3, 1e-9, 5e-324, 1.7976931348623157e308, -0.5],
    "text": 'ü \u2028 🦉 "quoted" \\ \n %s {braces} \\u0041 null',
    "text that looks like JSON": '{"a": 1}',
    "the text null": "null",
    "much": "x" * 100_000,
}
OUTCOMES = {
    **{f"finished with {name}": Outcome.finished(result=result) for name, result in RESULTS.items()},
    "finished without a result that can be stored": Outcome.finished(result_error="It is a set."),
    "finished in stages": Outcome.finished(result=1, progress=IN_STAGES),
    "finished with a log": Outcome.finished(log="one line\nanother, ü\t%s\n"),
    "failed": failed(),
    "failed in stages": failed(progress=IN_STAGES, log="a line"),
    "failed with texts that are as long as they may be": Outcome.failed("e" * 255, "m" * 2000, "t" * 50_000),
    "asked for another at once": retried(3),
    "asked for another in a while": retried(3, 600),
    "asked for one more than it may": retried(0, 600),
    "handed over": Outcome.elsewhere(3600, log="handed over"),
    "canceled": Outcome.canceled(),
}
JOBS = {
    "without further attempts": {},
    "with further attempts": {"max_attempts": 3},
    "with an interval": {"max_attempts": 3, "retry_intervals": [90, 1.5]},
    "at its last attempt": {"attempt": 3, "max_attempts": 3, "retry_intervals": [90]},
    "at a later attempt": {"attempt": 2, "max_attempts": 3, "retry_intervals": [90, 1000.25]},
    "whose result is kept for a while": {"keep_result_seconds": 123.5},
    "whose result is kept for no time": {"keep_result_seconds": 0},
    "that failed before": {"error_type": "OldError", "error_message": "old", "traceback": "old"},
    "that was delivered and late": {
        "delivery": 4,
        "delivered_epoch": "a:b:1",
        "scheduled_for": timezone.now(),
    },
}


def claimed(*jobs, worker=None):
    """These jobs as a child gets them."""
    worker = worker or make_worker(name="w7")
    told = batches.claim([(job.pk, job.attempt) for job in jobs], worker.pk, uuid4())
    assert {each.job_id for each in told} == {job.pk for job in jobs}
    return [batches.job_of(each.row) for each in sorted(told, key=lambda each: each.job_id)]


def report_of(job, outcome):
    """As a child sends it."""
    told = reports.document(job, outcome, "w7")
    document = json.dumps(told)
    return Report(job.pk, job.queue, told["outcome"], told["status"], told["ran_seconds"], document)


def record_together(job, outcome):
    outbox = Outbox(job.worker_id)
    outbox.put(report_of(job, outcome))
    assert [report.job_id for report in outbox.flush()] == [job.pk]
    assert len(outbox) == 0


def record_alone(job, outcome):
    outcomes.record(job, outcome, "w7")


def columns(model, **where):
    left_out = {"id", "job_id"}
    rows = model.objects.filter(**where).values()
    return [{name: value for name, value in row.items() if name not in left_out} for row in rows]


def all_told(job):
    """All that the database has of this job and its worker, but for what differs between any two."""
    worker = Worker.objects.get(pk=job.worker_id)
    figures = columns(FigureDelta)
    for figure in figures:
        figure["wait_seconds"] = round(figure["wait_seconds"] / LONG_AGO.total_seconds(), 1)
        figure["sample"] = figure["sample"] and figure["sample"] == job.pk
    known = {job.claim_id: "its claim", job.worker_id: "its worker"}
    rows = {
        "row": columns(Job, pk=job.pk),
        "attempts": columns(Attempt, job=job.pk),
        "events": columns(job.events.model, job=job.pk),
        "worker": [
            {name: getattr(worker, name) for name in ("finished_count", "failed_count", "busy_seconds")}
        ],
        "figures": figures,
    }
    return {
        name: [{column: known.get(_hashable(value), value) for column, value in row.items()} for row in found]
        for name, found in rows.items()
    }


def _hashable(value):
    return value if value.__hash__ else None


def assert_alike(one, other):
    assert [(name, len(found)) for name, found in one.items()] == [
        (name, len(found)) for name, found in other.items()
    ]
    for name, found in one.items():
        for mine, its in zip(found, other[name], strict=True):
            times = {
                column
                for column, value in mine.items()
                if isinstance(value, datetime) and isinstance(its[column], datetime)
            }
            assert {column: mine[column] for column in mine if column not in times} == {
                column: its[column] for column in its if column not in times
            }
            assert all(abs(mine[column] - its[column]) < SOON for column in times), (mine, its)


def both_ways(job_factory, outcome, meanwhile=lambda job: None, **values):
    """The same end of two jobs, recorded together with others and alone; what is then told of each."""
    told, counted = [], []
    for record in (record_together, record_alone):
        before = totals()
        FigureDelta.objects.all().delete()
        (job,) = claimed(job_factory(**{"queued_at": timezone.now() - LONG_AGO, **values}))
        meanwhile(job)
        record(job, outcome)
        told.append(all_told(job))
        after = totals()
        counted.append({key: after[key] - before.get(key, 0) for key in after})
    assert_alike(*told)
    assert [{key: amount for key, amount in each.items() if amount} for each in counted[:1]] == [
        {key: amount for key, amount in each.items() if amount} for each in counted[1:]
    ]
    return told[0]


@pytest.mark.parametrize("values", JOBS)
@pytest.mark.parametrize("name", OUTCOMES)
def test_rows_become_what_they_become_one_by_one(job_factory, name, values):
    outcome = replace(OUTCOMES[name], ran_seconds=1.25)

    both_ways(job_factory, replace(outcome, progress=outcome.progress or DONE), **JOBS[values])


@pytest.mark.parametrize("values", [{}, {"max_attempts": 3}])
@pytest.mark.parametrize("name", OUTCOMES)
def test_what_told_no_progress_becomes_what_it_becomes_one_by_one(job_factory, name, values):
    both_ways(job_factory, OUTCOMES[name], **values)


def test_a_worker_counts_what_it_recorded_together(job_factory):
    told = both_ways(job_factory, Outcome.finished(progress=DONE, ran_seconds=1.5))

    assert told["worker"] == [{"finished_count": 1, "failed_count": 0, "busy_seconds": 1.5}]


def cancel(job):
    Job.objects.filter(pk=job.pk).update(cancel_requested_at=timezone.now())


def supersede(job):
    """Taken for lost, and claimed anew."""
    outcomes.lose(job, "Worker w7 is silent.")
    assert batches.claim([(job.pk, job.attempt + 1)], OTHER_WORKER, OTHER_CLAIM)


def give_to_others(job):
    """Given back, as its claim was taken for unanswered, and claimed anew at the same attempt."""
    outcomes.give_back(job)
    assert batches.claim([(job.pk, job.attempt)], OTHER_WORKER, OTHER_CLAIM)


def lose(job):
    outcomes.lose(job, "Worker w7 is silent.")


def record_already(job):
    outcomes.record(job, Outcome.finished(result="first", progress=DONE, ran_seconds=1), "w7")


def fail_already(job):
    outcomes.record(job, failed(progress=DONE), "w7")


def end_from_outside(job):
    outcomes.end_from_outside(fresh(job), Outcome.failed("ReportedFailure", "no", ""), final=True)


def hand_over(job):
    outcomes.record(job, Outcome.elsewhere(60), "w7")


MEANWHILE = [
    cancel,
    supersede,
    give_to_others,
    lose,
    record_already,
    fail_already,
    end_from_outside,
    hand_over,
]


@pytest.mark.parametrize("meanwhile", MEANWHILE)
@pytest.mark.parametrize("values", [{}, {"max_attempts": 3}, {"idempotent": True}])
@pytest.mark.parametrize(
    "outcome", [Outcome.finished(result=1), failed(), retried(3), Outcome.elsewhere(60), Outcome.canceled()]
)
def test_what_has_happened_meanwhile_counts_as_it_does_one_by_one(job_factory, outcome, values, meanwhile):
    if meanwhile is supersede and not values:
        values = {"max_attempts": 2}

    both_ways(job_factory, replace(outcome, progress=IN_STAGES, ran_seconds=1), meanwhile, **values)


def test_of_a_job_that_was_asked_to_cancel_nothing_is_recorded_together_unless_it_finished(job_factory):
    worker = make_worker()
    finished, broken = claimed(job_factory(), job_factory(max_attempts=3), worker=worker)
    Job.objects.update(cancel_requested_at=timezone.now())
    told = [report_of(finished, Outcome.finished(progress=DONE)), report_of(broken, failed(progress=DONE))]

    assert batches.record(told, worker.pk) == {finished.pk}

    assert [fresh(job).status for job in (finished, broken)] == [FINISHED, STARTED]


@pytest.mark.parametrize("outcome", [Outcome.finished(), failed(), Outcome.elsewhere(60)])
def test_the_report_of_a_deleted_job_needs_no_more_attention(job_factory, outcome):
    (job,) = claimed(job_factory())
    Job.objects.filter(pk=job.pk).delete()

    record_together(job, replace(outcome, progress=DONE))

    assert not Attempt.objects.exists()
    assert totals() == {}


@pytest.fixture
def of_all_kinds(job_factory):
    """What a batch of ten may be: [(job, outcome, status then)]"""
    outcomes_and_statuses = [
        ({}, Outcome.finished(result=[1]), FINISHED),
        ({}, Outcome.finished(result=None), FINISHED),
        ({}, failed(), FAILED),
        ({"max_attempts": 2}, failed(), QUEUED),
        ({"max_attempts": 2, "retry_intervals": [60]}, failed(), SCHEDULED),
        ({}, retried(3), QUEUED),
        ({}, retried(3, 60), SCHEDULED),
        ({}, retried(0), FAILED),
        ({}, Outcome.elsewhere(60), STARTED),
        ({}, Outcome.canceled(), CANCELED),
    ]
    worker = make_worker()
    jobs = claimed(*[job_factory(**values) for values, _, _ in outcomes_and_statuses], worker=worker)
    return [
        (job, replace(outcome, progress=DONE, ran_seconds=1), status)
        for job, (_, outcome, status) in zip(jobs, outcomes_and_statuses, strict=True)
    ]


def test_ends_of_all_kinds_are_recorded_together_and_counted_once_each(of_all_kinds):
    outbox = Outbox(of_all_kinds[0][0].worker_id)
    for job, outcome, _ in of_all_kinds:
        outbox.put(report_of(job, outcome))

    assert {report.job_id for report in outbox.flush()} == {job.pk for job, _, _ in of_all_kinds}

    assert [fresh(job).status for job, _, _ in of_all_kinds] == [status for _, _, status in of_all_kinds]
    assert {job.attempts.get().outcome for job, _, _ in of_all_kinds} == {
        "finished",
        "failed",
        "retried",
        "elsewhere",
        "canceled",
    }
    assert totals() == {
        ("file_processing", "finished"): 2,
        ("file_processing", "failed"): 2,
        ("file_processing", "canceled"): 1,
    }
    worker = Worker.objects.get()
    assert (worker.finished_count, worker.failed_count, worker.busy_seconds) == (5, 5, 10)


def test_a_batch_takes_few_statements_however_many_it_holds(
    job_factory, django_assert_max_num_queries, monkeypatch
):
    worker = make_worker()
    jobs = [job_factory(max_attempts=1 + number % 2) for number in range(50)]

    with django_assert_max_num_queries(1):
        held = batches.claim([(job.pk, 1) for job in jobs], worker.pk, uuid4())

    outbox = Outbox(worker.pk)
    for number, each in enumerate(held):
        outcome = failed() if number % 3 == 0 else Outcome.finished(result=number)
        outbox.put(report_of(batches.job_of(each.row), replace(outcome, progress=DONE)))
    with django_assert_max_num_queries(8):
        assert len(outbox.flush()) == 50
    assert Attempt.objects.count() == 50


# Values that the database refuses


@pytest.mark.django_db(transaction=True)  # PostgreSQL takes no statement after a refused one in the same.
def test_a_value_that_the_database_refuses_keeps_no_other_report_from_being_recorded(
    job_factory, narrow_database
):
    worker = make_worker()
    jobs = claimed(*[job_factory() for _ in range(5)], worker=worker)
    outbox = Outbox(worker.pk)
    for number, job in enumerate(jobs):
        result = secrets.token_hex(12_000) if number == 2 else number  # It cannot be compressed.
        outbox.put(report_of(job, Outcome.finished(result=result, progress=DONE)))

    assert len(outbox.flush()) == 5

    assert [fresh(job).status for job in jobs] == [FINISHED] * 5
    assert [fresh(job).result for job in jobs] == [0, 1, None, 3, 4]
    assert fresh(jobs[2]).result_error.startswith("The database refused it: ")
    assert totals() == {("file_processing", "finished"): 5}


# Locked rows


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite locks no rows.")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("outcome", [Outcome.finished(result=1), failed(), Outcome.elsewhere(60)])
def test_a_batch_waits_for_no_row_that_others_hold_and_records_it_later(job_factory, outcome):
    worker = make_worker()
    locked, free = claimed(job_factory(), job_factory(), worker=worker)
    outbox = Outbox(worker.pk)
    for job in (locked, free):
        outbox.put(report_of(job, replace(outcome, progress=DONE)))

    with holding_locks(lambda: list(Job.objects.select_for_update().filter(pk=locked.pk))):
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '1ms'")  # Waiting would be an error.
        assert [report.job_id for report in outbox.flush()] == [free.pk]
        assert [report.job_id for report in outbox.flush()] == []
        assert 0 < outbox.seconds_to_wait() <= 0.25
        assert (fresh(locked).attempts.count(), len(outbox)) == (0, 1)

    outbox._locked_until = 0
    assert [report.job_id for report in outbox.flush()] == [locked.pk]
    assert locked.attempts.get().outcome == outcome.kind


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite locks no rows.")
@pytest.mark.django_db(transaction=True)
def test_a_claim_passes_over_what_others_hold(job_factory):
    locked, free = job_factory(), job_factory()

    with holding_locks(lambda: list(Job.objects.select_for_update().filter(pk=locked.pk))):
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '1ms'")
        told = batches.claim([(locked.pk, 1), (free.pk, 1)], uuid4(), uuid4())

    assert [each.job_id for each in told] == [free.pk]
    assert fresh(locked).status == QUEUED


# Claims


def test_a_claim_starts_what_awaits_that_attempt_and_nothing_else(job_factory):
    wanted, second = job_factory(), job_factory(attempt=2, max_attempts=3)
    Queue.objects.create(name="vectorization", paused=True)
    others = [
        job_factory(attempt=2),
        job_factory(queue="vectorization"),
        job_factory(observed_id="abc"),
        *[job_factory(status=status) for status in (SCHEDULED, DEFERRED, FINISHED, FAILED, CANCELED)],
    ]
    started = job_factory(status=STARTED)
    worker, claim_id = make_worker(), uuid4()

    told = batches.claim(
        [(wanted.pk, 1), (second.pk, 2), (uuid4(), 1), (started.pk, 1), *((job.pk, 1) for job in others)],
        worker.pk,
        claim_id,
    )

    assert {(each.job_id, each.attempt, each.task, each.queue) for each in told} == {
        (wanted.pk, 1, "tests.tasks.add", "file_processing"),
        (second.pk, 2, "tests.tasks.add", "file_processing"),
    }
    for job in (wanted, second):
        row = fresh(job)
        assert (row.status, row.worker_id, row.claim_id) == (STARTED, worker.pk, claim_id)
    assert [fresh(job).status for job in others] == [job.status for job in others]
    assert fresh(started).claim_id == started.claim_id


def test_what_is_wanted_twice_is_claimed_once(job_factory):
    job = job_factory()

    told = batches.claim([(job.pk, 1), (job.pk, 1), (job.pk, 2)], uuid4(), uuid4())

    assert [each.job_id for each in told] == [job.pk]
    assert batches.claim([(job.pk, 1)], uuid4(), uuid4()) == []


ROWS = {
    "as any": {},
    "with odd arguments": {
        "args": [None, 2**80, 0.1 + 0.2, 'ü "🦉" \\u0041 %s', {"a": {"b": []}}, "null"],
        "kwargs": {"ü": {"": None}},
        "tags": ["a", "ü"],
        "meta": {"n": 1.5, "deep": [[[]]]},
    },
    "without a time limit": {"timeout_seconds": None},
    "with a time limit": {"timeout_seconds": 12_345},
    "with retries": {"max_attempts": 5, "retry_intervals": [1, 2.5, 1e-3, 10**9], "retry_jitter": 1 / 3},
    "with a result that is kept": {"keep_result_seconds": 0.1 + 0.2},
    "with times": {
        "scheduled_for": datetime.fromisoformat("2001-02-03T04:05:06.123456+00:00"),
        "delivered_at": datetime.fromisoformat("2001-02-03T04:05:06+00:00"),
        "queued_at": None,
    },
    "with texts": {
        "task": "tests.tasks.ü",
        "description": "“x”",
        "subject": "file:42",
        "unique_key": "k",
        "delivered_epoch": "a:b:1",
    },
    "with switches": {"idempotent": True, "at_front": True, "losses": 2, "delivery": 3, "attempt": 7},
    "with what earlier attempts left": {
        "progress": 44,
        "progress_message": "old",
        "stage": "old",
        "stages": {"old": {}},
        "stage_names": ["old"],
        "result": {"a": 1},
        "result_error": "old",
        "error_type": "OldError",
        "error_message": "old",
        "traceback": "old",
    },
    "to be canceled": {"cancel_requested_at": timezone.now()},
}


@pytest.mark.parametrize("name", ROWS)
def test_a_job_that_a_child_gets_is_as_its_row(job_factory, name):
    owner, earlier = User.objects.create_user("ada"), job_factory(status=FAILED)
    (job,) = claimed(job_factory(owner=owner, requeued_from=earlier, **ROWS[name]))

    row = fresh(job)

    fractions = ["keep_result_seconds", "retry_jitter"]  # Of these SQLite tells 15 digits as JSON.
    fields = [field.attname for field in Job._meta.concrete_fields if field.attname not in fractions]
    assert {field: getattr(job, field) for field in fields} == {
        field: getattr(row, field) for field in fields
    }
    told, stored = ([getattr(each, name) or 0 for name in fractions] for each in (job, row))
    assert told == pytest.approx(stored, rel=1e-14)
    switches = ["idempotent", "at_front"]
    assert [type(getattr(job, switch)) for switch in switches] == [bool, bool]
    assert (job.owner, job.requeued_from, job._state.adding, job._state.db) == (
        owner,
        earlier,
        False,
        "default",
    )
    assert job == row


def test_jobs_that_were_claimed_together_share_no_value(job_factory):
    one, other = claimed(job_factory(), job_factory())

    one.stages["a"] = {}
    one.stage_names.append("a")
    one.meta["a"] = 1

    assert (other.stages, other.stage_names, other.meta) == ({}, [], {})


def test_a_claim_of_many_is_as_one_alone(job_factory):
    worker, claim_id = make_worker(), uuid4()
    together, alone = job_factory(), job_factory()

    (told,) = batches.claim([(together.pk, 1)], worker.pk, claim_id)
    (row,) = sql.claim([(alone.pk, 1)], worker.pk, claim_id)

    one, other = (Job.objects.filter(pk=pk).values().get() for pk in (told.job_id, row.pk))
    times = {"created_at", "queued_at", "started_at"}
    assert {name: value for name, value in one.items() if name not in {*times, "id"}} == {
        name: value for name, value in other.items() if name not in {*times, "id"}
    }
    assert all(abs(one[name] - other[name]) < SOON for name in times)


# Progress


def test_progress_of_many_is_written_where_the_attempt_goes_on(job_factory):
    worker = make_worker()
    running, superseded, ended = claimed(job_factory(), job_factory(), job_factory(), worker=worker)
    Job.objects.filter(pk=superseded.pk).update(claim_id=uuid4())
    record_together(ended, Outcome.finished(progress=DONE))
    tells = {**IN_STAGES, "live_log": "read “Ünï\t🦉”"}
    told = [json.dumps(reports.progress_document(job, tells)) for job in (running, superseded, ended)]

    assert batches.record_progress(told) == {running.pk}

    assert {name: getattr(fresh(running), name) for name in tells} == tells
    assert (fresh(superseded).progress, fresh(superseded).stages, fresh(superseded).live_log) == (0, {}, "")
    assert (fresh(ended).progress, fresh(ended).live_log) == (100, "")


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite locks no rows.")
@pytest.mark.django_db(transaction=True)
def test_progress_of_a_job_whose_row_is_locked_keeps_that_of_no_other_waiting(job_factory):
    busy, free = claimed(job_factory(), job_factory(), worker=make_worker())
    told = [
        json.dumps(reports.progress_document(job, {**IN_STAGES, "live_log": "read"})) for job in (busy, free)
    ]

    with holding_locks(lambda: list(Job.objects.select_for_update().filter(pk=busy.pk))):
        assert batches.record_progress(told) == {free.pk}

        assert [fresh(job).live_log for job in (busy, free)] == ["", "read"]


@pytest.mark.parametrize("outcome", [Outcome.finished(progress=DONE), failed(progress=IN_STAGES)])
def test_the_log_of_an_attempt_that_runs_ends_with_it(job_factory, outcome):
    (job,) = claimed(job_factory(), worker=make_worker())
    Job.objects.filter(pk=job.pk).update(live_log="read")

    record_together(job, outcome)

    assert fresh(job).live_log == ""
