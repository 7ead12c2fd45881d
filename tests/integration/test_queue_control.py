"""Steering of queues: pause, resume and empty, who may, and the trace they leave."""

from functools import partial

import pytest
from django.contrib.auth.models import Permission, User
from django.core.exceptions import PermissionDenied
from django.db import transaction

from django_jobs import control, relay
from django_jobs.exceptions import UnknownQueue
from django_jobs.models import Job, JobEvent, Queue, QueueEvent, tallies
from django_jobs.states import CANCELED, FINISHED, QUEUED, SCHEDULED, STARTED, Status
from tests import tasks
from tests.conftest import claim, execute, fresh
from tests.threads import at_once

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]

VERBS = {
    control.pause: "manage_queue",
    control.resume: "manage_queue",
    control.empty: "manage_queue",
}


def user_who_may(*codenames):
    user = User.objects.create_user("ada")
    own = Permission.objects.filter(content_type__app_label="django_jobs")
    user.user_permissions.set(own.filter(codename__in=codenames))
    return user


def events():
    return [(event.queue, event.kind, event.by, event.message) for event in QueueEvent.objects.all()]


def is_paused(name="file_processing"):
    return Queue.objects.filter(name=name, paused=True).exists()


def counted():
    return {key: amount for key, amount in tallies.totals().items() if amount}


def test_pausing_says_whether_it_changed_anything_and_leaves_one_trace():
    user = user_who_may("manage_queue")

    assert [control.pause("file_processing", by=user) for _ in range(2)] == [True, False]

    assert is_paused()
    assert not is_paused("vectorization")
    assert events() == [("file_processing", "paused", user, "")]


def test_resuming_says_whether_it_changed_anything_and_leaves_one_trace():
    user = user_who_may("manage_queue")
    Queue.objects.create(name="file_processing", paused=True)

    assert [control.resume("file_processing", by=user) for _ in range(2)] == [True, False]

    assert not is_paused()
    assert events() == [("file_processing", "resumed", user, "")]


def test_a_queue_that_nobody_paused_is_not_resumed():
    assert control.resume("file_processing") is False

    assert (events(), Queue.objects.count()) == ([], 0)


def test_the_queues_own_verbs_do_the_same_and_its_row_knows():
    queue = Queue.objects.create(name="file_processing")

    assert (queue.pause(), queue.paused, is_paused()) == (True, True, True)
    assert (queue.pause(), queue.paused) == (False, True)
    assert (queue.resume(), queue.paused, is_paused()) == (True, False, False)
    assert queue.empty() == 0
    assert [kind for _, kind, _, _ in events()] == ["paused", "resumed", "emptied"]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_who_has_every_permission_but_the_one_may_not_and_nothing_changes(job_factory, verb):
    others = Permission.objects.exclude(codename=VERBS[verb]).values_list("codename", flat=True)
    user, job = user_who_may(*others), job_factory()
    queue = Queue.objects.create(name="file_processing", paused=verb is control.resume)

    with pytest.raises(
        PermissionDenied, match=rf"^User ada lacks the permission django_jobs\.{VERBS[verb]}\."
    ):
        verb("file_processing", by=user)

    assert (fresh(queue).paused, fresh(job).status) == (queue.paused, QUEUED)
    assert (events(), JobEvent.objects.count()) == ([], 0)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
@pytest.mark.parametrize("name", ["file_procesing", "", "x" * 200, None, 42])
def test_a_queue_that_does_not_exist_is_refused_and_leaves_nothing(verb, name):
    with pytest.raises(UnknownQueue, match=f'^Unknown queue "{name}"'):
        verb(name)

    assert (events(), Queue.objects.count()) == ([], 0)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_a_queue_that_is_declared_no_longer_can_be_steered_while_jobs_wait_on_it(job_factory, verb):
    job_factory(queue="retired")

    verb("retired")


def test_a_queue_that_is_declared_no_longer_can_be_resumed_after_its_last_job():
    Queue.objects.create(name="retired", paused=True)

    assert control.resume("retired") is True


def test_what_is_rolled_back_has_not_happened():
    with pytest.raises(LookupError), transaction.atomic():
        control.pause("file_processing")
        raise LookupError

    assert (is_paused(), events()) == (False, [])


@pytest.mark.django_db(transaction=True)
def test_of_several_who_pause_at_once_one_does():
    answers = at_once(*[partial(control.pause, "file_processing")] * 4)

    assert sorted(answers) == [False, False, False, True]
    assert (is_paused(), len(events())) == (True, 1)


@pytest.mark.django_db(transaction=True)
def test_of_several_who_empty_at_once_each_job_is_canceled_by_one(job_factory):
    for _ in range(10):
        job_factory()

    answers = at_once(*[partial(control.empty, "file_processing")] * 3)

    assert sum(answers) == 10
    assert JobEvent.objects.count() == 10
    assert counted() == {("file_processing", "canceled"): 10}


@pytest.mark.django_db(transaction=True)
def test_what_waits_on_a_paused_queue_is_not_pushed_and_is_when_it_is_resumed(job_factory, queued_ids):
    job, other = job_factory(), job_factory(queue="vectorization")
    control.pause("file_processing")

    relay.run_once()

    assert queued_ids("file_processing") == []
    assert queued_ids("vectorization") == [f"{other.pk.hex}-1-0"]
    assert fresh(job).delivered_epoch == ""

    control.resume("file_processing")
    relay.run_once()

    assert queued_ids("file_processing") == [f"{job.pk.hex}-1-0"]


@pytest.mark.django_db(transaction=True)
def test_a_delivery_that_a_worker_takes_from_a_paused_queue_claims_nothing_and_comes_again(
    queued_ids, valkey
):
    job = tasks.add.enqueue(1, 2)
    relay.run_once()
    control.pause("file_processing")

    assert valkey.lpop("rq:queue:file_processing").decode() == f"{job.pk.hex}-1-0"
    assert claim(job) is None

    assert (fresh(job).status, fresh(job).attempt) == (QUEUED, 1)
    relay.run_once()
    assert queued_ids("file_processing") == []

    control.resume("file_processing")
    relay.run_once()

    assert queued_ids("file_processing") == [f"{job.pk.hex}-1-1"]
    assert execute(fresh(job)).result == 3


def test_what_runs_on_a_queue_that_is_paused_goes_on(job_factory):
    job = claim(job_factory(args=[1]))

    control.pause("file_processing")

    assert fresh(job).status == STARTED
    assert not fresh(job).is_canceling


@pytest.mark.django_db(transaction=True)
def test_a_queue_can_be_paused_and_resumed_while_redis_is_away(settings):
    settings.RQ_QUEUES = {"file_processing": {"URL": "redis://127.0.0.1:1/0"}}

    assert control.pause("file_processing") is True
    assert control.resume("file_processing") is True


def test_emptying_cancels_what_is_queued_there_and_nothing_else(job_factory):
    user = user_who_may("manage_queue")
    jobs = {status: job_factory(status=status) for status in Status}
    job_factory()
    elsewhere = job_factory(queue="vectorization")
    observed = job_factory(observed_id="abc")

    assert control.empty("file_processing", by=user) == 2

    assert fresh(jobs[QUEUED]).status == CANCELED
    untouched = [job for status, job in jobs.items() if status != QUEUED]
    assert [fresh(job).status for job in untouched] == [job.status for job in untouched]
    assert (fresh(elsewhere).status, fresh(observed).status) == (QUEUED, QUEUED)
    assert {(event.kind, event.by) for event in JobEvent.objects.all()} == {("canceled", user)}
    assert events() == [("file_processing", "emptied", user, "2 queued jobs canceled.")]
    assert counted() == {("file_processing", "canceled"): 2}


@pytest.mark.parametrize("count", [0, 1])
def test_the_trace_tells_how_many_were_canceled(job_factory, count):
    for _ in range(count):
        job_factory()

    assert control.empty("file_processing") == count

    assert events()[0][-1] == ["0 queued jobs canceled.", "1 queued job canceled."][count]


def test_emptying_asks_for_no_permission_to_cancel_single_jobs(job_factory):
    job_factory()

    assert control.empty("file_processing", by=user_who_may("manage_queue")) == 1


@pytest.mark.django_db(transaction=True)
def test_an_emptied_queue_is_empty_in_redis_too(valkey, queued_ids):
    for number in range(5):
        tasks.add.enqueue(number)
    scheduled = tasks.add.using(delay=3600).enqueue(1)

    assert control.empty("file_processing") == 5

    assert (queued_ids("file_processing"), list(valkey.scan_iter("rq:job:*"))) == ([], [])
    assert fresh(scheduled).status == SCHEDULED


@pytest.mark.django_db(transaction=True)
def test_a_queue_that_is_declared_no_longer_is_emptied_without_a_fuss(job_factory, caplog):
    job = job_factory(queue="retired")

    assert control.empty("retired") == 1

    assert fresh(job).status == CANCELED
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.django_db(transaction=True)
def test_a_paused_queue_stays_paused_when_it_is_emptied(job_factory):
    control.pause("file_processing")
    job_factory()

    control.empty("file_processing")

    assert is_paused()
    assert Job.objects.exclude(status__in=[CANCELED, FINISHED]).count() == 0
