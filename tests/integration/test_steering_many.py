"""One verb for many jobs: each by itself, none twice, none forgotten, and how many it was."""

from collections import Counter

import pytest
from django.contrib.auth.models import Permission, User
from django.db import transaction
from django.db.models.signals import post_save
from django.utils import timezone

from django_jobs import control
from django_jobs.control import steering
from django_jobs.exceptions import UnknownQueue
from django_jobs.models import Job, JobEvent, QueueEvent, tallies
from django_jobs.states import CANCELED, DEFERRED, FAILED, FINISHED, QUEUED, SCHEDULED, STARTED, Status
from tests import tasks
from tests.conftest import Stopwatch, claim, fresh

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]


def make_many(count, **values):
    values = {"task": "tests.tasks.add", "queue": "file_processing", "engine": "rq", **values}
    return Job.objects.bulk_create(Job(**values) for _ in range(count))


@pytest.fixture
def two_of_each(job_factory):
    now = timezone.now()
    return [
        job_factory(status=status, scheduled_for=now if status == SCHEDULED else None)
        for status in [*Status, *Status]
    ]


def by_status():
    return dict(Counter(Job.objects.values_list("status", flat=True)))


def counted():
    return {status: amount for (_, status), amount in tallies.totals().items() if amount}


@pytest.mark.parametrize(
    ("verb", "options", "done", "left", "added"),
    [
        (control.cancel, {}, 8, {STARTED: 2, FINISHED: 2, FAILED: 2, CANCELED: 8}, {CANCELED: 6}),
        (control.stop, {}, 2, dict.fromkeys(Status, 2), {}),
        (
            control.requeue,
            {},
            6,
            # The finished ones stay, and two copies of them are queued.
            {QUEUED: 8, SCHEDULED: 2, DEFERRED: 2, STARTED: 2, FINISHED: 2},
            {FAILED: -2, CANCELED: -2},
        ),
        (
            control.run_now,
            {},
            2,
            {QUEUED: 4, DEFERRED: 2, STARTED: 2, FINISHED: 2, FAILED: 2, CANCELED: 2},
            {},
        ),
        (control.mark_failed, {"reason": "x"}, 8, {FINISHED: 2, FAILED: 10, CANCELED: 2}, {FAILED: 8}),
        (control.move, {"queue": "vectorization"}, 6, dict.fromkeys(Status, 2), {}),
        (control.delete, {}, 14, {}, {FINISHED: -2, FAILED: -2, CANCELED: -2}),
    ],
)
def test_a_verb_is_done_where_it_is_possible_and_the_rest_is_told(
    two_of_each, verb, options, done, left, added
):
    user = User.objects.create_user("ada")
    user.user_permissions.set(Permission.objects.filter(content_type__app_label="django_jobs"))

    steered = verb(Job.objects.all(), by=user, **options)

    refused = {f"is {job.status}": 2 for job in two_of_each if f"is {job.status}" in steered.refused}
    assert (steered.done, steered.refused) == (done, refused)
    assert steered.done + steered.refused.total() == len(two_of_each)
    assert by_status() == {status.value: count for status, count in left.items()}
    assert counted() == {status.value: amount for status, amount in added.items()}
    traces = [*JobEvent.objects.all(), *QueueEvent.objects.all()]
    assert [event.by for event in traces] == [user] * done


def test_what_was_done_and_what_was_not_reads_as_a_sentence(two_of_each, job_factory):
    job_factory(status=FINISHED)

    assert str(control.run_now(Job.objects.filter(status__in=[SCHEDULED, FINISHED, FAILED]))) == (
        "2 done, 5 not: 3 is finished, 2 is failed"
    )
    assert str(control.cancel(Job.objects.deferred())) == "2 done"
    assert str(control.cancel(Job.objects.none())) == "0 done"


def test_of_many_jobs_chosen_by_what_the_verb_changes_none_is_left_out(monkeypatch):
    monkeypatch.setattr(steering, "BATCH", 5)
    make_many(12, status=FAILED)

    steered = control.requeue(Job.objects.failed())

    assert (steered.done, steered.refused) == (12, {})
    assert by_status() == {"queued": 12}
    assert JobEvent.objects.values("job").distinct().count() == JobEvent.objects.count() == 12
    assert counted() == {"failed": -12}


def test_of_a_slice_just_these_are_steered(job_factory):
    jobs = [job_factory(status=FAILED) for _ in range(5)]

    assert control.requeue(Job.objects.failed().order_by("pk")[1:3]).done == 2
    assert {job.pk for job in Job.objects.queued()} == {jobs[1].pk, jobs[2].pk}

    assert control.requeue(Job.objects.failed()[:1]).done == 1
    assert fresh(jobs[4]).status == QUEUED, "newest first, as the model orders"


@pytest.mark.parametrize(
    "chosen",
    [
        lambda: Job.objects.failed().reverse(),
        lambda: Job.objects.failed().order_by("queue"),
        lambda: Job.objects.failed().order_by("-created_at").reverse(),
        lambda: Job.objects.failed().only("pk"),
        lambda: Job.objects.failed().defer("args").select_related("owner"),
        lambda: Job.objects.failed().filter(queue="file_processing") | Job.objects.failed().filter(queue="x"),
        lambda: Job.objects.failed().order_by().union(Job.objects.canceled().order_by()),
        lambda: Job.objects.failed().distinct(),
    ],
)
def test_however_the_jobs_were_chosen_all_are_steered_once(job_factory, chosen):
    for _ in range(4):
        job_factory(status=FAILED)

    steered = control.requeue(chosen())

    assert (steered.done, steered.refused) == (4, {})
    assert Job.objects.queued().filter(attempt=2).count() == 4


def test_they_are_steered_oldest_first(job_factory):
    jobs = [job_factory() for _ in range(3)]

    control.cancel(Job.objects.all())

    assert [event.job_id for event in JobEvent.objects.order_by("pk")] == [job.pk for job in jobs]


def test_jobs_that_are_added_meanwhile_are_left_alone(job_factory):
    jobs = [job_factory() for _ in range(3)]

    def add_another(**kwargs):
        job_factory()

    post_save.connect(add_another, sender=JobEvent)
    try:
        steered = control.cancel(Job.objects.queued())
    finally:
        post_save.disconnect(add_another, sender=JobEvent)

    assert steered.done == 3
    assert {job.pk for job in Job.objects.canceled()} == {job.pk for job in jobs}
    assert Job.objects.queued().count() == 3


def test_copies_of_finished_jobs_are_not_taken_for_more_of_them(job_factory):
    for _ in range(3):
        job_factory(status=FINISHED)

    assert control.requeue(Job.objects.all()).done == 3

    assert by_status() == {"finished": 3, "queued": 3}


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        (control.cancel, {}),
        (control.mark_failed, {}),
        (control.move, {"queue": "vectorization"}),
        (control.delete, {}),
    ],
)
def test_a_job_that_is_deleted_meanwhile_does_not_stop_the_others(job_factory, verb, options):
    jobs = [job_factory() for _ in range(3)]

    def delete_the_second(**kwargs):
        Job.objects.filter(pk=jobs[1].pk).delete()

    for sender in (JobEvent, QueueEvent):
        post_save.connect(delete_the_second, sender=sender)
    try:
        steered = verb(Job.objects.all(), **options)
    finally:
        for sender in (JobEvent, QueueEvent):
            post_save.disconnect(delete_the_second, sender=sender)

    assert (steered.done, steered.refused) == (2, {"deleted already": 1})


def test_of_failed_jobs_with_one_unique_key_one_is_requeued(job_factory):
    oldest = job_factory(status=FAILED, unique_key="file:42")
    for _ in range(2):
        job_factory(status=FAILED, unique_key="file:42")

    with transaction.atomic():
        steered = control.requeue(Job.objects.all())

    assert (steered.done, steered.refused) == (1, {"unique key held": 2})
    assert Job.objects.queued().get() == oldest


def test_observed_jobs_are_told_apart(job_factory):
    job_factory()
    job_factory(observed_id="abc")

    assert str(control.cancel(Job.objects.all())) == "1 done, 1 not: 1 only observed"


def test_jobs_that_are_there_already_are_told_apart(job_factory):
    job_factory()
    job_factory(queue="vectorization")

    steered = control.move(Job.objects.all(), queue="vectorization")

    assert str(steered) == "1 done, 1 not: 1 there already"


def test_an_unknown_queue_moves_none(job_factory):
    for _ in range(2):
        job_factory()

    with pytest.raises(UnknownQueue):
        control.move(Job.objects.all(), queue="vectorisation")

    assert Job.objects.on_queue("file_processing").count() == 2
    assert JobEvent.objects.count() == 0


def test_when_the_caller_rolls_back_nothing_has_happened(two_of_each):
    before = list(Job.objects.values())

    with pytest.raises(LookupError), transaction.atomic():
        control.cancel(Job.objects.all())
        raise LookupError

    assert list(Job.objects.values()) == before
    assert (JobEvent.objects.count(), counted()) == (0, {})


@pytest.mark.django_db(transaction=True)
def test_requeued_jobs_are_in_redis_each_once_when_the_callers_transaction_commits(queued_ids):
    jobs = make_many(20, status=FAILED)

    with transaction.atomic():
        control.requeue(Job.objects.failed())
        assert queued_ids("file_processing") == []

    assert queued_ids("file_processing") == [f"{job.pk.hex}-2-0" for job in jobs]


@pytest.mark.django_db(transaction=True)
def test_what_waited_in_redis_for_many_canceled_jobs_is_taken_back(valkey, queued_ids):
    jobs = [tasks.add.enqueue(number) for number in range(20)]

    control.cancel(Job.objects.filter(pk__in=[job.pk for job in jobs[:15]]))

    assert queued_ids("file_processing") == [f"{job.pk.hex}-1-0" for job in jobs[15:]]
    assert len(list(valkey.scan_iter("rq:job:*"))) == 5


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("verb", "status", "options"),
    [
        (control.cancel, QUEUED, {}),
        (control.stop, STARTED, {}),
        (control.move, QUEUED, {"queue": "vectorization"}),
        (control.requeue, FAILED, {}),
        (control.delete, QUEUED, {}),
    ],
)
def test_a_server_that_answers_nothing_is_not_waited_for_with_each_job(
    job_factory, freeze, verb, status, options
):
    for _ in range(8):
        job_factory(status=status)
    freeze()

    with Stopwatch() as watch:
        assert verb(Job.objects.all(), **options).done == 8

    assert watch.seconds < 4


@pytest.fixture
def meanwhile(monkeypatch):
    """Have something done after jobs were chosen and before a verb is at the first of them."""

    def do(change):
        def chosen(jobs):
            found = list(one_by_one(jobs))
            change()
            return iter(found)

        one_by_one = steering._one_by_one
        monkeypatch.setattr(steering, "_one_by_one", chosen)

    return do


def test_a_job_that_is_not_among_the_chosen_any_more_is_left_alone(job_factory, meanwhile):
    job, other = job_factory(), job_factory()
    meanwhile(lambda: claim(job))

    told = control.cancel(Job.objects.queued())

    assert (told.done, told.refused) == (1, {"is started by now": 1})
    assert (fresh(job).status, fresh(job).is_canceling, fresh(other).status) == (STARTED, False, CANCELED)


def test_a_job_that_has_changed_and_is_still_among_the_chosen_is_steered(job_factory, meanwhile):
    job = job_factory()
    meanwhile(lambda: claim(job))

    assert control.cancel(Job.objects.unfinished()).done == 1

    assert fresh(job).is_canceling


@pytest.mark.parametrize(
    "chosen", [Job.objects.failed, lambda: Job.objects.order_by("pk")[:5], Job.objects.all]
)
def test_what_another_has_requeued_meanwhile_is_not_run_twice(job_factory, meanwhile, chosen):
    job = job_factory(status=FAILED)
    meanwhile(lambda: control.complete(control.requeue(fresh(job))))

    told = control.requeue(chosen())

    assert (told.done, told.refused) == (0, {"is finished by now": 1})
    assert Job.objects.count() == 1
