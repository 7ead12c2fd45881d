"""Groups of errors: failures that are alike, what people decide about them, and when they open again."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission, User
from django.core.exceptions import PermissionDenied
from django.utils import timezone

from django_jobs import control, errors, figures, grouping, outcomes
from django_jobs.exceptions import NotPossible
from django_jobs.models import ErrorCount, ErrorGroup, FigureDelta, Job
from django_jobs.models.figures import start_of
from django_jobs.outcomes import Outcome
from django_jobs.reports import report
from django_jobs.retries import Retry
from django_jobs.states import STARTED
from tests.conftest import claim, fresh

pytestmark = pytest.mark.django_db

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
TRACEBACK = """Traceback (most recent call last):
  File "/srv/app/shop/tasks.py", line {line}, in bill
    charge(order)
ValueError: order {order} has no card"""


def fail(job_factory, order=1, *, ago=timedelta(0), line=7, worker_name="w1", message=None, **values):
    """Have a job fail, as if that had been so long ago; the figures are folded."""
    job = job_factory(status=STARTED, **values)
    told = message or f"order {order} has no card"
    outcome = Outcome.failed("ValueError", told, TRACEBACK.format(line=line, order=order))
    report(job, outcome, worker_name=worker_name)
    FigureDelta.objects.update(at=timezone.now() - ago)
    fold()
    return fresh(job)


def fold():
    while figures.fold():
        pass


def group():
    return ErrorGroup.objects.get()


@pytest.fixture
def one(job_factory):
    """A group with one failure, an hour ago."""
    fail(job_factory, ago=HOUR)
    return group()


def user_who_may(*codenames):
    user = User.objects.create_user("ada")
    own = Permission.objects.filter(content_type__app_label="django_jobs")
    user.user_permissions.set(own.filter(codename__in=codenames))
    return user


# What a group tells.


def test_failures_that_are_alike_are_one_group(job_factory):
    first = fail(job_factory, 1, ago=3 * HOUR, task="shop.bill", worker_name="w1")
    fail(job_factory, 22, ago=HOUR, line=8, task="shop.bill", worker_name="w2")
    last = fail(job_factory, 333, task="shop.retry", worker_name="w2")

    found = group()
    assert (found.error_type, found.frame, found.count) == ("ValueError", "shop/tasks.py in bill", 3)
    assert (found.message, found.sample) == ("order 333 has no card", last.pk)
    assert (found.tasks, found.workers) == ({"shop.bill": 2, "shop.retry": 1}, {"w1": 1, "w2": 2})
    assert found.last_seen - found.first_seen == pytest.approx(3 * HOUR, abs=MINUTE)
    assert (found.state, found.reopened_at, found.changed_at) == ("open", None, None)
    assert first.fingerprint == last.fingerprint == found.pk
    assert set(Job.objects.failed().filter(fingerprint=found.pk)) == set(Job.objects.all())


def test_failures_that_are_not_alike_are_groups_of_their_own(job_factory):
    fail(job_factory)
    fail(job_factory, message="the bank is closed")

    assert [found.count for found in ErrorGroup.objects.all()] == [1, 1]


def test_the_newest_failure_is_told_in_whatever_order_they_are_folded(job_factory):
    newest = fail(job_factory, 2, ago=MINUTE)
    fail(job_factory, 1, ago=HOUR)

    assert (group().sample, group().message) == (newest.pk, "order 2 has no card")
    assert group().last_seen - group().first_seen == pytest.approx(HOUR, abs=2 * MINUTE)


def test_the_attempt_that_failed_so_is_told_though_the_job_failed_otherwise_since(job_factory):
    job = claim(job_factory(max_attempts=2))
    told = TRACEBACK.format(line=7, order=1)
    report(job, Outcome.failed("ValueError", "no card 1", told), worker_name="w1")
    report(claim(fresh(job)), Outcome.failed("KeyError", "other", ""), worker_name="w1")
    fold()

    assert set(ErrorGroup.objects.values_list("error_type", "message", "frame")) == {
        ("ValueError", "no card 1", "shop/tasks.py in bill"),
        ("KeyError", "other", ""),
    }


def test_a_failure_whose_job_is_deleted_already_makes_no_group_but_counts(job_factory):
    job = claim(job_factory())
    report(job, Outcome.failed("ValueError", "why", ""), worker_name="w1")
    fresh(job).delete()
    fold()

    assert not ErrorGroup.objects.exists()
    assert figures.total(HOUR).failed == 1


def test_a_loss_counts_in_a_group_until_it_turns_out_that_its_work_was_done(job_factory):
    job = claim(job_factory())
    outcomes.lose(job, "Worker w1 is silent.")
    fold()
    assert (group().error_type, group().count, group().workers) == ("WorkerLost", 1, {"w1": 1})

    report(job, Outcome.finished(), worker_name="w1")
    fold()

    assert (group().count, group().workers, group().tasks) == (0, {}, {})
    assert [count.count for count in ErrorCount.objects.all()] == [0]


def test_what_is_no_failure_belongs_to_no_group(job_factory):
    for outcome in (
        Outcome.finished(),
        Outcome.canceled(),
        Outcome.retried(Retry(max=3), "Retry", "not yet", ""),
        Outcome.elsewhere(60),
    ):
        report(claim(job_factory()), outcome, worker_name="w1")
    fold()

    assert not ErrorGroup.objects.exists()


def test_a_failure_that_is_reported_from_outside_has_no_worker(job_factory, valkey):
    control.fail(claim(job_factory()), "no paper")
    fold()

    assert (group().error_type, group().workers, group().tasks) == (
        "ReportedFailure",
        {},
        {"tests.tasks.add": 1},
    )


def test_secrets_in_a_message_are_masked(job_factory):
    fail(job_factory, message="login with password=hunter2 failed")

    assert group().message == "login with password=******** failed"


def test_a_group_names_the_tasks_and_workers_that_failed_most(job_factory):
    job = fail(job_factory, task="shop.task_7")
    for number in range(40):
        FigureDelta.objects.create(
            queue="mail",
            task=f"shop.task_{number}",
            worker_name=f"w{number}",
            outcome="failed",
            fingerprint=job.fingerprint,
            sample=job.pk,
            amount=number + 1,
        )
    fold()

    assert group().count == 821
    assert len(group().tasks) == len(group().workers) == grouping.MOST_NAMED == 20
    assert (max(group().tasks.values()), min(group().workers.values())) == (40, 21)


def test_failures_are_counted_by_the_hour(job_factory):
    for hours in (0, 0, 2, 30):
        fail(job_factory, ago=hours * HOUR)

    counts = ErrorCount.objects.order_by("-start").values_list("count", flat=True)
    assert list(counts) == [2, 1, 1]


# What people decide.


def test_a_resolved_group_opens_when_it_comes_back(job_factory, one):
    errors.resolve(one)
    assert (one.state, one.reopened_at) == ("resolved", None)
    assert list(ErrorGroup.objects.open()) == []

    fail(job_factory)

    assert (group().state, group().count) == ("open", 2)
    assert group().reopened_at == group().last_seen


def test_a_resolved_group_stays_so_when_a_failure_from_before_is_folded_later(job_factory, one):
    errors.resolve(one)

    fail(job_factory, ago=MINUTE)

    assert (group().state, group().count, group().reopened_at) == ("resolved", 2, None)


def test_a_resolved_group_stays_so_when_a_loss_is_taken_back(job_factory):
    job = claim(job_factory())
    outcomes.lose(job, "Worker w1 is silent.")
    fold()
    errors.resolve(group())

    report(job, Outcome.finished(), worker_name="w1")
    fold()

    assert group().state == "resolved"


def test_an_ignored_group_stays_so_for_ever_or_until_its_time_is_over(job_factory, one):
    errors.ignore(one, until=None)
    fail(job_factory)
    assert (group().state, group().ignored_until, group().count) == ("ignored", None, 2)

    errors.ignore(one, until=timezone.now() + DAY)
    fail(job_factory)
    assert group().state == "ignored"
    assert list(ErrorGroup.objects.open()) == []

    ErrorGroup.objects.update(ignored_until=timezone.now() - MINUTE)
    assert list(ErrorGroup.objects.open()) == [one]
    fail(job_factory)
    assert (group().state, group().ignored_until, group().reopened_at) == ("open", None, None)


def test_a_decision_is_told_with_who_made_it_and_when(one):
    user = user_who_may("resolve_errorgroup")

    resolved = errors.resolve(one, by=user)

    assert (resolved.changed_by, resolved.state) == (user, "resolved")
    assert timezone.now() - resolved.changed_at < MINUTE
    errors.reopen(one)
    assert (group().changed_by, group().state) == (None, "open")


VERBS = {
    "resolve": errors.resolve,
    "ignore": lambda group, by=None: errors.ignore(group, by, until=timezone.now() + DAY),
    "reopen": errors.reopen,
}
ALLOWED = {"resolve": ["open", "ignored"], "ignore": ["open", "ignored"], "reopen": ["resolved", "ignored"]}
BECOMES = {"resolve": "resolved", "ignore": "ignored", "reopen": "open"}


@pytest.mark.parametrize("state", ["open", "resolved", "ignored"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_decision_is_possible_in_some_states_and_refused_in_others(one, verb, state):
    ErrorGroup.objects.update(state=state, reopened_at=timezone.now())

    if state in ALLOWED[verb]:
        VERBS[verb](one)
        assert (group().state, group().reopened_at) == (BECOMES[verb], None)
    else:
        with pytest.raises(
            NotPossible, match=f"^ValueError in shop/tasks.py in bill is {state}; only "
        ) as error:
            VERBS[verb](one)
        assert error.value.reason == f"is {state}"
        assert group().changed_at is None


@pytest.mark.parametrize("verb", VERBS)
def test_who_has_every_permission_but_the_one_decides_nothing(one, verb):
    others = Permission.objects.exclude(codename="resolve_errorgroup").values_list("codename", flat=True)
    user = user_who_may(*others)

    with pytest.raises(PermissionDenied, match="lacks the permission"):
        VERBS[verb](one, by=user)

    assert group().changed_at is None


@pytest.mark.parametrize("verb", VERBS)
def test_a_group_that_was_deleted_meanwhile_is_told_so(one, verb):
    ErrorGroup.objects.all().delete()

    with pytest.raises(NotPossible, match="it was deleted"):
        VERBS[verb](one)


@pytest.mark.parametrize("until", [timezone.now() - DAY, (timezone.now() + DAY).replace(tzinfo=None)])
def test_a_group_is_ignored_until_a_time_that_is_to_come(one, until):
    with pytest.raises(ValueError, match="give a time to come, with its time zone"):
        errors.ignore(one, until=until)


def test_sparklines_have_a_count_for_each_hour_and_take_one_query(job_factory, django_assert_num_queries):
    for hours in (0, 0, 2, 30):
        fail(job_factory, ago=hours * HOUR)
    fail(job_factory, message="the bank is closed", ago=5 * HOUR)
    groups = list(ErrorGroup.objects.order_by("count"))

    with django_assert_num_queries(1):
        lines = errors.sparklines(groups, hours=6)

    assert lines == {groups[0].pk: [1, 0, 0, 0, 0, 0], groups[1].pk: [0, 0, 0, 1, 0, 2]}


# Keeping.


def test_counts_are_kept_for_ninety_days_and_groups_for_a_year(job_factory):
    now = timezone.now()
    ages = [(80, "open"), (100, "open"), (364, "resolved"), (366, "open"), (366, "ignored")]
    for number, (days, state) in enumerate(ages):
        seen = now - days * DAY
        found = ErrorGroup.objects.create(
            fingerprint=f"{number:032x}", error_type="E", state=state, first_seen=seen, last_seen=seen
        )
        ErrorCount.objects.create(group=found, start=start_of("hour", seen), count=1)

    figures.prune(now)

    kept = sorted((round((now - found.last_seen) / DAY), found.state) for found in ErrorGroup.objects.all())
    assert kept == [(80, "open"), (100, "open"), (364, "resolved"), (366, "ignored")]
    assert ErrorCount.objects.count() == 1
