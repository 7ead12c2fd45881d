"""Which jobs a user sees: those of others do not exist, for any verb, also by their ids."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.core.exceptions import ImproperlyConfigured
from django.db.models import Q
from django.utils import timezone

from django_jobs import control, operations
from django_jobs.exceptions import JobDoesNotExist, NotPossible, NotRequeueable
from django_jobs.models import Job, JobEvent, QueueEvent
from django_jobs.models.tallies import totals
from django_jobs.states import FAILED, FINISHED, QUEUED, SCHEDULED, STARTED
from django_jobs.visibility import is_visible, visible
from tests import tasks
from tests.conftest import fresh

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]


def own_jobs(user, jobs):
    return jobs.filter(owner=user)


def own_jobs_and_those_of_groups(user, jobs):
    """As a hook may be that joins."""
    return jobs.filter(Q(owner=user) | Q(owner__groups__in=user.groups.all())).distinct()


def those_of_groups(user, jobs):
    """Without distinct(): a job is found once for each of its owner's groups."""
    return jobs.filter(owner__groups__in=user.groups.all())


def first_ten(user, jobs):
    return jobs[:10]


def both(user, jobs):
    return jobs.filter(owner=user).union(jobs.filter(owner=None))


def ids(user, jobs):
    return [job.pk for job in jobs]


VERBS = {
    "cancel": (QUEUED, control.cancel),
    "stop": (STARTED, control.stop),
    "requeue": (FAILED, control.requeue),
    "run_now": (SCHEDULED, control.run_now),
    "mark_failed": (STARTED, control.mark_failed),
    "move": (QUEUED, lambda jobs, by: control.move(jobs, by=by, queue="vectorization")),
    "delete": (FINISHED, control.delete),
}
OF_ONE = {
    "requeue_edited": (FAILED, lambda job, by: control.requeue_edited(job, [1], {}, by=by)),
    "update_progress": (STARTED, lambda job, by: control.update_progress(job, 50, by=by)),
    "complete": (STARTED, lambda job, by: control.complete(job, by=by)),
    "complete by id": (STARTED, lambda job, by: control.complete(str(job.pk), by=by)),
    "fail": (STARTED, lambda job, by: control.fail(job, "no paper", by=by)),
}


@pytest.fixture(params=[own_jobs, own_jobs_and_those_of_groups], autouse=True)
def hook(request, settings):
    path = f"{__name__}.{request.param.__name__}"
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "VISIBLE_JOBS": path}


@pytest.fixture
def ada():
    return user_who_may_everything("ada")


@pytest.fixture
def bob():
    return user_who_may_everything("bob")


def user_who_may_everything(name):
    user = User.objects.create_user(name)
    user.user_permissions.set(Permission.objects.filter(content_type__app_label="django_jobs"))
    return user


@pytest.fixture
def job_in(job_factory):
    def make(status, **values):
        if status == SCHEDULED:
            values["scheduled_for"] = timezone.now() + timedelta(hours=1)
        return job_factory(status=status, **values)

    return make


def everything():
    return [list(model.objects.order_by("pk").values()) for model in (Job, JobEvent, QueueEvent)]


def test_a_user_sees_own_jobs_and_code_sees_all(job_in, ada, bob):
    mine, others = job_in(QUEUED, owner=ada), job_in(QUEUED, owner=bob)

    assert list(visible(ada, Job.objects.all())) == [mine]
    assert set(visible(None, Job.objects.all())) == {mine, others}
    assert (is_visible(ada, mine), is_visible(ada, others), is_visible(None, others)) == (True, False, True)


def test_without_the_setting_everybody_sees_all(job_in, settings, ada, bob):
    settings.DJANGO_JOBS = {}
    job = job_in(QUEUED, owner=bob)

    assert list(visible(ada, Job.objects.all())) == [job]
    assert is_visible(ada, job)


@pytest.mark.parametrize("name", {**VERBS, **OF_ONE})
def test_a_job_of_somebody_else_does_not_exist_for_a_verb(job_in, ada, bob, name):
    status, verb = {**VERBS, **OF_ONE}[name]
    job = job_in(status, owner=bob)
    before = everything()

    with pytest.raises(JobDoesNotExist, match=f"^There is no job {job.pk}; it may have been deleted"):
        verb(job, by=ada)

    assert everything() == before


@pytest.mark.parametrize("name", {**VERBS, **OF_ONE})
def test_a_verb_is_done_to_an_own_job(job_in, ada, name):
    status, verb = {**VERBS, **OF_ONE}[name]
    job = job_in(status, owner=ada)
    before = everything()

    verb(job, by=ada)

    assert everything() != before


@pytest.mark.parametrize("name", VERBS)
@pytest.mark.parametrize(
    "chosen",
    [
        lambda: Job.objects.all(),
        lambda: Job.objects.order_by("-pk")[:3],
        lambda: Job.objects.filter(queue="file_processing").order_by().union(Job.objects.order_by().none()),
    ],
    ids=["all", "a slice", "a union"],
)
def test_of_many_jobs_just_the_own_ones_are_steered_and_the_others_are_not_counted(
    job_in, ada, bob, name, chosen
):
    status, verb = VERBS[name]
    others, nobodys = job_in(status, owner=bob), job_in(status)
    job_in(status, owner=ada)
    before = [vars(fresh(job)) | {"_state": None} for job in (others, nobodys)]

    steered = verb(chosen(), by=ada)

    assert (steered.done, steered.refused) == (1, {})
    assert [vars(fresh(job)) | {"_state": None} for job in (others, nobodys)] == before
    assert [event.by for event in [*JobEvent.objects.all(), *QueueEvent.objects.all()]] == [ada]


def test_a_job_that_a_function_finds_twice_is_there_once(job_in, ada, settings):
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "VISIBLE_JOBS": f"{__name__}.those_of_groups"}
    ada.groups.set([Group.objects.create(name=name) for name in ("one", "two")])
    job = job_in(FAILED, owner=ada)

    assert list(visible(ada, Job.objects.failed())) == [job]
    operation = operations.start("requeue", "status:failed", by=ada)
    operations.run_once()

    operation.refresh_from_db()
    assert (operation.matched, operation.done) == (1, 1)
    assert job.events.count() == 1
    assert totals()[job.queue, FAILED] == -1


def test_of_a_queue_just_the_own_jobs_are_canceled(job_in, ada, bob):
    mine, others = job_in(QUEUED, owner=ada), job_in(QUEUED, owner=bob)

    assert control.empty("file_processing", by=ada) == 1

    assert (fresh(mine).status, fresh(others).status) == ("canceled", "queued")


def test_a_refusal_tells_nothing_of_the_job_of_somebody_else_that_holds_a_key(job_in, ada, bob):
    job, holder = (
        job_in(FAILED, owner=ada, unique_key="file:42"),
        job_in(QUEUED, owner=bob, unique_key="file:42"),
    )

    for verb in (control.requeue, lambda job, by: control.requeue_edited(job, [1], {}, by=by)):
        with pytest.raises(NotRequeueable) as refusal:
            verb(job, by=ada)
        assert "which another job holds" in str(refusal.value)
        assert str(holder.pk) not in str(refusal.value)


def test_a_call_whose_key_a_job_of_somebody_else_holds_is_refused(job_in, ada, bob):
    holder = job_in(QUEUED, owner=bob, unique_key="file:42")

    with pytest.raises(NotPossible, match=r'^Another job holds the unique key "file:42"\.$'):
        control.enqueue(tasks.add, [1], by=ada, unique="file:42")

    assert control.enqueue(tasks.add, [1], by=bob, unique="file:42") == holder


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("tests.nowhere.hook", "cannot be imported"),
        (f"{__name__}.VERBS", "is a dict; allowed is a function of a user"),
        (f"{__name__}.ids", "returned a list"),
        (f"{__name__}.first_ten", "a slice or a union"),
        (f"{__name__}.both", "a slice or a union"),
    ],
    ids=["no module", "no function", "a list", "a slice", "a union"],
)
def test_a_function_of_no_use_is_told_and_shows_nothing(job_in, settings, ada, path, problem):
    settings.DJANGO_JOBS = {"VISIBLE_JOBS": path}
    job = job_in(QUEUED, owner=ada)

    with pytest.raises(ImproperlyConfigured, match=problem):
        visible(ada, Job.objects.all())
    with pytest.raises(ImproperlyConfigured, match=problem):
        control.cancel(job, by=ada)

    assert fresh(job).status == QUEUED
    assert control.cancel(job) is True, "code goes on"
