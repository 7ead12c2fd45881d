"""Enqueueing: the row, its delivery at commit, and what is refused."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import django_rq
import pytest
from django.contrib.auth.models import User
from django.core.exceptions import SynchronousOnlyOperation
from django.core.handlers.base import BaseHandler
from django.db import connection, transaction
from django.utils import timezone
from uuid6 import uuid7

from django_jobs import Retry, enqueue, enqueue_at, enqueue_in, enqueue_many, relay, task
from django_jobs.exceptions import TaskNotAllowed, TaskNotFound, UnknownEngine, UnknownQueue
from django_jobs.models import Job
from django_jobs.models.workers import installation_id
from django_jobs.signals import job_enqueued
from django_jobs.states import QUEUED, SCHEDULED
from tests import tasks
from tests.conftest import Stopwatch, everything_in, fresh

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


def test_nested_blocks_wait_for_the_outermost_commit(valkey, queued_ids):
    with transaction.atomic():
        with transaction.atomic(), transaction.atomic():
            job = tasks.add.enqueue(1)
        assert valkey.keys() == []

    assert queued_ids("file_processing") == [f"{job.pk.hex}-1-0"]


def test_a_block_that_swallows_the_error_of_an_inner_one_keeps_its_own_jobs(queued_ids):
    with transaction.atomic():
        with pytest.raises(LookupError), transaction.atomic():
            with transaction.atomic():
                tasks.add.enqueue(1)
            raise LookupError
        kept = tasks.add.enqueue(2)

    assert Job.objects.get() == kept
    assert queued_ids("file_processing") == [f"{kept.pk.hex}-1-0"]


def test_a_request_whose_view_raises_enqueues_nothing(monkeypatch, valkey, queued_ids):
    def view(fails):
        tasks.add.enqueue(1)
        assert valkey.keys() == []
        if fails:
            raise LookupError

    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    in_a_transaction = BaseHandler().make_view_atomic(view)
    with pytest.raises(LookupError):
        in_a_transaction(fails=True)
    assert not Job.objects.exists()

    in_a_transaction(fails=False)

    assert queued_ids("file_processing") == [f"{Job.objects.get().pk.hex}-1-0"]


def test_a_job_enqueued_outside_a_transaction_is_delivered_at_once(valkey, queued_ids):
    job = tasks.add.enqueue(1)

    assert queued_ids("file_processing") == [f"{job.pk.hex}-1-0"]


def test_redis_holds_ids_and_no_arguments(valkey):
    job = tasks.add.using(subject=SECRET, meta={"of": SECRET}, tags=[SECRET]).enqueue(SECRET, right=SECRET)

    [key] = valkey.keys("rq:job:*")
    function, instance, args, kwargs = json.loads(valkey.hget(key, "data"))
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
        description="Imports a file",
        keep_result_for=timedelta(hours=1.5),
        unique="file:42",
        at_front=True,
    ).enqueue("why")

    row = fresh(job)
    assert (row.task, row.args, row.kwargs) == ("tests.tasks.fail", ["why"], {})
    assert (row.engine, row.queue, row.owner) == ("rq", "vectorization", owner)
    assert (row.max_attempts, row.retry_intervals, row.timeout_seconds) == (4, [10, 60], 120)
    assert row.idempotent is True
    assert (row.subject, row.tags) == ("file:42", ["import", "night"])
    assert row.meta == {"source": {"name": "é", "size": 1.5}}
    assert (row.description, row.keep_result_seconds) == ("Imports a file", 5400)
    assert (row.unique_key, row.at_front) == ("file:42", True)
    assert (row.attempt, row.delivery, row.losses) == (1, 0, 0)


def test_a_job_has_the_time_limit_of_its_task_of_its_queue_or_none(settings, valkey):
    settings.RQ_QUEUES["file_processing"]["DEFAULT_TIMEOUT"] = "5m"

    assert tasks.outlast_its_time.enqueue().timeout_seconds == 1
    assert tasks.add.enqueue(1).timeout_seconds == 300
    assert tasks.add.using(timeout=-1).enqueue(1).timeout_seconds is None


def test_how_retries_are_spaced_is_stored(valkey):
    retry = Retry(max=4, interval=10, backoff=2, max_interval=60, jitter=0.25)

    row = fresh(tasks.fail.using(retry=retry).enqueue())

    assert (row.max_attempts, row.retry_intervals, row.retry_jitter) == (5, [10, 20, 40, 60], 0.25)


NASTY = [
    'it\'s "quoted" \\ %s %(x)s {x} $1 ? :x -- ; /*',
    "ä\u2028😀\u202e\x01\x7f\n\t",
    "",
    "null",
    '{"a": 1}',
    "x" * 100_000,
]
NUMBERS = [0, -1, 2**31, 2**63, -(2**70), 10**300, 0.1, 1 / 3, 1e-7, 5e-324, 0.1 + 0.2]
NESTED = [None, True, False, [], {}, [[], [{}, [None]]], {"": {"%s": [None, {"'": 1}]}}]


def as_the_orm_would(job):
    """The row that Job.objects.create() makes of what a job in memory says."""
    own = ("created_at", "queued_at")
    names = [field.attname for field in Job._meta.concrete_fields if field.attname not in own]
    values = {name: getattr(job, name) for name in names}
    return Job.objects.create(**values | {"id": uuid7(), "unique_key": None})


def stored(job):
    """The columns of a row as the database has them, without those in which two jobs differ."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT * FROM {Job._meta.db_table} WHERE id = %s",
            [Job._meta.pk.get_db_prep_value(job.pk, connection)],
        )
        [row] = cursor.fetchall()
        columns = dict(zip([column[0] for column in cursor.description], row, strict=True))
    for name in ("id", "created_at", "queued_at", "unique_key"):
        del columns[name]
    return columns


@pytest.mark.parametrize("value", [*NASTY, *NUMBERS, *NESTED], ids=lambda value: repr(value)[:20])
def test_a_row_is_what_the_orm_would_write(valkey, value):
    job = tasks.echo.using(meta={"of": value}).enqueue(value, more=[value])

    assert (fresh(job).args, fresh(job).kwargs, fresh(job).meta) == (
        [value],
        {"more": [value]},
        {"of": value},
    )
    assert stored(job) == stored(as_the_orm_would(job))


@pytest.mark.parametrize("text", [text[:255] for text in NASTY if text], ids=lambda text: repr(text)[:20])
def test_texts_are_stored_as_they_are(valkey, text):
    told = {"subject": text, "description": text, "unique": text, "tags": [text]}

    row = fresh(tasks.add.using(**told).enqueue(1))

    assert [row.subject, row.description, row.unique_key, *row.tags] == [text] * 4
    assert stored(row) == stored(as_the_orm_would(row))


@pytest.mark.parametrize(
    "options",
    [
        {"delay": 0.25},
        {"at": datetime(2100, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)},
        {"at": datetime(9998, 12, 31, 23, 59, 59, tzinfo=timezone.get_fixed_timezone(-720))},
        {"keep_result_for": 0.1 + 0.2},
        {"keep_result_for": 0, "timeout": -1},
        {"timeout": 999_999_999, "idempotent": True, "at_front": True},
        {"retry": Retry(max=1_000_000, interval=[0.1, 1 / 3, timedelta(microseconds=1)], jitter=1 / 3)},
        {"tags": {"one"}},
    ],
    ids=repr,
)
def test_options_are_stored_as_the_orm_would(valkey, options):
    job = tasks.add.using(**options).enqueue(1)

    assert stored(job) == stored(as_the_orm_would(job))


def test_rows_are_found_by_their_tags_and_arguments(valkey):
    job = tasks.echo.using(tags=["import", "night"], meta={"a": [1, 2]}).enqueue("é", [1, 2], more=None)

    assert Job.objects.get(tags=["import", "night"]) == job
    assert Job.objects.get(args=["é", [1, 2]], kwargs={"more": None}) == job
    assert Job.objects.get(meta={"a": [1, 2]}, meta__a=[1, 2]) == job


def test_the_job_in_memory_is_as_its_row(valkey):
    job = tasks.add.using(subject="file:42", delay=60).enqueue(1, right=2)

    row = fresh(job)
    for field in Job._meta.concrete_fields:
        assert getattr(job, field.attname) == getattr(row, field.attname), field.attname


def test_times_are_the_databases(valkey):
    job = fresh(tasks.add.enqueue(1))

    assert abs(job.created_at - timezone.now()) < timedelta(minutes=1)
    assert abs(job.queued_at - timezone.now()) < timedelta(minutes=1)
    assert job.started_at is None


def test_a_delayed_job_is_scheduled_and_not_delivered(valkey):
    job = tasks.add.using(delay=timedelta(minutes=5)).enqueue(1)

    assert job.status == SCHEDULED
    assert timedelta(seconds=240) < job.scheduled_for - timezone.now() <= timedelta(seconds=300)
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


@pytest.mark.parametrize("delay", [300, 300.0, timedelta(minutes=5)])
def test_enqueue_in_is_not_before_a_delay_has_passed(valkey, delay):
    job = enqueue_in(delay, tasks.add, 1, right=2)

    assert timedelta(seconds=240) < fresh(job).scheduled_for - timezone.now() <= timedelta(seconds=300)
    assert (fresh(job).status, job.args, job.kwargs) == (SCHEDULED, [1], {"right": 2})
    assert valkey.keys() == []


def test_enqueue_at_is_not_before_a_moment(valkey):
    at = timezone.now() + timedelta(hours=1)

    job = enqueue_at(at, tasks.add, 1)

    assert (fresh(job).status, fresh(job).scheduled_for, fresh(job).queued_at) == (SCHEDULED, at, None)
    assert valkey.keys() == []


def test_what_is_for_a_moment_that_has_passed_is_queued_at_once(queued_ids):
    ago = timezone.now() - timedelta(days=1)

    jobs = [enqueue_at(ago, tasks.add, 1), tasks.add.using(at=ago).enqueue(2), enqueue_in(0, tasks.add, 3)]

    assert [(fresh(job).status, fresh(job).scheduled_for) for job in jobs] == [(QUEUED, None)] * 3
    assert queued_ids("file_processing") == [f"{job.pk.hex}-1-0" for job in jobs]


def test_what_a_task_says_of_its_time_is_overridden(valkey):
    later = tasks.add.using(delay=60)
    at = timezone.now() + timedelta(hours=1)

    assert fresh(enqueue_at(at, later, 1)).scheduled_for == at
    assert enqueue_in(0, tasks.add.using(at=at), 1).status == QUEUED


@pytest.mark.parametrize(
    ("way", "error", "problem"),
    [
        (lambda: enqueue_in(-1, tasks.add, 1), ValueError, "delay=-1: from 0 seconds"),
        (lambda: enqueue_in(timedelta(days=-1), tasks.add, 1), ValueError, "delay=.*: from 0 seconds"),
        (lambda: enqueue_in(tasks.add, 5), TypeError, "5 is a int, not a function"),
        (lambda: enqueue_in(None, tasks.add, 1), TypeError, "None.*give seconds or a timedelta"),
        (lambda: enqueue_at(datetime(2100, 1, 1), tasks.add, 1), ValueError, "has no time zone"),  # noqa: DTZ001
        (lambda: enqueue_at(5, tasks.add, 1), TypeError, "at=5 is of type int; give a datetime"),
        (lambda: enqueue_at(None, tasks.add, 1), TypeError, "None.*give a datetime"),
    ],
)
def test_a_time_that_cannot_be_meant_is_refused(valkey, way, error, problem):
    with pytest.raises(error, match=problem):
        way()

    assert not Job.objects.exists()


def test_a_function_may_have_an_argument_of_any_name(valkey):
    job = enqueue_in(60, tasks.echo, delay=1, function="f", at="x")

    assert job.kwargs == {"delay": 1, "function": "f", "at": "x"}


def test_a_delay_counts_by_the_databases_clock(valkey, monkeypatch):
    monkeypatch.setattr(timezone, "now", lambda: datetime(2000, 1, 1, tzinfo=UTC))  # This machine's is wrong.

    job = tasks.add.using(delay=60).enqueue(1)

    monkeypatch.undo()
    assert timedelta(0) < job.scheduled_for - timezone.now() <= timedelta(seconds=60)


def test_at_front_goes_before_what_waits_and_stays_so_after_the_server_was_emptied(valkey, queued_ids):
    first, second = tasks.add.enqueue(1), tasks.add.enqueue(2)
    urgent = tasks.add.using(at_front=True).enqueue(3)
    most_urgent = tasks.add.using(at_front=True).enqueue(4)
    order = [f"{job.pk.hex}-1-0" for job in (most_urgent, urgent, first, second)]
    assert queued_ids("file_processing") == order

    valkey.flushall()
    relay.run_once()

    assert queued_ids("file_processing") == order


def test_a_delayed_job_at_front_goes_to_the_front_when_it_is_due(queued_ids):
    urgent = tasks.add.using(at_front=True, delay=60).enqueue(1)
    waiting = tasks.add.enqueue(2)
    Job.objects.filter(pk=urgent.pk).update(scheduled_for=timezone.now() - timedelta(seconds=1))

    relay.run_once()

    assert queued_ids("file_processing") == [f"{job.pk.hex}-1-0" for job in (urgent, waiting)]


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


def test_arguments_may_be_as_large_as_allowed_and_no_larger(settings, valkey):
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "MAX_ARGUMENTS_BYTES": len('[["é"], {}]'.encode())}

    tasks.add.enqueue("é")
    with pytest.raises(
        ValueError,
        match=r"The arguments of tests\.tasks\.add are 13 bytes of JSON; at most 12 are stored\. "
        r'Store them elsewhere .* raise DJANGO_JOBS\["MAX_ARGUMENTS_BYTES"\]',
    ):
        tasks.add.enqueue("éx")

    assert Job.objects.count() == 1


def test_arguments_of_a_million_bytes_are_refused_unless_allowed(valkey):
    tasks.add.enqueue("x" * 999_000)

    with pytest.raises(ValueError, match="at most 1,000,000 are stored"):
        tasks.add.enqueue(["x" * 999_000, "y" * 1000])


@pytest.mark.parametrize(
    "way",
    [
        lambda: tasks.add.enqueue(1),
        lambda: tasks.add.using(delay=1).enqueue(1),
        lambda: tasks.add.using(unique="a").enqueue(1),
        lambda: enqueue(tasks.add, 1),
        lambda: enqueue_many(tasks.add.call(number) for number in range(2)),
    ],
)
def test_enqueueing_inside_an_event_loop_tells_what_to_await(valkey, way):
    async def view():
        way()

    with pytest.raises(SynchronousOnlyOperation, match=r"`await task\.aenqueue\(…\)`"):
        asyncio.run(view())

    assert not Job.objects.exists()


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


def test_a_task_is_enqueued_by_its_name_with_its_own_options(valkey):
    job = enqueue("tests.tasks.fail_until", "path", successes_from=2)

    assert (job.task, job.queue, job.max_attempts) == ("tests.tasks.fail_until", "file_processing", 3)


def test_a_task_is_enqueued_by_the_name_it_was_given_and_by_its_path(valkey):
    jobs = [enqueue(name, 1) for name in (tasks.named_otherwise.name, "tests.tasks.named_otherwise")]

    assert [(job.task, job.queue) for job in jobs] == [
        ("tests.tasks.name_before_it_was_changed", "file_processing")
    ] * 2


def test_an_undeclared_function_is_enqueued_by_its_name(default_queue):
    job = enqueue("tests.tasks.undeclared", 7)

    assert (job.task, job.queue) == ("tests.tasks.undeclared", "default")


@pytest.mark.parametrize("way", [enqueue, lambda name: enqueue_in(1, name)])
def test_the_name_of_no_task_is_refused_with_the_one_that_was_meant(valkey, way):
    with pytest.raises(TaskNotFound, match=r'Did you mean "tests\.tasks\.return_a_set"\?'):
        way("tests.tasks.return_a_sett")

    assert not Job.objects.exists()


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

    with Stopwatch() as watch_of_first:
        first = tasks.add.enqueue(1)
    with Stopwatch() as watch_of_following:
        following = [tasks.add.enqueue(number) for number in range(10)]

    assert watch_of_first.seconds < 2
    assert watch_of_following.seconds < 0.7
    assert Job.objects.queued().filter(delivered_at=None).count() == len([first, *following])


def test_a_server_that_is_away_is_named_in_the_log_without_its_password(settings, valkey, caplog):
    settings.RQ_QUEUES = {"file_processing": {"URL": "redis://:the-secret@127.0.0.1:1/3"}}

    tasks.add.enqueue(1)

    assert "1 job waits in the database until the server of the queue answers" in caplog.text
    assert "redis://:***@127.0.0.1:1/3" in caplog.text
    assert "the-secret" not in caplog.text
    assert "What to do, jobs_doctor tells." in caplog.text
