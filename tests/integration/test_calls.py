"""Calls by hand: enqueued with a trace, and jobs once more with other arguments."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from django_jobs import control
from django_jobs.exceptions import NotPossible, NotRequeueable, TaskNotAllowed, TaskNotFound, UnknownQueue
from django_jobs.models import Job, JobEvent
from django_jobs.states import CANCELED, FAILED, FINISHED, QUEUED, SCHEDULED, UNFINISHED
from tests import tasks
from tests.conftest import execute, fresh

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("valkey")]


@pytest.fixture
def root():
    return User.objects.create_superuser("root")


def events(job):
    return [(event.kind, event.by, event.message) for event in job.events.all()]


# enqueue


def test_a_task_is_enqueued_by_its_name_and_the_trace_names_the_user(root):
    job = control.enqueue("tests.tasks.add", [1], {"right": 2}, by=root)

    assert (fresh(job).args, fresh(job).kwargs, fresh(job).queue) == ([1], {"right": 2}, "file_processing")
    assert events(job) == [("enqueued", root, "")]
    assert execute(fresh(job)).result == 3


@pytest.mark.parametrize(
    "function", [tasks.add, "tests.tasks.add", "tests.tasks.undeclared", tasks.undeclared]
)
def test_whatever_may_run_can_be_enqueued(function):
    assert execute(fresh(control.enqueue(function, [1], queue="file_processing"))).result == 1


def test_all_options_of_a_call_can_be_given(root):
    at = timezone.now() + timedelta(hours=1)
    options = {"queue": "vectorization", "subject": "file:42", "tags": ["a"], "unique": "x", "owner": root}

    job = fresh(control.enqueue(tasks.add, [1], by=root, at=at, **options))

    assert (job.status, job.scheduled_for, job.queue, job.subject) == (
        SCHEDULED,
        at,
        "vectorization",
        "file:42",
    )
    assert (job.tags, job.unique_key, job.owner) == (["a"], "x", root)


def test_a_parameter_may_have_any_name():
    job = control.enqueue(tasks.echo, [], {"self": 1, "task": 2, "by": 3})

    assert execute(fresh(job)).result == [[], {"self": 1, "task": 2, "by": 3}]


@pytest.mark.django_db(transaction=True)
def test_it_is_delivered_when_it_commits(queued_ids):
    with transaction.atomic():
        job = control.enqueue(tasks.add, [1])
        assert queued_ids("file_processing") == []

    assert queued_ids("file_processing") == [f"{job.pk.hex}-1-0"]


def test_a_job_that_holds_the_unique_key_is_returned_and_gets_no_trace(job_factory, root):
    holder = job_factory(unique_key="file:42")

    job = control.enqueue(tasks.add, [1], by=root, unique="file:42")

    assert (job, job.deduplicated, events(holder)) == (holder, True, [])


@pytest.mark.parametrize(
    ("task", "args", "kwargs", "options", "error"),
    [
        ("os.system", ["true"], {}, {}, TaskNotAllowed),
        ("antigravity.fly", [], {}, {}, TaskNotAllowed),
        ("tests.tasks.system", [], {}, {}, TaskNotFound),
        ("add", [1], {}, {}, TaskNotAllowed),
        ("tests.tasks.add", [], {}, {}, TypeError),
        ("tests.tasks.add", [1, 2, 3], {}, {}, TypeError),
        ("tests.tasks.add", [1], {"lft": 2}, {}, TypeError),
        ("tests.tasks.add", [object()], {}, {}, TypeError),
        ("tests.tasks.add", ["a\0b"], {}, {}, TypeError),
        ("tests.tasks.add", "1", {}, {}, TypeError),
        ("tests.tasks.add", {"left": 1}, {}, {}, TypeError),
        ("tests.tasks.add", [1], [2], {}, TypeError),
        ("tests.tasks.add", [1], {2: 3}, {}, TypeError),
        ("tests.tasks.add", ["x" * 2_000_000], {}, {}, ValueError),
        ("tests.tasks.add", [1], {}, {"queue": "nowhere"}, UnknownQueue),
        ("tests.tasks.add", [1], {}, {"queu": "mail"}, TypeError),
    ],
)
def test_a_call_of_no_use_is_refused_before_anything_is_written(root, task, args, kwargs, options, error):
    with pytest.raises(error):
        control.enqueue(task, args, kwargs, by=root, **options)

    assert (Job.objects.count(), JobEvent.objects.count()) == (0, 0)


def test_a_name_that_somebody_typed_imports_nothing(root):
    import sys

    sys.modules.pop("antigravity", None)
    with pytest.raises(TaskNotAllowed):
        control.enqueue("antigravity.fly", by=root)

    assert "antigravity" not in sys.modules


# requeue_edited


@pytest.mark.parametrize("status", [FAILED, CANCELED, FINISHED])
def test_with_other_arguments_a_new_job_runs_and_the_old_one_stays(job_factory, root, status):
    job = job_factory(
        status=status,
        args=[1],
        kwargs={"right": 2},
        subject="file:42",
        tags=["a"],
        max_attempts=3,
        owner=root,
    )
    before = vars(fresh(job)) | {"_state": None}

    again = control.requeue_edited(job, [5], {"right": 6}, by=root)

    assert vars(fresh(job)) | {"_state": None} == before
    row = fresh(again)
    assert (row.pk != job.pk, row.requeued_from, row.status) == (True, job, QUEUED)
    assert (row.args, row.kwargs) == ([5], {"right": 6})
    assert (row.subject, row.tags, row.max_attempts, row.owner) == ("file:42", ["a"], 3, root)
    assert events(job) == [("requeued", root, f"With other arguments, as new job {again.pk}.")]
    assert events(again) == [("requeued", root, f"From job {job.pk}, with other arguments.")]
    assert execute(row).result == 11


@pytest.mark.django_db(transaction=True)
def test_the_new_job_is_delivered_when_it_commits(job_factory, queued_ids):
    job = job_factory(status=FAILED, args=[1])

    with transaction.atomic():
        again = control.requeue_edited(job, [2], {})
        assert queued_ids("file_processing") == []

    assert queued_ids("file_processing") == [f"{again.pk.hex}-1-0"]


@pytest.mark.parametrize("status", sorted(UNFINISHED))
def test_a_job_that_has_not_ended_is_not_requeued_with_other_arguments(job_factory, status):
    job = job_factory(status=status)

    with pytest.raises(NotRequeueable, match=f"Job {job.pk} is {status}; only jobs that have ended"):
        control.requeue_edited(job, [2], {})

    assert (Job.objects.count(), JobEvent.objects.count()) == (1, 0)


def test_what_became_of_it_meanwhile_counts(job_factory):
    job = job_factory(status=FAILED, args=[1])
    control.requeue(fresh(job))

    with pytest.raises(NotRequeueable):
        control.requeue_edited(job, [2], {})


def test_a_held_key_refuses_it(job_factory):
    job, holder = job_factory(status=FAILED, unique_key="x"), job_factory(unique_key="x")

    with pytest.raises(NotRequeueable, match=f"which job {holder.pk} holds"):
        control.requeue_edited(job, [2], {})

    assert (Job.objects.count(), JobEvent.objects.count()) == (2, 0)


@pytest.mark.parametrize(
    ("args", "kwargs", "error"),
    [([], {}, TypeError), ([1], {"lft": 2}, TypeError), ([object()], {}, TypeError), ("1", {}, TypeError)],
)
def test_arguments_of_no_use_are_refused(job_factory, args, kwargs, error):
    job = job_factory(status=FAILED)

    with pytest.raises(error):
        control.requeue_edited(job, args, kwargs)

    assert (Job.objects.count(), JobEvent.objects.count()) == (1, 0)


def test_a_job_that_is_only_observed_is_to_be_requeued_where_it_was_enqueued(job_factory):
    with pytest.raises(NotPossible, match="steer it there"):
        control.requeue_edited(job_factory(status=FAILED, observed_id="abc"), [1], {})


def test_what_is_no_job_is_refused_as_such():
    for nonsense in (None, "42", Job.objects.all()):
        with pytest.raises(TypeError, match=r"^requeue_edited\(.*\): give a job, such as get_job\(id\)\.$"):
            control.requeue_edited(nonsense, [1], {})
