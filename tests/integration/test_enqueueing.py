"""Enqueueing: the row, its delivery at commit, and what is refused."""

import json
import time
import zlib
from datetime import UTC, datetime, timedelta

import django_rq
import pytest
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone
from uuid6 import uuid7

from django_jobs import Retry, enqueue, task
from django_jobs.exceptions import TaskNotAllowed, UnknownEngine, UnknownQueue
from django_jobs.models import Job
from django_jobs.models.workers import installation_id
from django_jobs.signals import job_enqueued
from django_jobs.states import QUEUED, SCHEDULED
from tests import tasks
from tests.conftest import everything_in, fresh

pytestmark = pytest.mark.django_db(transaction=True)

SECRET = "the-argument"


@pytest.fixture
def default_queue(settings, valkey):
    queue = settings.RQ_QUEUES["file_processing"]
    settings.RQ_QUEUES = {**settings.RQ_QUEUES, "default": {**queue, "DEFAULT_TIMEOUT": 30}}


@pytest.fixture
def unreachable(settings, valkey):
    """Nothing listens where the queues should be."""
    settings.RQ_QUEUES = {name: {"URL": "redis://127.0.0.1:1/0"} for name in settings.RQ_QUEUES}


def test_the_row_is_written_in_the_callers_transaction_and_delivered_when_it_commits(valkey, queued_ids):
    with transaction.atomic():
        job = tasks.add.enqueue(1, right=2)

        assert fresh(job).status == QUEUED
        assert valkey.keys() == []

    assert queued_ids("file_processing") == [f"{job.pk.hex}-1-0"]
    assert fresh(job).delivered_at is None  # The loop notes it, if it does not start before.


def test_a_rollback_leaves_neither_row_nor_delivery(valkey):
    with pytest.raises(LookupError), transaction.atomic():
        tasks.add.enqueue(1)
        raise LookupError

    assert not Job.objects.exists()
    assert valkey.keys() == []


def test_a_savepoint_rolled_back_takes_only_its_own_jobs_along(valkey, queued_ids):
    with transaction.atomic():
        kept = tasks.add.enqueue(1)
        with pytest.raises(LookupError), transaction.atomic():
            tasks.add.enqueue(2)
            raise LookupError

    assert Job.objects.get() == kept
    assert queued_ids("file_processing") == [f"{kept.pk.hex}-1-0"]


def test_a_job_enqueued_outside_a_transaction_is_delivered_at_once(valkey, queued_ids):
    job = tasks.add.enqueue(1)

    assert queued_ids("file_processing") == [f"{job.pk.hex}-1-0"]


def test_redis_holds_ids_and_no_arguments(valkey):
    job = tasks.add.using(subject=SECRET, meta={"of": SECRET}, tags=[SECRET]).enqueue(SECRET, right=SECRET)

    [key] = valkey.keys("rq:job:*")
    function, instance, args, kwargs = json.loads(zlib.decompress(valkey.hget(key, "data")))
    assert function == "django_jobs.engines.rq.trampoline.run"
    assert (instance, args, kwargs) == (None, [f"{job.pk.hex}-1-0", str(installation_id())], {})
    assert SECRET not in everything_in(valkey)


def test_what_everything_in_redis_tells_would_show_a_plain_jobs_arguments(valkey):
    queue = django_rq.get_queue("file_processing", serializer="rq.serializers.JSONSerializer")

    queue.enqueue("tests.tasks.undeclared", SECRET)

    assert SECRET in everything_in(valkey)


def test_a_delivery_carries_the_jobs_time_limit_and_call_without_arguments(valkey):
    tasks.add.using(timeout=77).enqueue(SECRET)

    [key] = valkey.keys("rq:job:*")
    assert valkey.hget(key, "timeout") == b"77"
    assert valkey.hget(key, "description") == b"tests.tasks.add(\xe2\x80\xa6) attempt 1"


def test_options_are_stored(valkey):
    owner = User.objects.create_user("ada")

    job = tasks.fail.using(
        queue="vectorization",
        retry=Retry(max=3, interval=[10, 60]),
        timeout=timedelta(minutes=2),
        idempotent=True,
        owner=owner,
        subject="file:42",
        tags=["import", "night"],
        meta={"source": {"name": "é", "size": 1.5}},
    ).enqueue("why")

    row = fresh(job)
    assert (row.task, row.args, row.kwargs) == ("tests.tasks.fail", ["why"], {})
    assert (row.engine, row.queue, row.owner) == ("rq", "vectorization", owner)
    assert (row.max_attempts, row.retry_intervals, row.timeout_seconds) == (4, [10, 60], 120)
    assert row.idempotent is True
    assert (row.subject, row.tags) == ("file:42", ["import", "night"])
    assert row.meta == {"source": {"name": "é", "size": 1.5}}
    assert (row.attempt, row.delivery, row.losses) == (1, 0, 0)


def test_a_job_has_the_time_limit_of_its_task_of_its_queue_or_none(settings, valkey):
    settings.RQ_QUEUES["file_processing"]["DEFAULT_TIMEOUT"] = "5m"

    assert tasks.outlast_its_time.enqueue().timeout_seconds == 1
    assert tasks.add.enqueue(1).timeout_seconds == 300
    assert tasks.add.using(timeout=-1).enqueue(1).timeout_seconds is None


def test_times_are_the_databases(valkey):
    job = fresh(tasks.add.enqueue(1))

    assert abs(job.created_at - timezone.now()) < timedelta(seconds=5)
    assert abs(job.queued_at - timezone.now()) < timedelta(seconds=5)
    assert job.started_at is None


def test_a_delayed_job_is_scheduled_and_not_delivered(valkey):
    job = tasks.add.using(delay=timedelta(minutes=5)).enqueue(1)

    assert job.status == SCHEDULED
    assert timedelta(seconds=295) < job.scheduled_for - timezone.now() <= timedelta(seconds=300)
    assert fresh(job).queued_at is None
    assert valkey.keys() == []


def test_no_delay_is_no_delay(valkey):
    assert tasks.add.using(delay=0).enqueue(1).status == QUEUED


def test_a_job_can_be_scheduled_for_a_moment_in_any_time_zone(valkey):
    at = datetime(2100, 1, 2, 3, 4, 5, tzinfo=UTC).astimezone(timezone.get_fixed_timezone(90))

    job = tasks.add.using(at=at).enqueue(1)

    assert job.status == SCHEDULED
    assert fresh(job).scheduled_for == at
    assert valkey.keys() == []


def test_arguments_come_back_as_they_were(valkey):
    values = [None, True, 0, -1, 2**60, 1.25, "", "ä\u2028😀", [], [[1], {}], {"a": {"b": [None]}}]

    job = tasks.echo.enqueue(*values, more=values)

    assert fresh(job).args == values
    assert fresh(job).kwargs == {"more": values}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({1}, "is a value of type set, which is not JSON"),
        (b"x", "is a value of type bytes, which is not JSON"),
        (datetime(2024, 1, 1, tzinfo=UTC), "is a value of type datetime, which is not JSON"),
        (uuid7(), "is a value of type UUID, which is not JSON"),
        (float("nan"), "is nan, which is not JSON"),
        ({"a": [1, object]}, r"contains at \['a'\]\[1\] a value of type type, which is not JSON"),
        ({1: 2}, "is a dict with the key 1; JSON has only text as keys"),
        ("a\0b", "is text with a NUL character"),
        ("\ud800", "is text with .* half a surrogate pair"),
        (10**5000, "is a number"),
    ],
    ids=["set", "bytes", "datetime", "UUID", "nan", "inside", "key", "NUL", "surrogate", "digits"],
)
def test_an_argument_that_is_not_json_is_refused_by_name_and_type(valkey, value, problem):
    with pytest.raises(TypeError, match=f'Argument "right" of tests.tasks.add {problem}'):
        tasks.add.enqueue(1, right=value)

    assert not Job.objects.exists()


def test_a_model_instance_as_argument_is_refused_by_its_class(valkey):
    with pytest.raises(
        TypeError, match=r'Argument "left" of tests\.tasks\.add is a value of type User, .* give an id'
    ):
        tasks.add.enqueue(User.objects.create_user("ada"))


@pytest.mark.parametrize("arguments", [((), {}), ((1, 2, 3), {}), ((1,), {"wrong": 1})])
def test_a_call_the_function_does_not_take_is_refused(valkey, arguments):
    args, kwargs = arguments

    with pytest.raises(TypeError, match=r"tests\.tasks\.add cannot be called so: "):
        tasks.add.enqueue(*args, **kwargs)

    assert not Job.objects.exists()


def test_an_unknown_queue_is_refused_with_the_one_that_was_meant(valkey):
    with pytest.raises(UnknownQueue, match=r'Unknown queue "vectorisation"\. Did you mean "vectorization"\?'):
        tasks.add.using(queue="vectorisation").enqueue(1)

    assert not Job.objects.exists()


def test_an_unknown_queue_like_no_other_is_refused_with_all_there_are(valkey):
    with pytest.raises(UnknownQueue, match="Declared are: file_processing, vectorization, kg_extraction"):
        tasks.add.using(queue="x").enqueue(1)


def test_an_unknown_engine_is_refused(valkey):
    with pytest.raises(UnknownEngine, match=r'Unknown engine "rqq"; did you mean "rq"\?'):
        tasks.add.using(engine="rqq").enqueue(1)


def test_an_undeclared_function_that_is_allowed_is_enqueued_on_the_default_queue(default_queue, queued_ids):
    job = enqueue(tasks.undeclared, 7)

    assert (job.task, job.args, job.queue) == ("tests.tasks.undeclared", [7], "default")
    assert (job.timeout_seconds, job.max_attempts, job.idempotent) == (30, 1, False)
    assert queued_ids("default") == [f"{job.pk.hex}-1-0"]


def test_enqueue_of_a_task_is_what_the_task_says(valkey):
    job = enqueue(tasks.fail_until, "path", successes_from=2)

    assert (job.queue, job.max_attempts) == ("file_processing", 3)
    assert (job.args, job.kwargs) == (["path"], {"successes_from": 2})


def test_options_of_an_undeclared_function_are_given_through_task(valkey, forget_declared):
    job = task(tasks.undeclared).using(queue="vectorization").enqueue(7)

    assert (job.task, job.queue) == ("tests.tasks.undeclared", "vectorization")


def test_an_argument_named_like_an_option_is_the_functions_own(valkey):
    job = tasks.echo.enqueue(queue="x", delay=3)

    assert (job.queue, job.status, job.kwargs) == ("file_processing", QUEUED, {"queue": "x", "delay": 3})


def test_a_function_that_may_not_run_is_refused_and_the_way_out_named(default_queue):
    with pytest.raises(
        TaskNotAllowed, match=r'json\.dumps may not run as a job.*"json\.dumps" to DJANGO_JOBS'
    ):
        enqueue(json.dumps, 1)

    assert not Job.objects.exists()


def test_a_builtin_that_does_not_tell_its_arguments_is_refused_and_the_way_out_named(settings, default_queue):
    settings.DJANGO_JOBS = {"ALLOWED_TASKS": ["builtins.max"]}

    with pytest.raises(TypeError, match=r"builtins\.max does not tell its arguments; call it"):
        enqueue(max, 0, 1)


def test_using_changes_the_jobs_and_not_the_task(valkey):
    other = tasks.add.using(queue="vectorization", subject="file:1").using(subject="file:2")

    assert (other.enqueue(1).queue, other.enqueue(1).subject) == ("vectorization", "file:2")
    assert (tasks.add.enqueue(1).queue, tasks.add.enqueue(1).subject) == ("file_processing", "")


def test_calling_a_task_calls_its_function_and_enqueues_nothing(valkey):
    assert tasks.add(2, right=3) == 5
    assert not Job.objects.exists()


def test_receivers_are_told_of_a_job_and_cannot_break_it(queued_ids):
    told = []

    def note(job, **kwargs):
        told.append(job)
        raise RuntimeError

    job_enqueued.connect(note)
    job = tasks.add.enqueue(1)
    job_enqueued.disconnect(note)

    assert told == [job]
    assert queued_ids("file_processing") == [f"{job.pk.hex}-1-0"]


def test_without_redis_the_row_waits_and_the_request_is_not_hurt(unreachable):
    with transaction.atomic():
        job = tasks.add.enqueue(1)

    assert (fresh(job).status, fresh(job).delivered_at) == (QUEUED, None)


def test_a_frozen_redis_costs_one_request_a_second_and_the_following_ones_nothing(freeze):
    freeze()

    began = time.monotonic()
    first = tasks.add.enqueue(1)
    first_seconds = time.monotonic() - began
    following = [tasks.add.enqueue(number) for number in range(10)]
    following_seconds = time.monotonic() - began - first_seconds

    assert first_seconds < 2
    assert following_seconds < 0.7
    assert Job.objects.queued().filter(delivered_at=None).count() == len([first, *following])


def test_a_server_that_is_away_is_named_in_the_log_without_its_password(settings, valkey, caplog):
    settings.RQ_QUEUES = {"file_processing": {"URL": "redis://:the-secret@127.0.0.1:1/3"}}

    tasks.add.enqueue(1)

    assert "1 jobs wait in the database until their server is back" in caplog.text
    assert "redis://:***@127.0.0.1:1/3" in caplog.text
    assert "the-secret" not in caplog.text
