"""Who may what: each verb asks for just its own permissions, and READ_ONLY refuses all of them."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import AnonymousUser, Permission, User
from django.core.exceptions import PermissionDenied
from django.core.management import CommandError, call_command
from django.utils import timezone

from django_jobs import control, operations
from django_jobs.exceptions import JobsError, ReadOnly
from django_jobs.models import Job, JobEvent, Operation, Queue, QueueEvent, Worker
from django_jobs.states import FAILED, FINISHED, QUEUED, SCHEDULED, STARTED
from tests.conftest import fresh, make_worker

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]

EDITED = ([1], {"right": 2})

VERBS = {
    "cancel": ({"cancel_job"}, QUEUED, lambda job, by: control.cancel(job, by=by)),
    "cancel a started one": ({"cancel_job", "stop_job"}, STARTED, lambda job, by: control.cancel(job, by=by)),
    "stop": ({"stop_job"}, STARTED, lambda job, by: control.stop(job, by=by)),
    "requeue": ({"requeue_job"}, FAILED, lambda job, by: control.requeue(job, by=by)),
    "requeue edited": (
        {"requeue_job", "edit_job_arguments"},
        FAILED,
        lambda job, by: control.requeue_edited(job, *EDITED, by=by),
    ),
    "run now": ({"run_job"}, SCHEDULED, lambda job, by: control.run_now(job, by=by)),
    "mark failed": ({"fail_job"}, STARTED, lambda job, by: control.mark_failed(job, by=by)),
    "move": ({"move_job"}, QUEUED, lambda job, by: control.move(job, by=by, queue="vectorization")),
    "delete": ({"delete_job"}, FINISHED, lambda job, by: control.delete(job, by=by)),
    "update progress": ({"report_job"}, STARTED, lambda job, by: control.update_progress(job, 50, by=by)),
    "complete": ({"report_job"}, STARTED, lambda job, by: control.complete(job, by=by)),
    "fail": ({"report_job"}, STARTED, lambda job, by: control.fail(job, "no paper", by=by)),
    "enqueue": ({"enqueue_job"}, None, lambda job, by: control.enqueue("tests.tasks.add", [1], by=by)),
    "pause": ({"manage_queue"}, None, lambda job, by: control.pause("file_processing", by=by)),
    "resume": ({"manage_queue"}, "paused", lambda job, by: control.resume("file_processing", by=by)),
    "empty": ({"manage_queue"}, QUEUED, lambda job, by: control.empty("file_processing", by=by)),
    "empty in the background": (
        {"manage_queue", "bulk_job", "cancel_job"},
        QUEUED,
        lambda job, by: operations.start_emptying("file_processing", by=by),
    ),
    "quiet": ({"manage_worker"}, "worker", lambda worker, by: control.quiet_worker(worker, by=by)),
    "unquiet": ({"manage_worker"}, "worker", lambda worker, by: control.unquiet_worker(worker, by=by)),
    "stop worker": ({"manage_worker"}, "worker", lambda worker, by: control.stop_worker(worker, by=by)),
    "start an operation by arguments": (
        {"bulk_job", "requeue_job", "view_job_arguments"},
        None,
        lambda job, by: operations.start("requeue", "args.left:1", by=by),
    ),
    "start an operation by workers": (
        {"bulk_job", "requeue_job", "view_worker"},
        None,
        lambda job, by: operations.start("requeue", "worker:w1", by=by),
    ),
    "abort an operation of somebody else": (
        {"bulk_job", "abort_operation"},
        "operation",
        lambda operation, by: operations.abort(operation, by=by),
    ),
    **{
        f"start to {verb}": (
            {"bulk_job", permission},
            None,
            lambda job, by, verb=verb: operations.start(
                verb, "status:failed", by=by, **({"queue": "vectorization"} if verb == "move" else {})
            ),
        )
        for verb, permission in operations.PERMISSIONS.items()
    },
}
"""{what is done: (the permissions it takes, what it is done to, how)}"""


@pytest.fixture
def thing(job_factory):
    """What a verb is done to."""

    def make(kind):
        if kind == "paused":
            return Queue.objects.create(name="file_processing", paused=True)
        if kind == "worker":
            return make_worker()
        if kind == "operation":
            return operations.start("requeue", "status:failed")
        if kind is None:
            return None
        later = timezone.now() + timedelta(hours=1)
        return job_factory(status=kind, scheduled_for=later if kind == SCHEDULED else None)

    return make


def user_with(codenames, name="ada"):
    user = User.objects.create_user(name)
    ours = Permission.objects.filter(content_type__app_label="django_jobs")
    user.user_permissions.set(ours.filter(codename__in=codenames))
    return user


def everything():
    """All rows that a verb might change."""
    models = (Job, JobEvent, Queue, QueueEvent, Worker, Operation)
    return [list(model.objects.order_by("pk").values()) for model in models]


@pytest.mark.parametrize(
    ("name", "lacking"), [(name, each) for name, (needed, *_) in VERBS.items() for each in sorted(needed)]
)
def test_who_has_all_permissions_but_one_that_a_verb_takes_is_refused(thing, name, lacking):
    _, kind, do = VERBS[name]
    given = thing(kind)
    all_others = Permission.objects.exclude(codename=lacking).values_list("codename", flat=True)
    user, before = user_with(all_others), everything()

    with pytest.raises(PermissionDenied, match=rf"^User ada lacks the permission django_jobs\.{lacking}\.$"):
        do(given, user)

    assert everything() == before


@pytest.mark.parametrize("name", VERBS)
def test_who_has_just_the_permissions_that_a_verb_takes_may(thing, name):
    needed, kind, do = VERBS[name]
    given = thing(kind)

    do(given, user_with(needed))


@pytest.mark.parametrize("name", VERBS)
def test_somebody_unknown_may_nothing(thing, name):
    _, kind, do = VERBS[name]
    given = thing(kind)
    before = everything()

    with pytest.raises(PermissionDenied):
        do(given, AnonymousUser())

    assert everything() == before


def test_there_is_no_permission_that_allows_nothing():
    taken = {codename for needed, *_ in VERBS.values() for codename in needed}
    seen = {f"view_{each}" for each in ("job", "attempt", "errorgroup", "queue", "worker", "operation")}

    ours = Permission.objects.filter(content_type__app_label="django_jobs")

    assert {each.codename for each in ours} == taken | seen | {"resolve_errorgroup"}


def test_a_permission_of_every_verb_for_operations_is_known():
    assert set(operations.PERMISSIONS) == set(Operation.Verb)


# READ_ONLY


@pytest.fixture
def read_only(settings):
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "READ_ONLY": True}


@pytest.mark.parametrize("name", VERBS)
def test_where_people_only_look_not_even_who_may_everything_steers(thing, read_only, name):
    _, kind, do = VERBS[name]
    given = thing(kind)
    user, before = User.objects.create_superuser("root"), everything()

    with pytest.raises(ReadOnly, match=r'^DJANGO_JOBS\["READ_ONLY"\] is True: ') as refusal:
        do(given, user)

    assert isinstance(refusal.value, JobsError)
    assert everything() == before


def test_where_people_only_look_many_jobs_are_refused_as_one(job_factory, read_only):
    job_factory(status=FAILED)

    with pytest.raises(ReadOnly):
        control.requeue(Job.objects.all(), by=User.objects.create_superuser("root"))


@pytest.mark.parametrize("name", VERBS)
def test_where_people_only_look_code_goes_on(thing, read_only, name):
    _, kind, do = VERBS[name]
    given = thing(kind)

    do(given, None)


@pytest.mark.parametrize(
    "command",
    [
        ("jobs_cancel", "--queue=file_processing"),
        ("requeue_failed", "--all"),
        ("jobs_pause", "file_processing"),
        ("jobs_resume", "file_processing"),
        ("jobs_prune",),
    ],
)
def test_where_people_only_look_commands_that_steer_are_refused(job_factory, read_only, command):
    job_factory()
    job_factory(status=FAILED)
    job_factory(status=FINISHED, finished_at=timezone.now() - timedelta(days=100))
    before = everything()

    with pytest.raises(CommandError, match="READ_ONLY"):
        call_command(*command)

    assert everything() == before


@pytest.mark.parametrize("command", [("requeue_failed", "--all", "--dry-run"), ("jobs_prune", "--dry-run")])
def test_where_people_only_look_commands_that_look_do(job_factory, read_only, command):
    job = job_factory(status=FAILED)

    call_command(*command)

    assert fresh(job).status == FAILED
