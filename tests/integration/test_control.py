"""Steering of one job: what each verb does in which state, who may, and the trace it leaves."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from uuid import uuid4

import pytest
from django.contrib.auth.models import Permission, User
from django.core.exceptions import PermissionDenied
from django.db import connection, transaction
from django.template import Context, Template
from django.utils import timezone

from django_jobs import control, relay
from django_jobs.exceptions import JobDoesNotExist, NotPossible, NotRequeueable, UnknownQueue
from django_jobs.fingerprints import fingerprint
from django_jobs.models import Attempt, Job, JobEvent, QueueEvent, tallies
from django_jobs.outcomes import Outcome, lose
from django_jobs.reports import report
from django_jobs.states import (
    CANCELED,
    DEFERRED,
    FAILED,
    FINISHED,
    QUEUED,
    SCHEDULED,
    STARTED,
    TERMINAL,
    UNFINISHED,
    Status,
)
from tests import tasks
from tests.conftest import Stopwatch, claim, execute, fresh, make_worker, wait_until
from tests.threads import at_once, waits_for_lock

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]

WAITING = [QUEUED, SCHEDULED, DEFERRED]
A_TIME = "a time"

VERBS = {
    "cancel": (control.cancel, "cancel_job", QUEUED, {}),
    "stop": (control.stop, "stop_job", STARTED, {}),
    "requeue": (control.requeue, "requeue_job", FAILED, {}),
    "run_now": (control.run_now, "run_job", SCHEDULED, {}),
    "mark_failed": (control.mark_failed, "fail_job", STARTED, {"reason": "stuck"}),
    "move": (control.move, "move_job", QUEUED, {"queue": "vectorization"}),
    "delete": (control.delete, "delete_job", FINISHED, {}),
}
"""{name: (verb, permission, a state in which it is possible, its options)}"""

_CANCELED = {"status": CANCELED, "finished_at": A_TIME, "cancel_requested_at": A_TIME}
_REOPENED = {
    "status": QUEUED,
    "attempt": 2,
    "queued_at": A_TIME,
    "finished_at": None,
}
_MARKED = {
    "status": FAILED,
    "finished_at": A_TIME,
    "error_type": "MarkedFailed",
    "error_message": "stuck",
    "fingerprint": fingerprint("MarkedFailed", "stuck", ""),
}
ALLOWED = {
    **{("cancel", status): (_CANCELED, ("canceled", 1), {CANCELED: 1}) for status in WAITING},
    ("cancel", STARTED): ({"cancel_requested_at": A_TIME}, ("cancel_requested", 1), {}),
    ("stop", STARTED): ({"cancel_requested_at": A_TIME}, ("cancel_requested", 1), {}),
    ("requeue", FINISHED): ({}, ("requeued", 1), {}),
    ("requeue", FAILED): (_REOPENED, ("requeued", 2), {FAILED: -1}),
    ("requeue", CANCELED): (_REOPENED, ("requeued", 2), {CANCELED: -1}),
    ("run_now", SCHEDULED): (
        {"status": QUEUED, "queued_at": A_TIME, "scheduled_for": None},
        ("run_now", 1),
        {},
    ),
    **{
        ("mark_failed", status): (_MARKED, ("marked_failed", 1), {FAILED: 1})
        for status in [*WAITING, STARTED]
    },
    **{("move", status): ({"queue": "vectorization", "delivery": 1}, ("moved", 1), {}) for status in WAITING},
}
"""{(verb, status): (what changes in the row, its event, what is added to the tallies)}"""

REFUSED = [
    (name, status)
    for name in VERBS
    for status in Status
    if (name, status) not in ALLOWED and name != "delete"
]


@pytest.fixture
def user_who_may(db):
    def make(*codenames, name="ada"):
        user = User.objects.create_user(name)
        user.user_permissions.set(
            Permission.objects.filter(content_type__app_label="django_jobs", codename__in=codenames)
        )
        return user

    return make


def events(job):
    return [(event.kind, event.attempt, event.by) for event in job.events.all()]


def traces():
    """How many traces of whatever kind there are."""
    return JobEvent.objects.count() + QueueEvent.objects.count()


def row(job):
    return Job.objects.filter(pk=job.pk).values().get()


def changes(before, after):
    """{column: what it has become}, times without saying which."""
    changed = {name: value for name, value in after.items() if value != before[name]}
    return {name: A_TIME if isinstance(value, datetime) else value for name, value in changed.items()}


def counted():
    """What the tallies say: {status: how many}."""
    return {status: amount for (_, status), amount in tallies.totals("file_processing").items() if amount}


def steer(name, job, by=None):
    verb, _, _, options = VERBS[name]
    return verb(job, by=by, **options)


@pytest.fixture
def job_in(job_factory):
    """A job in some state, for an hour."""

    def make(status, **values):
        hour_ago = timezone.now() - timedelta(hours=1)
        values.setdefault("queued_at", hour_ago)
        if status == SCHEDULED:
            values.setdefault("scheduled_for", timezone.now() + timedelta(hours=1))
        if status in TERMINAL:
            values.setdefault("finished_at", hour_ago)
        return job_factory(status=status, **values)

    return make


@pytest.mark.parametrize(("name", "status"), ALLOWED)
def test_each_verb_changes_this_and_no_more(job_in, user_who_may, name, status):
    expected, event, added = ALLOWED[name, status]
    needed = {VERBS[name][1]} | ({"stop_job"} if status == STARTED and name == "cancel" else set())
    job, user = job_in(status), user_who_may(*needed)
    before = row(job)

    steer(name, job, by=user)

    assert changes(before, row(job)) == expected
    assert events(job) == [(*event, user)]
    assert counted() == {status.value: amount for status, amount in added.items()}
    told = {field: getattr(job, field) for field in expected}
    assert told == {field: row(job)[field] for field in expected}, "the job given is as its row"


@pytest.mark.parametrize(("name", "status"), REFUSED)
def test_where_a_verb_is_not_possible_nothing_changes_and_no_trace_is_left(job_in, name, status):
    job = job_in(status)
    before = row(job)

    if name == "cancel":
        assert steer(name, job) is False
    else:
        with pytest.raises(NotPossible, match=f"^Job {job.pk} is {status}; only .+ can be ") as refusal:
            steer(name, job)
        assert refusal.value.reason == f"is {status}"

    assert (row(job), traces(), counted(), Job.objects.count()) == (before, 0, {}, 1)


@pytest.mark.parametrize("name", VERBS)
def test_who_has_every_permission_but_the_one_may_not_and_nothing_changes(job_in, user_who_may, name):
    _, permission, status, _ = VERBS[name]
    app = Permission.objects.filter(content_type__app_label="django_jobs")
    all_others = app.exclude(codename=permission).values_list("codename", flat=True)
    job, user = job_in(status), user_who_may(*all_others)
    before = row(job)

    for asked in (job, Job.objects.all()):
        with pytest.raises(
            PermissionDenied, match=rf"^User ada lacks the permission django_jobs\.{permission}"
        ):
            steer(name, asked, by=user)

    assert (row(job), traces(), counted()) == (before, 0, {})


@pytest.mark.parametrize("name", sorted(set(VERBS) - {"delete"}))
def test_trusted_code_may_and_the_trace_names_nobody(job_in, name):
    job = job_in(VERBS[name][2])

    steer(name, job)

    assert [by for _, _, by in events(job)] == [None]


@pytest.mark.parametrize("name", VERBS)
def test_what_is_no_job_is_refused_as_such(name):
    for nonsense in (None, "42", uuid4(), 42, [], object(), Job, Job.objects, User.objects.all()):
        with pytest.raises(
            TypeError, match=rf"^{name}\(.*\): give a job, such as get_job\(id\), or a queryset of jobs\.$"
        ):
            steer(name, nonsense)


@pytest.mark.parametrize("name", VERBS)
def test_a_job_that_was_deleted_meanwhile_is_told_to_be_gone(job_in, name):
    job = job_in(VERBS[name][2])
    Job.objects.filter(pk=job.pk).delete()

    with pytest.raises((JobDoesNotExist, NotPossible), match=f"There is no job {job.pk}; it may have been d"):
        steer(name, job)

    assert (traces(), Job.objects.count()) == (0, 0)


@pytest.mark.parametrize("name", sorted(set(VERBS) - {"delete"}))
def test_a_job_that_is_only_observed_is_to_be_steered_where_it_was_enqueued(job_in, name):
    job = job_in(VERBS[name][2], observed_id="abc")
    before = row(job)

    with pytest.raises(NotPossible, match="with plain rq, where its id is abc; steer it there") as refusal:
        steer(name, job)

    assert refusal.value.reason == "only observed"
    assert (row(job), traces(), counted()) == (before, 0, {})


@pytest.mark.parametrize("name", VERBS)
def test_a_job_read_elsewhere_is_steered_where_jobs_are(job_in, name):
    job = job_in(VERBS[name][2])
    job._state.db = "other"

    steer(name, job)

    assert traces() == 1


@pytest.mark.parametrize("status", [QUEUED, SCHEDULED, DEFERRED])
def test_a_waiting_job_is_canceled_at_once(job_factory, status):
    job = job_factory(status=status, scheduled_for=timezone.now() if status == SCHEDULED else None)

    assert control.cancel(job) is True

    assert (job.status, fresh(job).status) == (CANCELED, CANCELED)
    assert job.finished_at is not None
    assert events(job) == [("canceled", 1, None)]


def test_a_started_job_is_asked_to_stop_and_stays_started(job_factory):
    job = job_factory(status=STARTED)

    assert job.cancel() is True

    assert (fresh(job).status, fresh(job).is_canceling, fresh(job).finished_at) == (STARTED, True, None)
    assert events(job) == [("cancel_requested", 1, None)]


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_a_job_that_has_ended_is_not_canceled(job_factory, status):
    job = job_factory(status=status)

    assert control.cancel(job) is False

    assert (fresh(job).status, fresh(job).cancel_requested_at, events(job)) == (status, None, [])


def test_what_became_of_the_job_meanwhile_counts_and_not_what_the_caller_read(job_factory):
    job = job_factory()
    claim(job)
    assert job.status == QUEUED

    control.cancel(job)

    assert (fresh(job).status, fresh(job).is_canceling) == (STARTED, True)


def test_a_started_job_is_canceled_by_those_alone_who_may_stop(job_factory, user_who_may):
    job = job_factory(status=STARTED)

    with pytest.raises(PermissionDenied, match=r"lacks the permission django_jobs\.stop_job\.$"):
        control.cancel(job, by=user_who_may("cancel_job"))
    told = control.cancel(Job.objects.all(), by=user_who_may("cancel_job", name="bob"))

    assert (told.done, told.refused) == (0, {"is started, which takes another permission": 1})
    assert not fresh(job).is_canceling
    assert control.cancel(job, by=user_who_may("cancel_job", "stop_job", name="eve")) is True


def test_a_template_does_not_steer_a_job(job_factory):
    waits, failed = job_factory(), job_factory(status=FAILED)
    page = Template("{{ waits.cancel }}{{ failed.requeue }}{{ waits.wait }}")

    page.render(Context({"waits": waits, "failed": failed}))

    assert (fresh(waits).status, fresh(failed).status) == (QUEUED, FAILED)


def test_a_canceled_job_cannot_be_claimed(job_factory):
    job = job_factory()

    control.cancel(job)

    assert claim(job) is None
    assert fresh(job).status == CANCELED


def test_a_canceled_scheduled_job_never_becomes_due(job_factory):
    job = job_factory(status=SCHEDULED, scheduled_for=timezone.now() - timedelta(seconds=1))

    control.cancel(job)
    relay.run_once()

    assert fresh(job).status == CANCELED


@pytest.mark.django_db(transaction=True)
def test_canceling_withdraws_the_delivery_when_it_commits(valkey, queued_ids):
    job, other = tasks.add.enqueue(1), tasks.add.enqueue(2)

    with transaction.atomic():
        control.cancel(job)
        assert len(queued_ids("file_processing")) == 2

    assert queued_ids("file_processing") == [f"{other.pk.hex}-1-0"]
    assert not valkey.exists(f"rq:job:{job.pk.hex}-1-0")


@pytest.mark.django_db(transaction=True)
def test_canceling_works_while_the_server_is_away(settings):
    job = tasks.add.enqueue(1)
    settings.RQ_QUEUES = {"file_processing": {"URL": "redis://127.0.0.1:1/0"}}

    assert control.cancel(job) is True

    assert fresh(job).status == CANCELED


def test_who_lacks_the_permission_cannot_cancel(job_factory, user_who_may):
    job, user = job_factory(), user_who_may("requeue_job", "change_job")

    with pytest.raises(PermissionDenied, match=r"User ada lacks the permission django_jobs\.cancel_job"):
        control.cancel(job, by=user)

    assert (fresh(job).status, events(job)) == (QUEUED, [])


def test_who_has_the_permission_cancels_and_is_named_in_the_trace(job_factory, user_who_may):
    job, user = job_factory(), user_who_may("cancel_job")

    job.cancel(by=user)

    assert (fresh(job).status, events(job)) == (CANCELED, [("canceled", 1, user)])


@pytest.mark.parametrize("status", [FAILED, CANCELED])
def test_a_failed_or_canceled_job_is_reopened_with_one_attempt_more(job_factory, status):
    job = job_factory(
        status=status,
        attempt=2,
        max_attempts=2,
        losses=3,
        delivery=1,
        delivered_epoch="epoch",
        cancel_requested_at=timezone.now(),
        finished_at=timezone.now(),
        started_at=timezone.now(),
        error_type="ValueError",
        error_message="why",
        traceback="…",
        progress=40,
        stage="a",
        stages={"a": {"status": "processing", "progress": 40}},
    )

    assert job.requeue() == job

    row = fresh(job)
    assert (row.status, row.attempt, row.max_attempts, row.losses) == (QUEUED, 3, 2, 0)
    assert (row.delivery, row.delivered_epoch, row.cancel_requested_at) == (0, "", None)
    assert (row.started_at, row.finished_at) == (None, None)
    assert (row.error_type, row.error_message, row.traceback) == ("", "", "")
    assert (row.progress, row.stage, row.stages) == (0, "", {})
    assert events(job) == [("requeued", 3, None)]


@pytest.mark.django_db(transaction=True)
def test_a_requeued_job_is_delivered_when_it_commits_and_runs(job_factory, queued_ids):
    job = execute(job_factory(task="tests.tasks.fail"))
    Job.objects.filter(pk=job.pk).update(task="tests.tasks.add", args=[1])

    with transaction.atomic():
        control.requeue(job)
        assert queued_ids("file_processing") == []

    assert queued_ids("file_processing") == [f"{job.pk.hex}-2-0"]
    assert execute(fresh(job)).status == FINISHED
    assert [(attempt.number, attempt.outcome) for attempt in job.attempts.all()] == [
        (1, "failed"),
        (2, "finished"),
    ]


def test_a_requeued_job_has_no_retries_but_the_attempt_it_was_given(job_factory):
    job = job_factory(status=FAILED, attempt=3, max_attempts=3)
    control.requeue(job)

    report(claim(fresh(job)), Outcome.failed("ValueError", "again", "…"), worker_name="w1")

    assert (fresh(job).status, fresh(job).attempt) == (FAILED, 4)


def test_a_job_canceled_before_its_last_attempt_keeps_its_retries(job_factory):
    job = job_factory(status=CANCELED, attempt=1, max_attempts=3)

    control.requeue(job)

    assert (fresh(job).attempt, fresh(job).max_attempts) == (2, 3)


def test_a_requeued_job_that_is_lost_is_not_run_again(job_factory):
    job = control.requeue(job_factory(status=FAILED))

    lose(claim(job), "Worker w1 is gone.")

    assert (fresh(job).status, fresh(job).attempt) == (FAILED, 2)


def test_a_failed_job_that_somebody_else_requeued_and_that_has_finished_is_not_run_again(job_factory):
    job = job_factory(status=FAILED)
    mine = fresh(job)
    report(claim(control.requeue(job)), Outcome.finished(), worker_name="w1")

    with pytest.raises(NotRequeueable, match=f"^Job {job.pk} was failed and has finished since"):
        control.requeue(mine)

    assert Job.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_finished_job_stays_as_it_is_and_a_new_one_with_the_same_call_runs(job_factory, queued_ids):
    owner = User.objects.create_user("ada")
    call = {
        "args": [1],
        "kwargs": {"right": 2},
        "queue": "vectorization",
        "timeout_seconds": 7,
        "idempotent": True,
        "max_attempts": 3,
        "retry_intervals": [10],
        "owner": owner,
        "subject": "file:42",
        "tags": ["a"],
        "meta": {"b": 1},
    }
    job = execute(job_factory(**call))
    before = Job.objects.filter(pk=job.pk).values().get()

    again = control.requeue(job)

    assert Job.objects.filter(pk=job.pk).values().get() == before
    assert (again.pk != job.pk, fresh(again).requeued_from, fresh(again).status) == (True, job, QUEUED)
    assert {name: getattr(fresh(again), name) for name in call} == call
    assert (fresh(again).attempt, fresh(again).result, fresh(again).progress) == (1, None, 0)
    assert [event.message for event in job.events.all()] == [f"As new job {again.pk}."]
    assert queued_ids("vectorization") == [f"{again.pk.hex}-1-0"]


@pytest.mark.parametrize("status", sorted(UNFINISHED))
def test_a_job_that_has_not_ended_is_not_requeued(job_factory, status):
    job = job_factory(status=status)

    with pytest.raises(NotRequeueable, match=f"Job {job.pk} is {status}; only jobs that have ended"):
        job.requeue()

    assert (fresh(job).status, fresh(job).attempt, events(job)) == (status, 1, [])


def test_an_interrupted_job_can_be_requeued(job_factory):
    job = job_factory(status=STARTED)
    lose(job, "Worker w1 is gone.")

    control.requeue(fresh(job))

    assert (fresh(job).status, fresh(job).attempt, fresh(job).losses) == (QUEUED, 2, 0)


def test_who_lacks_the_permission_cannot_requeue(job_factory, user_who_may):
    job, user = job_factory(status=FAILED), user_who_may("cancel_job", "change_job")

    with pytest.raises(PermissionDenied, match=r"User ada lacks the permission django_jobs\.requeue_job"):
        control.requeue(job, by=user)

    assert (fresh(job).status, events(job)) == (FAILED, [])


def test_who_has_the_permission_requeues_and_is_named_in_the_trace(job_factory, user_who_may):
    job, user = job_factory(status=FAILED), user_who_may("requeue_job")

    job.requeue(by=user)

    assert (fresh(job).status, events(job)) == (QUEUED, [("requeued", 2, user)])


def test_someone_who_is_not_active_may_nothing(job_factory, user_who_may):
    user = user_who_may("cancel_job", "requeue_job")
    user.is_active = False
    user.save()

    with pytest.raises(PermissionDenied):
        control.cancel(job_factory(), by=User.objects.get(pk=user.pk))


def test_of_two_requeues_at_once_one_counts(job_factory):
    job = job_factory(status=FAILED)
    other_view = fresh(job)
    control.requeue(job)

    with pytest.raises(NotRequeueable):
        control.requeue(other_view)

    assert fresh(job).attempt == 2


def test_the_trace_survives_the_user(job_factory, user_who_may):
    job, user = job_factory(), user_who_may("cancel_job")
    control.cancel(job, by=user)

    user.delete()

    assert events(job) == [("canceled", 1, None)]


@pytest.mark.parametrize("status", [FAILED, CANCELED, FINISHED])
def test_what_runs_again_is_asked_for_as_before(job_in, status):
    call = {
        "description": "Import of file 42",
        "at_front": True,
        "retry_intervals": [10, 60],
        "retry_jitter": 0.5,
        "keep_result_seconds": 3600.0,
        "unique_key": "file:42",
    }
    job = job_in(status, **call, result_expires_at=timezone.now())

    again = fresh(control.requeue(job))

    assert {name: getattr(again, name) for name in call} == call
    assert (again.status, again.result_expires_at) == (QUEUED, None)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("status", [FAILED, FINISHED])
def test_a_job_that_goes_to_the_front_is_requeued_to_the_front(job_in, queued_ids, status):
    job = job_in(status, at_front=True)
    waiting = tasks.add.enqueue(1)

    again = control.requeue(job)

    assert queued_ids("file_processing") == [f"{each.pk.hex}-{each.attempt}-0" for each in (again, waiting)]


@pytest.mark.parametrize("status", [FAILED, CANCELED, FINISHED])
@pytest.mark.parametrize("holder_is", sorted(UNFINISHED))
def test_a_job_whose_unique_key_is_held_is_not_requeued_and_the_holder_is_named(job_in, status, holder_is):
    job = job_in(status, unique_key="file:42")
    holder = job_in(holder_is, unique_key="file:42")
    before = row(job)

    with transaction.atomic():
        with pytest.raises(NotRequeueable) as refusal:
            control.requeue(job)
        job_in(QUEUED, unique_key="another")  # The caller's transaction goes on.

    assert str(refusal.value) == (
        f'Job {job.pk} has the unique key "file:42", which job {holder.pk} holds, which is {holder_is}; '
        "requeue it when that has ended."
    )
    assert refusal.value.reason == "unique key held"
    assert (row(job), traces(), counted(), Job.objects.count()) == (before, 0, {}, 3)


def test_a_requeue_that_the_caller_rolls_back_has_not_happened(job_in):
    job = job_in(FAILED)
    before = row(job)

    with pytest.raises(LookupError), transaction.atomic():
        control.requeue(job)
        raise LookupError

    assert (row(job), traces(), counted()) == (before, 0, {})


@pytest.mark.django_db(transaction=True)
def test_a_retry_that_waits_is_run_at_once_as_the_attempt_it_is(job_factory, queued_ids):
    job = execute(job_factory(task="tests.tasks.fail", max_attempts=3, retry_intervals=[3600]))
    assert (job.status, job.attempt, job.will_retry_at is not None) == (SCHEDULED, 2, True)

    assert control.run_now(job) == job

    assert (job.status, job.attempt, job.max_attempts, job.will_retry_at) == (QUEUED, 2, 3, None)
    assert events(job) == [("run_now", 2, None)]
    assert queued_ids("file_processing") == [f"{job.pk.hex}-2-0"]
    assert execute(job).attempt == 3


def test_marking_as_failed_ends_the_attempt_that_runs_and_no_other_follows(job_in):
    job = job_in(STARTED, max_attempts=3, idempotent=True)

    assert control.mark_failed(job, reason="stuck") == job

    assert (job.status, job.attempt, job.finished_at is not None) == (FAILED, 1, True)
    attempt = job.attempts.get()
    assert (attempt.number, attempt.outcome, attempt.claim_id) == (1, "failed", job.claim_id)
    assert (attempt.error_type, attempt.error_message) == ("MarkedFailed", "stuck")
    assert job.events.get().message == "stuck"


@pytest.mark.parametrize("status", WAITING)
def test_marking_as_failed_what_waits_leaves_no_attempt_and_nothing_to_claim(job_in, status):
    job = job_in(status, max_attempts=3)

    control.mark_failed(job)

    assert (fresh(job).status, fresh(job).error_message) == (FAILED, "Marked as failed.")
    assert (job.attempts.count(), claim(job)) == (0, None)


def test_a_job_asked_to_cancel_before_is_failed_when_it_is_marked_so(job_in):
    job = job_in(STARTED)
    control.cancel(job)

    control.mark_failed(job, reason="it does not stop")

    assert (fresh(job).status, fresh(job).error_type, fresh(job).is_canceling) == (
        FAILED,
        "MarkedFailed",
        False,
    )
    assert counted() == {"failed": 1}


def test_a_reason_is_made_such_that_every_database_takes_it(job_in):
    job = job_in(STARTED)

    control.mark_failed(job, reason="a\0b \ud800 " + "x" * 5000)

    assert fresh(job).error_message.startswith("a\N{REPLACEMENT CHARACTER}b ? xxx")
    assert len(fresh(job).error_message) == 2000
    assert job.events.get().message == fresh(job).error_message


@pytest.mark.parametrize("name", ["cancel", "mark_failed", "delete"])
@pytest.mark.django_db(transaction=True)
def test_what_waited_in_redis_for_a_job_that_is_ended_is_taken_back_at_the_commit(valkey, queued_ids, name):
    job, other = tasks.add.enqueue(1), tasks.add.enqueue(2)
    delivery_id = f"{job.pk.hex}-1-0"

    with transaction.atomic():
        steer(name, job)
        assert delivery_id in queued_ids("file_processing")

    assert queued_ids("file_processing") == [f"{other.pk.hex}-1-0"]
    assert not valkey.exists(f"rq:job:{delivery_id}")


@pytest.mark.django_db(transaction=True)
def test_what_is_rolled_back_leaves_the_delivery_where_it_is(queued_ids):
    job = tasks.add.enqueue(1)

    for name in ("cancel", "mark_failed", "delete", "move"):
        with pytest.raises(LookupError), transaction.atomic():
            steer(name, fresh(job))
            raise LookupError

    assert queued_ids("file_processing") == [f"{job.pk.hex}-1-0"]
    assert (queued_ids("vectorization"), fresh(job).status, traces()) == ([], QUEUED, 0)


@pytest.mark.django_db(transaction=True)
def test_a_moved_job_waits_in_redis_on_its_new_queue_alone_and_runs_once(valkey, queued_ids):
    job = tasks.add.enqueue(1, 2)
    relay.run_once()

    with transaction.atomic():
        assert control.move(job, queue="vectorization") == job
        assert queued_ids("vectorization") == []

    assert (queued_ids("file_processing"), queued_ids("vectorization")) == ([], [f"{job.pk.hex}-1-1"])
    assert not valkey.exists(f"rq:job:{job.pk.hex}-1-0")
    assert job.events.get().message == "From file_processing to vectorization."
    assert execute(job).result == 3


def test_what_was_delivered_counts_as_undelivered_on_the_new_queue(job_in):
    job = job_in(QUEUED, delivered_epoch="epoch", delivered_at=timezone.now())

    control.move(job, queue="vectorization")

    assert (job.delivered_epoch, job.delivered_at, job.attempt) == ("", None, 1)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("status", [SCHEDULED, DEFERRED])
def test_a_job_that_is_not_queued_yet_is_moved_and_nothing_is_pushed(job_in, queued_ids, status):
    job = job_in(status)

    control.move(job, queue="vectorization")

    assert (fresh(job).queue, fresh(job).status) == ("vectorization", status)
    assert queued_ids("vectorization") == []


@pytest.mark.django_db(transaction=True)
def test_a_scheduled_job_that_was_moved_becomes_due_on_its_new_queue(job_in, queued_ids):
    job = job_in(SCHEDULED, scheduled_for=timezone.now() - timedelta(seconds=1))

    control.move(job, queue="vectorization")
    relay.run_once()

    assert queued_ids("vectorization") == [f"{job.pk.hex}-1-1"]


@pytest.mark.django_db(transaction=True)
def test_a_job_is_moved_from_a_queue_that_is_declared_no_longer(job_in, queued_ids, caplog):
    job = job_in(QUEUED, queue="retired")

    control.move(job, queue="vectorization")

    assert queued_ids("vectorization") == [f"{job.pk.hex}-1-1"]
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_job_is_not_moved_to_a_queue_that_is_not_declared(job_in):
    job = job_in(QUEUED)

    with pytest.raises(UnknownQueue, match=r'Unknown queue "vectorisation"\. Did you mean "vectorization"'):
        control.move(job, queue="vectorisation")

    assert (fresh(job).queue, traces()) == ("file_processing", 0)


def test_a_job_is_not_moved_to_where_it_is(job_in):
    job = job_in(QUEUED, delivered_epoch="epoch")

    with pytest.raises(NotPossible, match="is on the queue file_processing already") as refusal:
        control.move(job, queue="file_processing")

    assert (refusal.value.reason, fresh(job).delivered_epoch, traces()) == ("there already", "epoch", 0)


def test_move_asks_for_a_queue():
    with pytest.raises(TypeError, match="queue"):
        control.move(Job())


@pytest.mark.parametrize("status", sorted(Status))
def test_a_job_is_deleted_with_all_its_own_and_its_queue_keeps_the_trace(job_in, user_who_may, status):
    job, user = job_in(status), user_who_may("delete_job")
    JobEvent.objects.create(job=job, kind="canceled", attempt=1)
    now = timezone.now()
    job.attempts.create(number=1, claim_id=uuid4(), worker_name="w1", started_at=now, outcome="failed")
    again = job_in(QUEUED, requeued_from=job)
    message = f"Job {job.pk}: tests.tasks.add, {status}."

    control.delete(job, by=user)

    assert list(Job.objects.all()) == [again]
    assert (fresh(again).requeued_from, Attempt.objects.count(), JobEvent.objects.count()) == (None, 0, 0)
    event = QueueEvent.objects.get()
    assert (event.queue, event.kind, event.by) == ("file_processing", "job_deleted", user)
    assert event.message == message
    assert counted() == ({status.value: -1} if status in TERMINAL else {})


def test_an_observed_job_may_be_deleted(job_in):
    control.delete(job_in(STARTED, observed_id="abc"))

    assert not Job.objects.exists()


def test_the_report_of_a_job_that_was_deleted_makes_no_row_of_it(job_in):
    job = claim(job_in(QUEUED))
    control.delete(fresh(job))

    report(job, Outcome.finished(result=1), worker_name="w1")

    assert (Job.objects.count(), Attempt.objects.count(), counted()) == (0, 0, {})


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", VERBS)
def test_while_redis_is_not_to_be_reached_every_verb_works_in_the_database(job_in, settings, caplog, name):
    job = job_in(VERBS[name][2])
    settings.RQ_QUEUES = {each: {"URL": "redis://127.0.0.1:1/0"} for each in settings.RQ_QUEUES}

    steer(name, job)

    assert traces() == 1
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", VERBS)
def test_while_redis_answers_nothing_every_verb_takes_a_second(job_in, freeze, name):
    job = job_in(VERBS[name][2])
    freeze()

    with Stopwatch() as watch:
        steer(name, job)

    assert watch.seconds < 1.9
    assert traces() == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", ["cancel", "stop", "delete"])
def test_where_nothing_is_handed_to_a_server_none_is_asked(job_in, unasked_server, name):
    running, waiting = job_in(STARTED), job_in(QUEUED)

    with relay.withheld():
        steer(name, running)
        if name != "stop":
            steer(name, waiting)

    assert traces() >= 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("status", [QUEUED, STARTED])
@pytest.mark.parametrize("name", ["cancel", "mark_failed", "delete"])
def test_a_job_of_an_engine_that_is_used_no_longer_is_ended_all_the_same(job_in, name, status):
    job = job_in(status, engine="gone")

    steer(name, job)

    assert traces() == 1


def rounds():
    """Races are few where writers wait for one lock."""
    return range(12 if connection.vendor == "postgresql" else 8)


@pytest.mark.django_db(transaction=True)
def test_of_a_claim_and_a_cancel_at_once_one_wins_and_the_row_shows_it(job_in):
    worker = make_worker()
    for _ in rounds():
        job = job_in(QUEUED)
        before = counted().get("canceled", 0)

        canceled, claimed = at_once(partial(control.cancel, job), partial(claim, fresh(job), worker=worker))

        assert canceled is True
        if claimed:
            assert (fresh(job).status, fresh(job).is_canceling) == (STARTED, True)
            assert [kind for kind, _, _ in events(job)] == ["cancel_requested"]
        else:
            assert fresh(job).status == CANCELED
            assert [kind for kind, _, _ in events(job)] == ["canceled"]
        assert counted().get("canceled", 0) - before == (0 if claimed else 1)


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite lets one transaction write at a time.")
def test_a_job_that_is_retried_just_when_it_is_canceled_does_not_go_on(job_in):
    job = job_in(STARTED, max_attempts=2)

    with ThreadPoolExecutor() as pool:
        with transaction.atomic():
            report(fresh(job), Outcome.failed("ValueError", "why", ""), worker_name="w1")
            assert fresh(job).status == QUEUED
            canceled = pool.submit(at_once, partial(control.cancel, job))
            wait_until(waits_for_lock)
        assert canceled.result(60) == [True]

    assert (fresh(job).status, fresh(job).attempt) == (CANCELED, 2)


@pytest.mark.django_db(transaction=True)
def test_of_requeues_at_once_one_counts(job_in):
    for done in rounds():
        job = job_in(FAILED)

        answers = at_once(*[partial(control.requeue, fresh(job)) for _ in range(3)])

        assert [type(answer) for answer in answers if answer != job] == [NotRequeueable] * 2
        assert (fresh(job).status, fresh(job).attempt, len(events(job))) == (QUEUED, 2, 1)
        assert counted() == {"failed": -1 - done}


@pytest.mark.django_db(transaction=True)
def test_of_a_report_and_a_mark_at_once_one_wins_and_the_row_shows_it(job_in):
    for _ in rounds():
        job = job_in(STARTED)
        held, before = fresh(job), counted()

        marked, _ = at_once(
            partial(control.mark_failed, job, reason="stuck"),
            partial(report, held, Outcome.finished(result=1), worker_name="w1"),
        )

        was_late = isinstance(marked, NotPossible)
        ended, outcome, result = (FINISHED, "finished", 1) if was_late else (FAILED, "failed", None)
        assert (fresh(job).status, fresh(job).result) == (ended, result)
        assert job.attempts.get().outcome == outcome
        assert ("marked_failed" in [kind for kind, _, _ in events(job)]) is not was_late
        assert counted() == {**before, ended.value: before.get(ended.value, 0) + 1}


@pytest.mark.django_db(transaction=True)
def test_of_a_report_and_a_deletion_at_once_nothing_is_left(job_in):
    for _ in rounds():
        job = job_in(STARTED)
        held = fresh(job)

        answers = at_once(
            partial(control.delete, job),
            partial(report, held, Outcome.finished(result=1), worker_name="w1"),
        )

        assert answers == [None, None]
        assert (Job.objects.count(), Attempt.objects.count(), JobEvent.objects.count()) == (0, 0, 0)
        assert counted() == {}


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite lets one transaction write at a time.")
def test_a_job_is_not_deleted_between_a_late_report_and_its_trace(job_in):
    job = job_in(STARTED, max_attempts=2)
    held = fresh(job)
    lose(job, "Worker w1 is gone.")

    with ThreadPoolExecutor() as pool:
        with transaction.atomic():
            report(held, Outcome.finished(result="late"), worker_name="w1")
            deletion = pool.submit(at_once, partial(control.delete, job))
            wait_until(waits_for_lock)
        assert deletion.result(60) == [None]

    assert (Job.objects.count(), JobEvent.objects.count()) == (0, 0)


@pytest.mark.django_db(transaction=True)
def test_of_a_requeue_of_a_finished_job_and_its_deletion_at_once_both_hold(job_in):
    for _ in rounds():
        job = job_in(FINISHED)
        other_view = fresh(job)

        again, deleted = at_once(partial(control.requeue, job), partial(control.delete, other_view))

        assert deleted is None
        if isinstance(again, JobDoesNotExist):
            assert not Job.objects.exists()
        else:
            assert (Job.objects.get().pk, fresh(again).requeued_from) == (again.pk, None)
        Job.objects.all().delete()


def test_an_option_that_is_taken_for_the_user_is_told_so(job_factory):
    with pytest.raises(
        TypeError, match=r"^by='vectorization' is no user; give one, and options by their names"
    ):
        control.move(job_factory(), "vectorization")
