"""What is deleted when, and that no more is read for it than must be."""

import json
import threading
import time
from collections import Counter
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections, transaction
from django.db.models import ProtectedError
from django.db.models.functions import Now
from django.db.models.signals import pre_delete
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_jobs import control, retention
from django_jobs.exceptions import ResultExpired
from django_jobs.models import Attempt, Job, JobEvent, QueueEvent
from django_jobs.models.tallies import tally, totals
from django_jobs.results import get_task_result
from django_jobs.retention import Retention, Rules
from django_jobs.states import CANCELED, FAILED, FINISHED, QUEUED, SCHEDULED, STARTED, TERMINAL
from tests import tasks
from tests.conftest import execute, fresh
from tests.threads import locked

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch):
    """A pass does all that there is to do, also where the machine is slow."""
    monkeypatch.setattr(retention, "LONGEST_PASS_SECONDS", 60)


def ago(days):
    return Now() - timedelta(days=days)


@pytest.fixture
def ended(job_factory):
    """A job that ended so many days ago."""

    def make(days, status=FINISHED, **values):
        return job_factory(status=status, finished_at=ago(days), **values)

    return make


def is_there(job):
    return Job.objects.filter(pk=job.pk).exists()


def reads_a_page(sql):
    return sql.startswith("SELECT") and "ORDER BY 1 ASC" in sql and "LIMIT" in sql


def pages_read(queries):
    return [query["sql"] for query in queries if reads_a_page(query["sql"])]


@pytest.mark.parametrize(
    ("status", "days"),
    [(FINISHED, 7), (CANCELED, 7), (FAILED, 90)],
)
def test_ended_jobs_are_deleted_after_their_days(ended, status, days):
    old, young = ended(days + 0.01, status), ended(days - 0.01, status)

    deleted = Retention().run_once()

    assert deleted == 1
    assert (is_there(old), is_there(young)) == (False, True)


@pytest.mark.parametrize(
    ("status", "setting"), [(FINISHED, "RETENTION_DAYS"), (FAILED, "FAILED_RETENTION_DAYS")]
)
def test_none_keeps_them_for_ever(ended, settings, status, setting):
    job = ended(30_000, status)
    settings.DJANGO_JOBS = {setting: None}

    Retention().run_once()

    assert is_there(job)


@pytest.mark.parametrize("status", TERMINAL)
def test_the_days_of_a_queue_are_those_of_all_its_ended_jobs(ended, settings, status):
    settings.DJANGO_JOBS = {"QUEUE_RETENTION_DAYS": {"mail": 1, "billing": 1000, "archive": None}}
    gone = ended(1.1, status, queue="mail")
    kept = [
        ended(0.9, status, queue="mail"),
        ended(999, status, queue="billing"),
        ended(9999, status, queue="archive"),
    ]

    assert Retention().run_once() == 1

    assert not is_there(gone)
    assert all(is_there(job) for job in kept)


def test_the_days_of_a_task_win_over_those_of_its_queue(ended, settings):
    settings.DJANGO_JOBS = {
        "QUEUE_RETENTION_DAYS": {"mail": None, "billing": 1},
        "TASK_RETENTION_DAYS": {"shop.ping": 0.5, "shop.invoice": None},
    }
    ping = ended(0.6, task="shop.ping", queue="mail")
    invoice = ended(9999, task="shop.invoice", queue="billing")

    Retention().run_once()

    assert (is_there(ping), is_there(invoice)) == (False, True)


@pytest.mark.parametrize("status", [QUEUED, SCHEDULED, STARTED])
def test_a_job_that_has_not_ended_stays_whatever_its_row_tells(job_factory, status):
    job = job_factory(status=status, finished_at=ago(1000), created_at=ago(1000))

    Retention().run_once()

    assert is_there(job)


def test_a_job_that_was_requeued_between_reading_and_deleting_stays(ended, settings):
    settings.DJANGO_JOBS = {"RETENTION_DAYS": None}  # So that the first page is the one to delete of.
    requeued, other = ended(100, FAILED), ended(100, FAILED)
    seen = []

    def requeue_after_the_first_page(run, sql, params, many, context):
        answer = run(sql, params, many, context)
        if reads_a_page(sql) and not seen:
            seen.append(sql)
            Job.objects.filter(pk=requeued.pk).update(status=QUEUED, finished_at=None)
        return answer

    with connection.execute_wrapper(requeue_after_the_first_page):
        deleted = Retention().run_once()

    assert seen
    assert deleted == 1
    assert (is_there(requeued), is_there(other)) == (True, False)


def test_what_belongs_to_a_job_goes_with_it_and_its_requeue_stays(ended, job_factory):
    job = ended(8)
    Attempt.objects.create(
        job=job, number=1, claim_id=job.pk, worker_name="w", started_at=timezone.now(), outcome="finished"
    )
    JobEvent.objects.create(job=job, kind="requeued", attempt=1)
    again = job_factory(requeued_from=job)

    Retention().run_once()

    assert not Attempt.objects.exists()
    assert not JobEvent.objects.exists()
    assert fresh(again).requeued_from is None


def test_the_totals_of_ended_jobs_stay_right(ended):
    for days, status, queue in [(8, FINISHED, "mail"), (8, FINISHED, "mail"), (1, FINISHED, "mail")]:
        ended(days, status, queue=queue)
    ended(100, FAILED, queue="billing")
    tally({("mail", FINISHED): 3, ("billing", FAILED): 1})

    Retention().run_once()

    assert Counter(totals()) == Counter({("mail", FINISHED): 1})


def test_a_job_that_another_app_needs_stays_and_the_others_of_its_page_go(ended):
    jobs = [ended(10 + number) for number in range(7)]

    def protect(instance, **kwargs):
        if instance.pk == jobs[3].pk:
            raise ProtectedError("An invoice needs it.", {instance})

    pre_delete.connect(protect, sender=Job)
    try:
        deleted = Retention().run_once()
    finally:
        pre_delete.disconnect(protect, sender=Job)

    assert deleted == 6
    assert Job.objects.get() == jobs[3]


@pytest.mark.django_db(transaction=True)
def test_a_row_that_is_locked_holds_nothing_up_and_goes_when_all_is_read_again(ended, monkeypatch):
    if connection.vendor == "sqlite":
        pytest.skip("SQLite locks no rows.")
    locked, free = ended(10), ended(9)
    is_locked, release = threading.Event(), threading.Event()

    def hold():
        with transaction.atomic():
            list(Job.objects.select_for_update().filter(pk=locked.pk))
            is_locked.set()
            release.wait(timeout=60)
        connections.close_all()

    holder = threading.Thread(target=hold)
    holder.start()
    is_locked.wait(timeout=60)
    keeping = Retention()

    try:
        assert keeping.run_once() == 1
        assert (is_there(locked), is_there(free)) == (True, False)
    finally:
        release.set()
        holder.join()
    assert keeping.run_once() == 0
    monkeypatch.setattr(retention, "AGAIN_AFTER_SECONDS", 0)
    assert keeping.run_once() == 1


TIMES = ["10:00:00", "10:00:00.000", "10:00:00.000000", "10:00:00.5", "10:00:00.500", "10:00:00.500000"]
"""SQLite compares times as the texts they are stored as, in which Django and the database differ."""


@pytest.mark.parametrize("is_kept", [lambda job: False, lambda job: job.queue == "kept"])
def test_jobs_of_the_same_time_are_all_read_however_it_is_written(ended, settings, is_kept):
    settings.DJANGO_JOBS = {"QUEUE_RETENTION_DAYS": {"kept": None}}
    for queue in ("kept", "mail"):
        for text in TIMES:
            job = ended(30, queue=queue)
            with connection.cursor() as cursor:
                pk = job.pk.hex if connection.vendor == "sqlite" else str(job.pk)
                cursor.execute(
                    "UPDATE django_jobs_job SET finished_at = %s WHERE id = %s", [f"2026-01-01 {text}", pk]
                )

    dry = sum((page for page in retention.prune(Job.objects.all(), page_size=1, dry_run=True)), Counter())
    done = sum((page for page in retention.prune(Job.objects.all(), page_size=1)), Counter())

    assert dry == done == Counter({FINISHED: len(TIMES)})
    assert Job.objects.filter(queue="kept").count() == len(TIMES)


def make_many(number, days, **values):
    values = {"task": "tests.tasks.add", "queue": "mail", **values}
    at = timezone.now() - timedelta(days=days)
    Job.objects.bulk_create(Job(**values, finished_at=at + timedelta(seconds=each)) for each in range(number))


def test_what_was_read_and_is_kept_is_not_read_again(settings):
    make_many(1_200, 30, status=FAILED)
    keeping = Retention()

    with CaptureQueriesContext(connection) as first:
        keeping.run_once()
    with CaptureQueriesContext(connection) as second:
        keeping.run_once()

    assert len(pages_read(first)) == 4  # 500, 500, 200 of the finished ones' days; none of the failed ones'.
    assert len(pages_read(second)) == 2
    assert len(second) < 6


def test_changed_settings_are_heeded_at_once(ended, settings):
    job, keeping = ended(3), Retention()
    keeping.run_once()
    assert is_there(job)

    settings.DJANGO_JOBS = {"RETENTION_DAYS": 2}
    keeping.run_once()

    assert not is_there(job)


def test_a_pass_ends_when_its_time_is_over_and_says_that_it_is_behind(monkeypatch):
    monkeypatch.setattr(retention, "LONGEST_PASS_SECONDS", 0)
    make_many(1_200, 30, status=FINISHED)
    keeping = Retention()

    told = [(keeping.run_once(), keeping.is_behind) for _ in range(4)]

    assert told == [(500, True), (500, True), (200, True), (0, False)]


def test_a_page_is_read_through_the_index_on_the_end():
    make_many(1_600, 30, status=FAILED)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("ANALYZE django_jobs_job")
        statements = []

        def note(run, sql, params, many, context):
            if reads_a_page(sql):
                statements.append((sql, params))
            return run(sql, params, many, context)

        with connection.execute_wrapper(note):
            Retention().run_once()
            Retention().expire_results()
        explain = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
        plans = []
        for sql, params in statements:
            cursor.execute(f"{explain} {sql}", params)
            plans.append(" ".join(str(row[-1]) for row in cursor.fetchall()))

    *of_jobs, of_results = plans
    assert len(of_jobs) >= 4
    assert all("django_jobs_ended" in plan for plan in of_jobs), plans
    assert "django_jobs_result_expires" in of_results
    assert not any("Sort" in plan or "B-TREE" in plan for plan in plans), plans


def test_the_traces_of_queues_are_kept_as_long_as_failed_jobs(settings):
    for days in (91, 89):
        event = QueueEvent.objects.create(queue="mail", kind=QueueEvent.Kind.PAUSED, message=str(days))
        QueueEvent.objects.filter(pk=event.pk).update(at=ago(days))

    Retention().run_once()

    assert QueueEvent.objects.get().message == "89"
    settings.DJANGO_JOBS = {"FAILED_RETENTION_DAYS": None}
    QueueEvent.objects.update(at=ago(9999))
    Retention().run_once()
    assert QueueEvent.objects.exists()


def test_the_rules_are_told_in_words(settings):
    assert str(Rules.of_settings()) == ("finished and canceled jobs are kept 7 days, failed ones 90 days")
    settings.DJANGO_JOBS = {
        "RETENTION_DAYS": 0.5,
        "FAILED_RETENTION_DAYS": None,
        "QUEUE_RETENTION_DAYS": {"mail": 1},
        "TASK_RETENTION_DAYS": {"shop.pay": 3650},
    }
    assert str(Rules.of_settings()) == (
        "finished and canceled jobs are kept 0.5 days, failed ones for ever; "
        "those of queue mail 1 day; those of task shop.pay 3650 days"
    )


@pytest.mark.django_db(transaction=True)
def test_a_result_is_cleared_when_its_time_is_over_and_the_row_stays(valkey):
    short, long, for_ever = (
        tasks.add.using(keep_result_for=seconds).enqueue(1, 2) for seconds in (0.05, 600, None)
    )
    for job in (short, long, for_ever):
        execute(job)
    time.sleep(0.06)

    assert Retention().expire_results() == 1

    assert [fresh(job).result for job in (short, long, for_ever)] == [None, 3, 3]
    assert fresh(short).status == FINISHED
    with pytest.raises(ResultExpired):
        get_task_result(short.pk)


def test_results_are_cleared_a_page_at_a_time_and_read_once(monkeypatch):
    monkeypatch.setattr(retention, "LONGEST_PASS_SECONDS", 0)
    make_many(1_200, 1, status=FINISHED, result=[1], result_expires_at=timezone.now())
    keeping = Retention()

    told = [keeping.expire_results() for _ in range(4)]

    assert told == [500, 500, 200, 0]
    assert not Job.objects.filter(result__isnull=False).exists()


def test_a_result_whose_report_was_slow_is_cleared_after_those_that_came_later(job_factory):
    now, keeping = timezone.now(), Retention()
    job_factory(status=FINISHED, result=1, result_expires_at=now - timedelta(seconds=1))
    keeping.expire_results()
    job_factory(status=FINISHED, result=1, result_expires_at=now - timedelta(seconds=2))

    assert keeping.expire_results() == 1


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite locks no rows.")
@pytest.mark.django_db(transaction=True)
def test_a_result_whose_row_is_locked_waits_and_keeps_no_other(job_factory):
    values = {"status": FINISHED, "result": 1, "result_expires_at": timezone.now()}
    (busy, free), keeping = (job_factory(**values), job_factory(**values)), Retention()

    with locked(Job.objects.filter(pk=busy.pk)):
        assert keeping.expire_results() == 1
        assert [fresh(job).result for job in (busy, free)] == [1, None]

    assert keeping.expire_results() == 1


# manage.py jobs_prune


def prune(capsys, *arguments):
    call_command("jobs_prune", *arguments)
    return capsys.readouterr().out


def test_the_command_deletes_what_retention_would(ended, settings, capsys):
    settings.DJANGO_JOBS = {"QUEUE_RETENTION_DAYS": {"archive": None}}
    gone = [ended(8), ended(8, CANCELED), ended(91, FAILED)]
    kept = [ended(6), ended(89, FAILED), ended(1000, queue="archive")]

    assert prune(capsys) == "3 jobs deleted: 1 canceled, 1 failed, 1 finished.\n"

    assert not any(is_there(job) for job in gone)
    assert all(is_there(job) for job in kept)
    assert prune(capsys) == "0 jobs deleted.\n"


@pytest.mark.parametrize("age", ["3d", "72h", (timezone.now() - timedelta(days=3)).isoformat()])
def test_older_than_wins_over_the_settings(ended, settings, capsys, age):
    settings.DJANGO_JOBS = {"RETENTION_DAYS": None}
    gone, kept = ended(3.1), ended(2.9)

    assert prune(capsys, "--older-than", age) == "1 job deleted: 1 finished.\n"

    assert (is_there(gone), is_there(kept)) == (False, True)


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        (["--status", "failed"], ["add mail finished", "add mail canceled", "pay file_processing finished"]),
        (
            ["--status", "failed", "--status", "canceled"],
            ["add mail finished", "pay file_processing finished"],
        ),
        (["--queue", "file_processing"], ["add mail finished", "add mail canceled"]),
        (["--task", "shop.pay", "--status", "finished"], ["add mail finished", "add mail canceled", FAILED]),
    ],
)
def test_filters_restrict_what_is_deleted(ended, capsys, settings, filters, left):
    settings.RQ_QUEUES = {**settings.RQ_QUEUES, "mail": settings.RQ_QUEUES["file_processing"]}
    ended(3, task="shop.add", queue="mail")
    ended(3, CANCELED, task="shop.add", queue="mail")
    ended(3, task="shop.pay")
    ended(3, FAILED, task="shop.pay")

    prune(capsys, "--older-than", "1d", *filters)

    there = [
        f"{job.task.removeprefix('shop.')} {job.queue} {job.status}" for job in Job.objects.order_by("id")
    ]
    assert there == [each if each != FAILED else "pay file_processing failed" for each in left]


def test_a_dry_run_counts_and_deletes_nothing(ended, capsys):
    jobs = [ended(8) for _ in range(5)]

    told = prune(capsys, "--dry-run", "--batch-size", "2")

    assert told == "5 jobs would be deleted: 5 finished.\n"
    assert all(is_there(job) for job in jobs)


def test_the_command_tells_programs_in_json(ended, capsys):
    ended(8)
    ended(91, FAILED)

    assert json.loads(prune(capsys, "--json")) == {
        "dry_run": False,
        "pruned": {"canceled": 0, "failed": 1, "finished": 1},
    }


def test_the_command_deletes_in_transactions_of_the_batch_size(ended, capsys):
    for number in range(5):
        ended(8 + number)

    with CaptureQueriesContext(connection) as queries:
        prune(capsys, "--batch-size", "2")

    deletions = [
        query["sql"] for query in queries if query["sql"].startswith('DELETE FROM "django_jobs_job" ')
    ]
    assert len(deletions) == 3


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--older-than", "3 days"], '--older-than is "3 days"; allowed are a duration such as 90m'),
        (["--older-than", ""], "--older-than is empty"),
        (["--queue", ""], "--queue is empty"),
        (["--queue", "file_procesing"], 'did you mean "file_processing"'),
        (["--task", "tests.tasks.ad"], "Unknown task"),
        (["--status", "queued"], "invalid choice"),
        (["--batch-size", "0"], "allowed is a whole number from 1 to 5000"),
    ],
)
def test_the_command_refuses_what_it_does_not_understand(ended, arguments, problem):
    job = ended(1000)

    with pytest.raises(CommandError, match=f"(?i){problem}"):
        call_command("jobs_prune", *arguments)

    assert is_there(job)


def test_what_control_deletes_and_what_retention_deletes_leave_the_same_totals(valkey, ended):
    job = ended(8, queue="mail")
    tally({("mail", FINISHED): 1})
    control.delete(job)

    Retention().run_once()

    assert totals().get(("mail", FINISHED), 0) == 0
