"""Looking: what queues, workers and jobs are told to be, and what that costs."""

from datetime import timedelta
from itertools import islice

import pytest
from django.apps import apps
from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.db.models.functions import Now
from django.template import Context, Template
from django.utils import timezone

from django_jobs import control, monitor, relay
from django_jobs.exceptions import UnknownQueue
from django_jobs.models import Job, Queue, QueueEvent, Worker, counting
from django_jobs.models import workers as worker_models
from django_jobs.models.tallies import tally
from django_jobs.states import CANCELED, DEFERRED, FAILED, FINISHED, QUEUED, SCHEDULED, STARTED
from tests import tasks
from tests.conftest import everything_in, execute, fresh, make_worker

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]


@pytest.fixture
def ended_factory(job_factory):
    """A job that has ended and is tallied, as every end is."""

    def make(status, **values):
        job = job_factory(status=status, finished_at=values.pop("finished_at", Now()), **values)
        tally({(job.queue, status): 1})
        return job

    return make


@pytest.fixture
def declare_queues(valkey_server, monkeypatch):
    def declare(*names):
        monkeypatch.setattr(settings, "RQ_QUEUES", {name: {"URL": valkey_server.url} for name in names})

    return declare


def test_the_stats_of_a_queue_tell_how_many_jobs_stand_in_each_state(job_factory, ended_factory):
    for status, number in ((QUEUED, 3), (STARTED, 2), (DEFERRED, 1), (SCHEDULED, 2)):
        for _ in range(number):
            job_factory(status=status)
    for status, number in ((FINISHED, 4), (FAILED, 2), (CANCELED, 1)):
        for _ in range(number):
            ended_factory(status)
    job_factory(queue="vectorization")
    ended_factory(FAILED, queue="vectorization")

    assert monitor.get_queue_stats("file_processing") == {
        "queue_name": "file_processing",
        "queued": 3,
        "started": 2,
        "finished": 4,
        "failed": 2,
        "deferred": 1,
        "scheduled": 2,
        "canceled": 1,
        "total": 15,
    }


def test_the_stats_of_all_queues_are_those_of_each(job_factory, ended_factory):
    job_factory()
    ended_factory(FINISHED, queue="kg_extraction")

    every = monitor.get_all_queues_stats()

    assert [stats["queue_name"] for stats in every] == ["file_processing", "vectorization", "kg_extraction"]
    assert every == [monitor.get_queue_stats(stats["queue_name"]) for stats in every]
    assert [stats["total"] for stats in every] == [1, 0, 1]


def test_what_ended_is_told_by_tallies_and_no_job_is_counted_for_it():
    tally({("file_processing", FINISHED): 12_000, ("file_processing", FAILED): 7})
    tally({("file_processing", FAILED): -2})

    stats = monitor.get_queue_stats("file_processing")

    assert (stats["finished"], stats["failed"], stats["total"]) == (12_000, 5, 12_005)


def test_what_has_not_ended_is_counted_up_to_a_bound(job_factory, monkeypatch):
    monkeypatch.setattr(counting, "MOST_COUNTED", 2)
    monkeypatch.setattr(worker_models, "MOST_COUNTED", 2)
    for status in (QUEUED, QUEUED, QUEUED, STARTED):
        job_factory(status=status)

    stats = monitor.get_queue_stats("file_processing")

    assert (stats["queued"], stats["started"]) == (2, 1)
    assert monitor.queues()[0].queued == 2
    assert monitor.get_task_queue("file_processing").count == 2


def test_a_hundred_queues_cost_one_query_more_than_one_at_most(
    declare_queues, job_factory, django_assert_num_queries
):
    declare_queues("one")
    with django_assert_num_queries(2):
        monitor.get_all_queues_stats()
    with django_assert_num_queries(5):
        monitor.queues()

    declare_queues(*(f"queue{number}" for number in range(100)))
    for number in range(0, 100, 7):
        job_factory(queue=f"queue{number}")

    with django_assert_num_queries(2):
        every = monitor.get_all_queues_stats()
    with django_assert_num_queries(6):
        figures = monitor.queues()
    assert [stats["queued"] for stats in every] == [int(number % 7 == 0) for number in range(100)]
    assert [queue.queued for queue in figures] == [stats["queued"] for stats in every]


def test_the_first_that_waits_is_told_for_each_queue(job_factory):
    now = timezone.now()
    for minutes in (1, 5, 3):
        job_factory(queued_at=now - timedelta(minutes=minutes))
    job_factory(status=STARTED, queued_at=now - timedelta(hours=1))
    job_factory(queue="vectorization", queued_at=now)

    assert {queue.name: queue.waiting_since for queue in monitor.queues()} == {
        "file_processing": now - timedelta(minutes=5),
        "vectorization": now,
        "kg_extraction": None,
    }


def test_who_paused_a_queue_is_told_as_long_as_it_is_paused(admin_user):
    control.pause("file_processing", by=admin_user)
    control.resume("file_processing")
    control.pause("file_processing")
    control.pause("vectorization", by=admin_user)
    control.pause("kg_extraction")
    control.resume("kg_extraction")

    assert {
        name: event.by
        for name, event in monitor.pauses(["file_processing", "vectorization", "kg_extraction"]).items()
    } == {
        "file_processing": None,
        "vectorization": admin_user,
    }


def test_events_of_a_queue_are_told_newest_first_without_deleted_jobs(job_factory):
    control.pause("file_processing")
    control.resume("file_processing")
    control.pause("vectorization")
    control.delete(job_factory())

    assert [event.kind for event in monitor.queue_events("file_processing")] == ["resumed", "paused"]
    assert len(monitor.queue_events("file_processing", most=1)) == 1


def test_more_queues_than_fit_in_one_statement_are_counted_too(declare_queues, job_factory):
    declare_queues(*(f"queue{number}" for number in range(600)))
    for name in ("queue0", "queue599"):
        job_factory(queue=name)

    counted = {stats["queue_name"]: stats["queued"] for stats in monitor.get_all_queues_stats()}

    assert {name for name, count in counted.items() if count} == {"queue0", "queue599"}
    assert len(counted) == 600


@pytest.mark.parametrize("rows", [1, 60])
def test_looking_costs_the_same_number_of_queries_for_few_rows_and_for_many(
    job_factory, django_assert_num_queries, rows
):
    for number in range(rows):
        worker = make_worker(name=f"w{number}", queues=["file_processing"])
        for status in (QUEUED, STARTED, FAILED):
            job_factory(status=status, worker=worker)

    with django_assert_num_queries(2):
        monitor.get_queue_stats("file_processing")
    with django_assert_num_queries(3):
        monitor.get_workers_info()
    with django_assert_num_queries(9):
        monitor.get_queue_jobs("file_processing", limit=100)
    with django_assert_num_queries(3):
        monitor.get_queue_jobs("file_processing", FAILED, limit=100)
    with django_assert_num_queries(1):
        monitor.get_all_queues()
    with django_assert_num_queries(1):
        monitor.get_task_queue("file_processing")


def test_looking_changes_nothing(transactional_db, job_factory, valkey):
    Queue.objects.create(name="vectorization", paused=True)
    tasks.add.enqueue(1)
    relay.run_once()
    execute(tasks.add.using(keep_result_for=0).enqueue(1))
    job_factory(status=STARTED, worker=make_worker(name="gone", leased_until=Now() - timedelta(minutes=1)))
    job_factory(status=SCHEDULED, scheduled_for=timezone.now())
    before = everything(), everything_in(valkey)

    for look in (monitor.get_all_queues, monitor.get_all_queues_stats, monitor.get_workers_info):
        look()
    for look in (monitor.get_task_queue, monitor.get_queue_stats, monitor.get_queue_jobs):
        look("file_processing")
    monitor.queues(), monitor.workers()

    assert (everything(), everything_in(valkey)) == before


def everything():
    models = apps.get_app_config("django_jobs").get_models()
    return {model: list(model._base_manager.order_by("pk").values()) for model in models}


def test_a_queue_is_found_by_its_name_with_or_without_a_row():
    Queue.objects.create(name="vectorization", paused=True)

    with_row, without = monitor.get_task_queue("vectorization"), monitor.get_task_queue("file_processing")

    assert (with_row.name, with_row.paused) == ("vectorization", True)
    assert (without.name, without.paused) == ("file_processing", False)
    assert [queue.name for queue in Queue.objects.all()] == ["vectorization"]


def test_all_declared_queues_are_found_in_their_order():
    Queue.objects.create(name="kg_extraction", paused=True)
    Queue.objects.create(name="of old")

    assert [(queue.name, queue.paused) for queue in monitor.get_all_queues()] == [
        ("file_processing", False),
        ("vectorization", False),
        ("kg_extraction", True),
    ]


@pytest.mark.parametrize(
    "look", [monitor.get_task_queue, monitor.get_queue_stats, monitor.get_queue_jobs, monitor.check_queue]
)
def test_a_misspelled_queue_is_told_with_the_one_that_was_meant(look):
    with pytest.raises(UnknownQueue, match=r'"file_procesing"\. Did you mean "file_processing"'):
        look("file_procesing")


def test_a_queue_that_is_declared_no_longer_is_looked_at_as_long_as_it_has_jobs(job_factory):
    job = job_factory(queue="of old", status=FAILED)

    assert monitor.get_task_queue("of old").name == "of old"
    assert [told["job_id"] for told in monitor.get_queue_jobs("of old")] == [str(job.pk)]


def test_workers_are_told_with_what_they_do_and_did(job_factory):
    busy = make_worker(
        name="busy",
        state=Worker.State.BUSY,
        queues=["file_processing", "vectorization"],
        hostname="web1",
        pid=4711,
        finished_count=3,
        failed_count=1,
        busy_seconds=2.5,
    )
    make_worker(name="gone", leased_until=Now() - timedelta(minutes=1))
    job_factory(status=FINISHED, worker=busy)
    job = job_factory(status=STARTED, worker=busy)
    row = fresh(busy)

    told = monitor.get_workers_info()

    assert told[0] == {
        "name": "busy",
        "state": "busy",
        "queues": ["file_processing", "vectorization"],
        "current_job_id": str(job.pk),
        "birth_date": row.started_at,
        "last_heartbeat": row.seen_at,
        "hostname": "web1",
        "pid": 4711,
        "successful_job_count": 3,
        "failed_job_count": 1,
        "total_working_time": 2.5,
        "alive": True,
    }
    assert [(worker["name"], worker["alive"], worker["current_job_id"]) for worker in told[1:]] == [
        ("gone", False, None)
    ]


def test_a_failed_job_is_told_with_its_error_and_who_ran_it(transactional_db):
    job = execute(tasks.fail.using(description="A try").enqueue("no such file"))
    Worker.objects.all().delete()  # As at its end; who ran the job is in the attempt.

    [told] = monitor.get_queue_jobs("file_processing")

    assert told.pop("exc_info").rstrip().endswith("ValueError: no such file")
    assert told == {
        "job_id": str(job.pk),
        "status": "failed",
        "func": "tests.tasks.fail",
        "description": "A try",
        "args": ["no such file"],
        "kwargs": {},
        "created_at": job.created_at,
        "enqueued_at": job.queued_at,
        "started_at": job.started_at,
        "ended_at": job.finished_at,
        "worker": "w1",
        "attempt": 1,
        "progress": 0,
        "progress_message": "",
        "stage": "",
    }


def test_a_job_that_runs_is_told_with_its_progress_and_its_worker(job_factory):
    job_factory(
        status=STARTED,
        kwargs={"left": 1},
        progress=40,
        progress_message="half",
        stage="reading",
        worker=make_worker(name="w7"),
        error_type="ValueError",  # Of the attempt before.
    )

    [told] = monitor.get_queue_jobs("file_processing", STARTED)

    assert (told["worker"], told["exc_info"], told["description"]) == ("w7", None, "tests.tasks.add(left=1)")
    assert (told["progress"], told["progress_message"], told["stage"]) == (40, "half", "reading")


def test_the_newest_jobs_of_a_queue_come_first_whatever_their_state(job_factory):
    jobs = [job_factory(status=status) for status in (QUEUED, FAILED, STARTED, FAILED, FINISHED)]
    job_factory(queue="vectorization")

    def ids(**asked):
        return [told["job_id"] for told in monitor.get_queue_jobs("file_processing", **asked)]

    newest = [str(job.pk) for job in reversed(jobs)]
    assert ids() == newest
    assert ids(limit=2) == newest[:2]
    assert ids(status="failed") == [newest[1], newest[3]]
    assert ids(status="failed", limit=1) == [newest[1]]
    assert ids(status="deferred") == []


@pytest.mark.parametrize("limit", [0, 101, -1, "10", 2.5, True, None])
def test_a_limit_that_is_not_allowed_is_told_with_what_is(limit):
    with pytest.raises(ValueError, match=f"limit is {limit!r}; allowed is a whole number from 1 to 100"):
        monitor.get_queue_jobs("file_processing", limit=limit)


def test_a_misspelled_status_is_told_with_the_one_that_was_meant():
    with pytest.raises(ValueError, match='Unknown status "faild"; did you mean "failed"'):
        monitor.get_queue_jobs("file_processing", "faild")


def test_pages_hold_every_job_once_and_none_that_came_later(job_factory, monkeypatch):
    monkeypatch.setattr(monitor, "PAGE", 2)
    jobs = [job_factory(status=FAILED) for _ in range(5)]
    pages = []

    for page in islice(monitor.in_pages(Job.objects.failed()), 10):
        pages.append([job.pk for job in page])
        job_factory(status=FAILED)

    assert pages == [[job.pk for job in jobs[:2]], [job.pk for job in jobs[2:4]], [jobs[4].pk]]


def test_pages_leave_out_what_was_dealt_with_by_others_meanwhile(job_factory, monkeypatch):
    monkeypatch.setattr(monitor, "PAGE", 2)
    jobs = [job_factory(status=FAILED) for _ in range(4)]
    seen = []

    for page in monitor.in_pages(Job.objects.failed(), 3):
        Job.objects.filter(pk__in=[jobs[1].pk, jobs[3].pk]).update(status=CANCELED)
        seen += [job.pk for job in page]

    assert seen == [jobs[0].pk, jobs[2].pk]


@pytest.fixture
def queue():
    return monitor.get_task_queue("file_processing")


def test_a_queue_has_its_jobs_and_counts_those_that_wait(queue, job_factory):
    jobs = [job_factory(), job_factory(status=FAILED), job_factory()]
    job_factory(queue="vectorization")

    assert list(queue.jobs) == jobs[::-1]
    assert list(queue.jobs.failed()) == [jobs[1]]
    assert queue.count == 2


def test_a_queue_that_is_not_declared_is_found_behind_one_where_many_jobs_wait(db, valkey):
    Job.objects.bulk_create(Job(task="t", queue="a") for _ in range(1_001))
    Job.objects.create(task="t", queue="b")
    Job.objects.create(task="t", queue="elsewhere", engine="other")

    assert monitor.queue_names() == [*settings.RQ_QUEUES, "a", "b"]


@pytest.mark.parametrize("function", [tasks.tell, "tests.tasks.undeclared", tasks.undeclared])
def test_a_queue_takes_calls(function):
    job = monitor.get_task_queue("vectorization").enqueue(function, "41")

    assert (fresh(job).queue, fresh(job).args, fresh(job).status) == ("vectorization", ["41"], QUEUED)


def test_a_queue_is_paused_and_resumed_with_a_trace_of_the_user(queue, admin_user):
    assert (queue.pause(by=admin_user), queue.paused) == (True, True)
    assert monitor.get_task_queue("file_processing").paused
    assert queue.pause(by=admin_user) is False

    assert (queue.resume(by=admin_user), queue.paused) == (True, False)
    assert not monitor.get_task_queue("file_processing").paused

    events = [(event.queue, event.kind, event.by) for event in QueueEvent.objects.all()]
    assert events == [("file_processing", kind, admin_user) for kind in ("paused", "resumed")]


def test_a_queue_is_emptied_of_what_waits(queue, job_factory):
    waiting, running = job_factory(), job_factory(status=STARTED)

    assert queue.empty() == 1
    assert (fresh(waiting).status, fresh(running).status) == (CANCELED, STARTED)


@pytest.mark.parametrize("verb", ["pause", "resume", "empty"])
def test_a_queue_asks_for_permission(queue, django_user_model, verb):
    with pytest.raises(PermissionDenied):
        getattr(queue, verb)(by=django_user_model.objects.create_user("eve"))


def test_a_template_does_not_steer_a_queue(queue, job_factory):
    job = job_factory()

    Template("{{ queue.empty }}{{ queue.pause }}{{ queue.resume }}").render(Context({"queue": queue}))

    assert fresh(job).status == QUEUED
    assert not QueueEvent.objects.exists()
