"""Operations: a verb for all jobs that match, in chunks, none left out and none twice."""

from collections import Counter
from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission, User
from django.db import OperationalError, connection
from django.utils import timezone
from uuid6 import uuid7

from django_jobs import control, operations, relay, retention
from django_jobs.control import together
from django_jobs.exceptions import SearchError, UnknownQueue
from django_jobs.models import Job, JobEvent, Operation, QueueEvent, tallies
from django_jobs.states import CANCELED, DEFERRED, FAILED, FINISHED, QUEUED, SCHEDULED, STARTED, Status
from tests.conftest import fresh
from tests.threads import at_once, holding_locks

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]

State = Operation.State


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch):
    """A pass does a chunk of each operation, also where the machine is slow."""
    monkeypatch.setattr(operations, "LONGEST_LOOK_SECONDS", 60)
    monkeypatch.setattr(operations, "LONGEST_PASS_SECONDS", 60)


def own_jobs(user, jobs):
    return jobs.filter(owner=user)


def make_many(count, **values):
    values = {"task": "tests.tasks.add", "queue": "file_processing", "engine": "rq", **values}
    return Job.objects.bulk_create(Job(**values) for _ in range(count))


def user_with(*codenames, name="ada"):
    user = User.objects.create_user(name)
    ours = Permission.objects.filter(content_type__app_label="django_jobs")
    user.user_permissions.set(ours.filter(codename__in=codenames))
    return user


@pytest.fixture
def ada():
    """Who may requeue all jobs that match."""
    return user_with("bulk_job", "requeue_job")


def run(operation, passes=1000):
    """As the maintainer does; the operation as it is then."""
    for _ in range(passes):
        if not operations.run_once():
            break
    return fresh(operation)


def by_status():
    return dict(Counter(Job.objects.values_list("status", flat=True)))


def counted():
    return {status: amount for (_, status), amount in tallies.totals().items() if amount}


def events_of(operation):
    return list(JobEvent.objects.filter(message__endswith=f"Operation {operation.pk}."))


# Start


def test_an_operation_waits_for_the_maintainer_and_tells_what_was_asked(ada):
    operation = operations.start("requeue", "status:failed", by=ada)

    row = fresh(operation)
    assert (row.verb, row.search, row.by, row.state) == ("requeue", "status:failed", ada, State.WAITING)
    assert (row.done, row.refused, row.finished_at) == (0, {}, None)


@pytest.mark.parametrize("search", ["", "  ", "\t\n", 'error:"', "qeue:mail", "status:broken"])
def test_a_search_for_all_jobs_or_of_no_use_is_refused(search):
    with pytest.raises(SearchError):
        operations.start("requeue", search)

    assert not Operation.objects.exists()


@pytest.mark.parametrize(
    ("verb", "options", "error"),
    [
        ("explode", {}, ValueError),
        ("enqueue", {}, ValueError),
        ("move", {}, TypeError),
        ("move", {"queue": "nowhere"}, UnknownQueue),
        ("move", {"queue": 5}, TypeError),
        ("move", {"queue": "vectorization", "reason": "x"}, TypeError),
        ("requeue", {"queue": "vectorization"}, TypeError),
        ("mark_failed", {"reason": None}, TypeError),
    ],
)
def test_verbs_and_options_of_no_use_are_refused(verb, options, error):
    with pytest.raises(error):
        operations.start(verb, "status:queued", **options)

    assert not Operation.objects.exists()


# What it does


@pytest.fixture
def two_of_each(job_factory):
    now = timezone.now()
    return [
        job_factory(status=status, scheduled_for=now if status == SCHEDULED else None)
        for status in [*Status, *Status]
    ]


@pytest.mark.parametrize(
    ("verb", "options", "done", "left", "added"),
    [
        ("cancel", {}, 8, {STARTED: 2, FINISHED: 2, FAILED: 2, CANCELED: 8}, {CANCELED: 6}),
        ("stop", {}, 2, dict.fromkeys(Status, 2), {}),
        (
            "requeue",
            {},
            6,
            {QUEUED: 8, SCHEDULED: 2, DEFERRED: 2, STARTED: 2, FINISHED: 2},
            {FAILED: -2, CANCELED: -2},
        ),
        ("run_now", {}, 2, {QUEUED: 4, DEFERRED: 2, STARTED: 2, FINISHED: 2, FAILED: 2, CANCELED: 2}, {}),
        ("mark_failed", {"reason": "x"}, 8, {FINISHED: 2, FAILED: 10, CANCELED: 2}, {FAILED: 8}),
        ("move", {"queue": "vectorization"}, 6, dict.fromkeys(Status, 2), {}),
        ("delete", {}, 14, {}, {FINISHED: -2, FAILED: -2, CANCELED: -2}),
    ],
)
def test_a_verb_is_done_as_it_is_to_one_job_and_the_rest_is_told(
    two_of_each, verb, options, done, left, added
):
    user = user_with(*Permission.objects.values_list("codename", flat=True))
    operation = operations.start(verb, "queue:file_processing", by=user, **options)

    row = run(operation)

    assert (row.state, row.done, row.matched) == (State.DONE, done, 14)
    refused = {f"is {job.status}": 2 for job in two_of_each if f"is {job.status}" in row.refused}
    assert row.refused == refused
    assert done + sum(refused.values()) == 14
    assert by_status() == {status.value: count for status, count in left.items()}
    assert counted() == {status.value: amount for status, amount in added.items()}
    traces = [*JobEvent.objects.all(), *QueueEvent.objects.all()]
    assert [event.by for event in traces] == [user] * done
    assert all(event.message.endswith(f"Operation {operation.pk}.") for event in traces)
    assert row.started_at <= row.finished_at


COLUMNS_OF_TIME = {
    "created_at",
    "scheduled_for",
    "queued_at",
    "started_at",
    "finished_at",
    "cancel_requested_at",
}


def told(job):
    """All that a verb may change, times without saying which."""
    row = Job.objects.filter(pk=job.pk).values().get()
    row |= {name: bool(row[name]) for name in COLUMNS_OF_TIME}
    return {name: value for name, value in row.items() if name not in ("id", "unique_key")}


@pytest.mark.parametrize(
    ("verb", "status"),
    [
        ("requeue", FAILED),
        ("requeue", CANCELED),
        ("cancel", QUEUED),
        ("cancel", SCHEDULED),
        ("cancel", DEFERRED),
    ],
)
def test_what_is_done_together_is_what_the_verb_does_to_one_job(job_factory, verb, status):
    values = {
        "status": status,
        "attempt": 2,
        "max_attempts": 2,
        "losses": 3,
        "delivery": 1,
        "delivered_epoch": "epoch",
        "cancel_requested_at": timezone.now() if status == FAILED else None,
        "finished_at": timezone.now() if status in (FAILED, CANCELED) else None,
        "scheduled_for": timezone.now() if status == SCHEDULED else None,
        "started_at": timezone.now(),
        "error_type": "ValueError",
        "error_message": "why",
        "traceback": "…",
        "fingerprint": "f",
        "progress": 40,
        "stages": {"a": {"status": "processing", "progress": 40}},
        "at_front": True,
    }
    one, many = job_factory(**values), job_factory(**values, subject="many")
    getattr(control, verb)(one)

    run(operations.start(verb, "subject:many"))

    assert told(many) | {"subject": ""} == told(one)
    event, other = one.events.get(), many.events.get()
    assert (other.kind, other.attempt, other.by) == (event.kind, event.attempt, event.by)


@pytest.mark.django_db(transaction=True)
def test_what_is_requeued_is_delivered_at_once(queued_ids):
    jobs = make_many(30, status=FAILED)

    run(operations.start("requeue", "status:failed"))

    assert queued_ids("file_processing") == [f"{job.pk.hex}-2-0" for job in jobs]


@pytest.mark.django_db(transaction=True)
def test_one_job_that_is_requeued_is_delivered_as_the_attempt_that_it_awaits(queued_ids):
    [job] = make_many(1, status=FAILED, attempt=3)

    run(operations.start("requeue", "status:failed"))

    assert queued_ids("file_processing") == [f"{job.pk.hex}-4-0"]


@pytest.mark.django_db(transaction=True)
def test_what_waited_in_redis_for_canceled_jobs_is_taken_back(queued_ids, job_factory):
    make_many(10)
    other = job_factory(queue="vectorization")
    relay.run_once()

    run(operations.start("cancel", "queue:file_processing"))

    assert queued_ids("file_processing") == []
    assert queued_ids("vectorization") == [f"{other.pk.hex}-1-0"]


def test_an_unfinished_job_that_holds_the_key_refuses_just_its_own(job_factory):
    held = job_factory(status=FAILED, unique_key="held")
    job_factory(unique_key="held")
    free = job_factory(status=FAILED, unique_key="free")
    twins = [job_factory(status=FAILED, unique_key="twins") for _ in range(2)]
    plain = job_factory(status=FAILED)

    row = run(operations.start("requeue", "status:failed"))

    assert (row.done, row.refused) == (3, {"unique key held": 2})
    assert [fresh(job).status for job in (held, free, plain)] == [FAILED, QUEUED, QUEUED]
    assert [fresh(job).status for job in twins] == [QUEUED, FAILED], "the older one"


def test_jobs_that_are_only_observed_are_left_to_their_library_but_may_be_deleted(job_factory):
    observed = job_factory(status=FAILED, observed_id="abc")

    row = run(operations.start("requeue", "status:failed"))
    assert (row.done, row.refused) == (0, {"only observed": 1})

    row = run(operations.start("delete", "status:failed"))
    assert (row.done, Job.objects.filter(pk=observed.pk).exists()) == (1, False)


def test_finished_jobs_are_copied_when_they_are_requeued():
    make_many(5, status=FINISHED, args=[1])

    row = run(operations.start("requeue", "status:finished"))

    assert (row.done, by_status()) == (5, {"finished": 5, "queued": 5})


# Chunks


def test_of_many_jobs_none_is_left_out_and_none_is_dealt_with_twice(monkeypatch):
    monkeypatch.setattr(operations, "CHUNK", 5)
    monkeypatch.setattr(operations, "LOOKED_THROUGH", 7)
    for status in (FAILED, FINISHED, FAILED, CANCELED) * 3:
        make_many(4, status=status)
    operation = operations.start("requeue", "status:failed")

    assert operations.run_once() == 1
    assert fresh(operation).done == 5
    row = run(operation)

    assert (row.state, row.matched, row.done, row.refused) == (State.DONE, 24, 24, {})
    assert by_status() == {"queued": 24, "finished": 12, "canceled": 12}
    assert JobEvent.objects.values("job").distinct().count() == JobEvent.objects.count() == 24
    assert counted() == {"failed": -24}


def test_what_takes_a_look_at_each_job_goes_in_smaller_chunks(monkeypatch):
    monkeypatch.setattr(operations, "SINGLY", 3)
    jobs = make_many(8, status=FINISHED)
    operation = operations.start("requeue", "status:finished")

    assert operations.run_once() == 1
    assert (fresh(operation).done, fresh(operation).cursor) == (3, jobs[2].pk)

    row = run(operation)
    assert (row.done, Job.objects.queued().values("requeued_from").distinct().count()) == (8, 8)


@pytest.mark.parametrize(
    "search",
    [
        "fingerprint:f1",
        "status:failed fingerprint:f1",
        "subject:file:1",
        "queue:file_processing status:failed",
    ],
)
def test_what_an_index_has_at_once_is_counted_and_done_without_a_look_at_all_others(monkeypatch, search):
    few = {"status": FAILED, "fingerprint": "f1", "subject": "file:1"}
    for _ in range(3):
        make_many(5, queue="vectorization")
        make_many(1, **few)
    monkeypatch.setattr(operations, "LOOKED_THROUGH", 2)
    monkeypatch.setattr(operations, "LONGEST_LOOK_SECONDS", -1)
    monkeypatch.setattr(operations, "LONGEST_PASS_SECONDS", -1)
    operation = operations.start("requeue", search)
    make_many(1, **few)

    operations.run_once()

    operation = fresh(operation)
    assert (operation.state, operation.matched, operation.done) == (State.DONE, 3, 3)
    assert by_status() == {QUEUED: 18, FAILED: 1}


def test_what_is_enqueued_after_the_start_of_an_operation_on_no_job_is_left_alone():
    operation = operations.start("cancel", "status:queued")
    make_many(1)

    assert run(operation).done == 0


def test_what_matches_nothing_is_done_at_once():
    make_many(3, status=FINISHED)

    row = run(operations.start("requeue", "status:failed"))

    assert (row.state, row.matched, row.done) == (State.DONE, 0, 0)
    assert operations.run_once() == 0


def test_without_any_job_it_is_done_at_once():
    assert run(operations.start("requeue", "status:failed")).state == State.DONE


def test_jobs_that_are_enqueued_or_fail_after_its_start_are_left_alone_if_they_are_newer():
    make_many(2, status=FAILED)
    operation = operations.start("requeue", "status:failed")
    [later] = make_many(1, status=FAILED)

    assert run(operation).done == 2
    assert fresh(later).status == FAILED


def test_times_in_the_search_are_those_of_its_start(monkeypatch):
    now = timezone.now()
    ago = {hours: _id_at(now - timedelta(hours=hours)) for hours in (5, 3, 1)}
    for job_id in ago.values():
        Job.objects.create(pk=job_id, task="tests.tasks.add", queue="file_processing", status=FAILED)
    operation = operations.start("requeue", "status:failed since:4h until:2h")

    monkeypatch.setattr(timezone, "now", lambda: now + timedelta(hours=2.5))
    row = run(operation)

    assert row.done == 1
    assert Job.objects.queued().get().pk == ago[3]


def _id_at(moment):
    job_id = uuid7().int & (2**80 - 1)
    return type(uuid7())(int=(int(moment.timestamp() * 1000) << 80) | job_id)


def test_a_job_that_changes_between_the_look_and_the_lock_is_left_alone(monkeypatch):
    jobs = make_many(3, status=FAILED)
    operation = operations.start("requeue", "status:failed")
    look = operations._next_ids

    def look_and_let_one_change(*given):
        found = look(*given)
        Job.objects.filter(pk=jobs[0].pk).update(status=FINISHED)
        Job.objects.filter(pk=jobs[1].pk).delete()
        return found

    monkeypatch.setattr(operations, "_next_ids", look_and_let_one_change)
    row = run(operation)

    assert (row.done, row.refused) == (1, {"is finished by now": 1, "deleted already": 1})


def test_several_operations_go_on_beside_each_other(monkeypatch):
    monkeypatch.setattr(operations, "CHUNK", 2)
    make_many(10, status=FAILED)
    make_many(10, queue="vectorization")
    first, second = (
        operations.start("requeue", "status:failed"),
        operations.start("cancel", "queue:vectorization"),
    )

    assert operations.run_once() == 2

    assert (fresh(first).done, fresh(second).done) == (2, 2)
    assert (run(first).done, run(second).done) == (10, 10)


# Killed, and two at once


def test_a_chunk_that_is_cut_is_undone_with_its_progress_and_done_anew(monkeypatch):
    monkeypatch.setattr(operations, "CHUNK", 5)
    make_many(10, status=FAILED)
    operation = operations.start("requeue", "status:failed")
    operations.run_once()

    def cut(*given):
        raise OperationalError("server closed the connection unexpectedly")

    with monkeypatch.context() as patch:
        patch.setattr(relay, "push_at_commit", cut)
        with pytest.raises(OperationalError):
            operations.run_once()
    assert (fresh(operation).done, fresh(operation).state) == (5, State.RUNNING)
    assert by_status() == {"queued": 5, "failed": 5}

    row = run(operation)
    assert (row.state, row.done, JobEvent.objects.count()) == (State.DONE, 10, 10)


@pytest.mark.django_db(transaction=True)
def test_two_maintainers_at_once_do_no_job_twice(monkeypatch):
    monkeypatch.setattr(operations, "CHUNK", 5)
    make_many(60, status=FAILED)
    operation = operations.start("requeue", "status:failed")

    def run_all():
        for _ in range(200):
            try:
                operations.run_once()
            except OperationalError:  # SQLite is locked.
                continue
            if fresh(operation).finished_at:
                break

    assert at_once(run_all, run_all) == [None, None]

    assert (fresh(operation).state, fresh(operation).done) == (State.DONE, 60)
    assert JobEvent.objects.values("job").distinct().count() == JobEvent.objects.count() == 60
    assert set(Job.objects.values_list("attempt", flat=True)) == {2}


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(connection.vendor == "sqlite", reason="It locks no rows.")
def test_an_operation_that_another_maintainer_has_in_hand_is_passed_by():
    make_many(3, status=FAILED)
    operation = operations.start("requeue", "status:failed")

    with holding_locks(lambda: Operation.objects.select_for_update().get()):
        assert operations.run_once() == 0

    assert run(operation).done == 3


@pytest.mark.django_db(transaction=True)
def test_nobody_waits_while_it_is_counted_how_many_jobs_match(monkeypatch):
    make_many(3, status=FAILED)
    operation = operations.start("requeue", "status:failed")
    count, aborted = operations._count, []

    def count_while_somebody_aborts(*asked):
        aborted.extend(at_once(lambda: operations.abort(operation)))
        return count(*asked)

    monkeypatch.setattr(operations, "_count", count_while_somebody_aborts)
    row = run(operation)

    assert aborted == [True]
    assert (row.state, row.done, by_status()) == (State.ABORTED, 0, {"failed": 3})


# Who may, while it goes on


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda user: user.user_permissions.clear(), "User ada lacks the permission django_jobs.bulk_job."),
        (
            lambda user: user.user_permissions.remove(Permission.objects.get(codename="requeue_job")),
            "User ada lacks the permission django_jobs.requeue_job.",
        ),
        (
            lambda user: User.objects.update(is_active=False),
            "User ada, who started it, is not active any more.",
        ),
        (lambda user: user.delete(), "User ada, who started it, was deleted."),
    ],
    ids=["bulk_job", "requeue_job", "deactivated", "deleted"],
)
def test_who_may_no_longer_ends_the_operation_which_says_so(monkeypatch, ada, change, told):
    monkeypatch.setattr(operations, "CHUNK", 2)
    make_many(4, status=FAILED)
    operation = operations.start("requeue", "status:failed", by=ada)
    operations.run_once()

    change(ada)
    row = run(operation)

    assert (row.state, row.done, row.error) == (State.FAILED, 2, told)
    assert row.finished_at
    assert by_status() == {"queued": 2, "failed": 2}


def test_an_operation_of_trusted_code_goes_on_without_a_user(settings):
    make_many(2, status=FAILED)
    operation = operations.start("requeue", "status:failed")
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "READ_ONLY": True}

    assert (run(operation).state, by_status()) == (State.DONE, {"queued": 2})


def test_read_only_stops_what_a_user_started(settings, ada):
    make_many(2, status=FAILED)
    operation = operations.start("requeue", "status:failed", by=ada)
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "READ_ONLY": True}

    row = run(operation)

    assert (row.state, row.done) == (State.FAILED, 0)
    assert "READ_ONLY" in row.error


@pytest.mark.parametrize("verb", ["requeue", "delete", "cancel"])
def test_just_the_jobs_that_the_user_sees_are_meant(settings, verb):
    user = user_with("bulk_job", "requeue_job", "delete_job", "cancel_job")
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "VISIBLE_JOBS": f"{__name__}.own_jobs"}
    status = QUEUED if verb == "cancel" else FAILED
    make_many(2, status=status, owner=user)
    others = make_many(3, status=status)

    row = run(operations.start(verb, f"status:{status}", by=user))

    assert (row.done, row.matched, row.refused) == (2, 2, {})
    assert {fresh(job).status for job in others} == {status}


def test_who_may_not_see_arguments_any_more_asks_by_them_no_longer():
    ada = user_with("bulk_job", "requeue_job", "view_job_arguments")
    [job] = make_many(1, status=FAILED)
    operation = operations.start("requeue", "status:failed -args.left:1", by=ada)
    ada.user_permissions.remove(Permission.objects.get(codename="view_job_arguments"))

    row = run(operation)

    assert (row.state, row.matched) == ("failed", None)
    assert "lacks the permission django_jobs.view_job_arguments" in row.error
    assert fresh(job).status == FAILED


def test_who_may_not_see_arguments_may_not_ask_by_them(ada):
    with pytest.raises(Exception, match="view_job_arguments"):
        operations.start("requeue", "status:failed args.left:x", by=ada)


# Its end


def test_an_operation_is_aborted_between_chunks(monkeypatch, ada):
    monkeypatch.setattr(operations, "CHUNK", 2)
    make_many(6, status=FAILED)
    operation = operations.start("requeue", "status:failed", by=ada)
    operations.run_once()

    assert operations.abort(operation, by=ada) is True
    assert operations.abort(operation, by=ada) is False
    row = run(operation)

    assert (row.state, row.done, row.error) == (State.ABORTED, 2, "Aborted by ada.")
    assert operations.abort(operation) is False
    assert by_status() == {"queued": 2, "failed": 4}


def test_an_unexpected_error_ends_it_and_no_other(monkeypatch, caplog):
    make_many(2, status=FAILED)
    make_many(2, queue="vectorization")

    def stumble(*given):
        raise LookupError("stumbled")

    monkeypatch.setitem(operations._TOGETHER, "requeue", stumble)
    monkeypatch.setitem(together.TOGETHER, stumble, (FAILED,))
    broken, fine = (
        operations.start("requeue", "status:failed"),
        operations.start("cancel", "queue:vectorization"),
    )

    run(broken)

    assert (fresh(broken).state, fresh(broken).error) == (State.FAILED, "LookupError: stumbled")
    assert (fresh(fine).state, fresh(fine).done) == (State.DONE, 2)
    assert "stumbled" in caplog.text


def test_a_queue_that_is_gone_ends_it(settings):
    make_many(2)
    operation = operations.start("move", "status:queued", queue="vectorization")
    settings.RQ_QUEUES = {name: each for name, each in settings.RQ_QUEUES.items() if name != "vectorization"}

    row = run(operation)

    assert row.state == State.FAILED
    assert row.error.startswith('Unknown queue "vectorization"')


def test_operations_that_ended_90_days_ago_are_deleted():
    now = timezone.now()
    ended = [
        (State.DONE, 91),
        (State.FAILED, 91),
        (State.ABORTED, 91),
        (State.DONE, 89),
        (State.RUNNING, None),
    ]
    rows = [
        Operation.objects.create(
            verb="cancel", state=state, finished_at=now - timedelta(days=days) if days else None
        )
        for state, days in ended
    ]

    retention.Retention().run_once()

    assert set(Operation.objects.values_list("pk", flat=True)) == {rows[3].pk, rows[4].pk}


# The estimate


def test_how_long_it_takes_is_told_by_its_pace_so_far(monkeypatch):
    monkeypatch.setattr(operations, "CHUNK", 5)
    make_many(20, status=FAILED)
    operation = operations.start("requeue", "status:failed")
    assert operations.remaining_seconds(operation) is None

    operations.run_once()
    Operation.objects.update(started_at=timezone.now() - timedelta(seconds=10))

    assert 29 < operations.remaining_seconds(fresh(operation)) < 40
    assert operations.remaining_seconds(run(operation)) is None


def test_how_long_it_takes_is_told_where_counting_ended_early(monkeypatch):
    monkeypatch.setattr(operations, "CHUNK", 5)
    monkeypatch.setattr(operations, "MOST_COUNTED", 10)
    for number in range(20):
        job_id = _id_at(timezone.now() - timedelta(hours=20 - number))
        Job.objects.create(pk=job_id, task="tests.tasks.add", queue="file_processing", status=FAILED)
    operation = operations.start("requeue", "status:failed")

    operations.run_once()
    Operation.objects.update(started_at=timezone.now() - timedelta(seconds=10))

    assert fresh(operation).matched == 11
    Operation.objects.filter(pk=operation.pk).update(
        search="args.password:x"
    )  # Refused by settings of today.
    assert operations.remaining_seconds(fresh(operation)) is None
    Operation.objects.filter(pk=operation.pk).update(search="status:failed")
    assert 30 < operations.remaining_seconds(fresh(operation)) < 45  # 4 of 19 hours are behind it.
