"""Figures: every attempt counts once, in its minute, its hour and its day, however it ended."""

import json
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.utils import timezone

from django_jobs import batches, control, figures, observed, observer, outcomes, reports
from django_jobs.batches import Report
from django_jobs.engines.base import Run, Seen
from django_jobs.exceptions import JobsError
from django_jobs.figures import Figures
from django_jobs.fingerprints import fingerprint
from django_jobs.models import Attempt, Census, ErrorCount, ErrorGroup, FigureDelta, Job, Rollup
from django_jobs.models.figures import bucket
from django_jobs.outbox import Outbox
from django_jobs.outcomes import Outcome
from django_jobs.reports import report
from django_jobs.retention import prune_figures
from django_jobs.retries import Retry
from django_jobs.states import FAILED, FINISHED, QUEUED, STARTED
from tests import tasks
from tests.conftest import claim, execute, fresh, make_worker, wait_until
from tests.threads import at_once, waits_for_lock

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
PERIODS = ["minute", "hour", "day"]
OUTCOMES = ["finished", "failed", "lost", "retried", "canceled"]
DONE = {"progress": 100, "progress_message": "", "stage": "", "stages": {}, "stage_names": []}
BROKEN = Outcome.failed("ValueError", "why", "")


def fold():
    while figures.fold():
        pass
    assert not FigureDelta.objects.exists()


def add(at=NOON, amount=1, *, queue="mail", task="shop.pay", outcome="finished", waited=None, ran=None):
    """An addition of that time."""
    return FigureDelta.objects.create(
        at=at,
        queue=queue,
        task=task,
        outcome=outcome,
        amount=amount,
        wait_bucket=None if waited is None else bucket(waited),
        run_bucket=None if ran is None else bucket(ran),
        wait_seconds=amount * (waited or 0),
        run_seconds=amount * (ran or 0),
    )


def told(period, **of):
    """{outcome: how many} by all rows of this period."""
    found = Counter()
    for row in Rollup.objects.filter(period=period, **{"queue": "", "task": "", **of}):
        found.update(finished=row.finished, failed=row.failed - row.lost, lost=row.lost)
        found.update(retried=row.retried, canceled=row.canceled)
    return +found


def stored(**where):
    """{outcome: how many} by the attempts themselves."""
    return Counter(
        Attempt.objects.exclude(outcome="elsewhere").filter(**where).values_list("outcome", flat=True)
    )


def assert_each_attempt_counts_once():
    for period in PERIODS:
        assert told(period) == stored()
        for queue in set(Job.objects.values_list("queue", flat=True)):
            assert told(period, queue=queue) == stored(job__queue=queue)
        for task in set(Job.objects.values_list("task", flat=True)):
            assert told(period, task=task) == stored(job__task=task)


# However an attempt ends.


def put(outbox, job, outcome):
    document = reports.document(job, replace(outcome, progress=DONE), "w1")
    status, seconds = document["status"], document["ran_seconds"]
    outbox.put(Report(job.pk, job.queue, document["outcome"], status, seconds, json.dumps(document)))


def report_together(job, outcome):
    outbox = Outbox(job.worker_id)
    put(outbox, job, outcome)
    assert len(outbox.flush()) == 1


def report_alone(job, outcome):
    report(job, outcome, worker_name="w1")


def hand_over(job, then, way=report_together):
    way(job, Outcome.elsewhere(60))
    assert not FigureDelta.objects.exists()
    then(fresh(job))


def lose(job):
    assert outcomes.lose(job, "Worker w1 is silent.")


def lose_one_to_be_canceled(job):
    control.cancel(fresh(job))
    lose(job)


def report_late(job, outcome):
    lose(job)
    fold()
    report_alone(job, outcome)


def report_after_the_next_began(job):
    Job.objects.filter(pk=job.pk).update(max_attempts=2)
    lose(fresh(job))
    report_alone(claim(fresh(job)), Outcome.finished())
    report_alone(job, Outcome.finished())


def repeat(way, job, outcome):
    for _ in range(3):
        way(job, outcome)


def deliver_twice(job, outcome):
    document = reports.document(job, replace(outcome, progress=DONE), "w1")
    for _ in range(2):
        assert reports.deliver(document)


def cancel_while_it_fails(way, job):
    control.cancel(fresh(job))
    way(job, BROKEN)


def cancel_while_it_is_handed_over(job):
    control.cancel(fresh(job))
    report_together(job, Outcome.elsewhere(60))


WAYS = {
    "reported alone": (partial(report_alone, outcome=Outcome.finished()), "finished"),
    "reported together": (partial(report_together, outcome=Outcome.finished()), "finished"),
    "failed alone": (partial(report_alone, outcome=BROKEN), "failed"),
    "failed together": (partial(report_together, outcome=BROKEN), "failed"),
    "asked for another alone": (
        partial(report_alone, outcome=Outcome.retried(Retry(max=2), "E", "", "")),
        "retried",
    ),
    "asked for another together": (
        partial(report_together, outcome=Outcome.retried(Retry(max=2), "E", "", "")),
        "retried",
    ),
    "asked for too many": (
        partial(report_together, outcome=Outcome.retried(Retry(max=0), "E", "", "")),
        "failed",
    ),
    "canceled by its worker": (partial(report_together, outcome=Outcome.canceled()), "canceled"),
    "failed while it was to be canceled": (partial(cancel_while_it_fails, report_alone), "failed"),
    "failed together while it was to be canceled": (
        partial(cancel_while_it_fails, report_together),
        "failed",
    ),
    "repeated alone": (partial(repeat, report_alone, outcome=Outcome.finished()), "finished"),
    "repeated together": (partial(repeat, report_together, outcome=BROKEN), "failed"),
    "delivered from a file": (partial(deliver_twice, outcome=Outcome.finished()), "finished"),
    "completed from outside": (control.complete, "finished"),
    "failed from outside": (partial(control.fail, error="no paper"), "failed"),
    "marked as failed": (control.mark_failed, "failed"),
    "lost": (lose, "lost"),
    "lost while it was to be canceled": (lose_one_to_be_canceled, "canceled"),
    "taken for lost, and finished": (
        partial(report_late, outcome=Outcome.finished(ran_seconds=1)),
        "finished",
    ),
    "taken for lost, and failed": (partial(report_late, outcome=BROKEN), "lost"),
    "handed over and completed": (partial(hand_over, then=control.complete), "finished"),
    "handed over alone and completed": (
        partial(hand_over, then=control.complete, way=report_alone),
        "finished",
    ),
    "handed over and failed": (partial(hand_over, then=partial(control.fail, error="no")), "failed"),
    "handed over and lost": (partial(hand_over, then=lose), "lost"),
    "handed over and canceled": (partial(hand_over, then=control.cancel), "canceled"),
    "handed over while it was to be canceled": (cancel_while_it_is_handed_over, "canceled"),
    "refused by the database": (partial(outcomes.fail_untold, why="odd", worker_name="w1"), "failed"),
}


@pytest.mark.usefixtures("valkey")
@pytest.mark.parametrize("way", WAYS)
def test_however_an_attempt_ends_it_counts_once(job_factory, way):
    end, outcome = WAYS[way]
    job = claim(job_factory())

    end(job)
    fold()

    assert told("day") == {outcome: 1}
    assert_each_attempt_counts_once()


@pytest.mark.usefixtures("valkey")
def test_an_attempt_that_is_superseded_counts_as_lost_and_its_late_report_does_not(job_factory):
    report_after_the_next_began(claim(job_factory()))
    fold()

    assert told("day") == {"lost": 1, "finished": 1}
    assert_each_attempt_counts_once()


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("unasked_server")
def test_a_job_that_ran_at_once_counts_once(settings):
    settings.DJANGO_JOBS = {"ALLOWED_TASKS": ["tests.tasks"], "IMMEDIATE": True}

    tasks.add.enqueue(1, 2)
    tasks.fail.enqueue()
    fold()

    assert told("day") == {"finished": 1, "failed": 1}
    assert_each_attempt_counts_once()


@pytest.mark.usefixtures("valkey")
def test_a_job_that_has_not_begun_counts_nothing_however_it_ends(job_factory):
    control.complete(job_factory(), 1)
    control.cancel(job_factory())
    control.mark_failed(job_factory())

    assert not FigureDelta.objects.exists()


def test_an_attempt_tells_how_long_it_waited_and_ran(job_factory):
    job = job_factory(status=STARTED, started_at=timezone.now(), queued_at=timezone.now() - 5 * MINUTE)

    report_alone(job, Outcome.finished(ran_seconds=7))
    lose(job_factory(status=STARTED, started_at=timezone.now(), queued_at=timezone.now() - 5 * MINUTE))
    fold()

    found = figures.total(HOUR)
    assert (sum(found.waits), sum(found.runs)) == (2, 1)
    assert (found.waits[bucket(300)], found.runs[bucket(7)]) == (2, 1)
    assert found.wait_seconds == pytest.approx(600, abs=5)
    assert found.run_seconds == found.mean_run_seconds == 7


def test_a_batch_of_alike_reports_adds_few_rows(job_factory):
    worker = make_worker()
    queued_at = timezone.now() - 90 * MINUTE
    jobs = [job_factory(queued_at=queued_at) for _ in range(200)]
    claimed = batches.claim([(job.pk, 1) for job in jobs], worker.pk, uuid4())
    outbox = Outbox(worker.pk)
    for each in claimed:
        put(outbox, batches.job_of(each.row), Outcome.finished(ran_seconds=0.02))

    assert len(outbox.flush()) == 200

    delta = FigureDelta.objects.get()
    assert (delta.amount, delta.outcome, delta.queue, delta.task) == (
        200,
        "finished",
        "file_processing",
        "tests.tasks.add",
    )
    assert (delta.wait_bucket, delta.run_bucket) == (bucket(5400), bucket(0.02))
    assert delta.run_seconds == pytest.approx(4)
    assert delta.wait_seconds == pytest.approx(200 * 5400, rel=0.01)


# Jobs of plain RQ.


def news(status, run=None, error=("", "", ""), *, number=1):
    return Seen(
        engine="rq",
        id=f"plain-{number}",
        created_at=NOON,
        queue="file_processing",
        status=status,
        task="shop.pay",
        description="shop.pay(…)",
        timeout_seconds=180,
        queued_at=NOON,
        run=run,
        error=error,
    )


def plain_run(outcome="", *, minutes=1, worker_name="w1"):
    began = NOON + minutes * MINUTE
    ended_at = began + timedelta(seconds=90) if outcome else None
    return Run(uuid4(), worker_name, started_at=began, ended_at=ended_at, outcome=outcome)


def end_of(run, outcome):
    return replace(run, outcome=outcome, ended_at=run.started_at + timedelta(seconds=90))


def test_an_attempt_of_a_plain_job_counts_once_at_its_own_time():
    run = plain_run()
    observer.record(news(STARTED, run))
    for _ in range(3):
        observer.record(news(FINISHED, end_of(run, "finished")))
    fold()

    (minute,) = figures.series("minute", NOON + 2 * MINUTE, NOON + 3 * MINUTE, task="shop.pay")
    assert (minute.finished, minute.ended) == (1, 1)
    assert (minute.waits[bucket(60)], minute.runs[bucket(90)]) == (1, 1)
    assert (minute.wait_seconds, minute.run_seconds) == (60, 90)
    assert_each_attempt_counts_once()


def test_a_failed_attempt_of_a_plain_job_has_the_fingerprint_of_its_error():
    error = ("ValueError", "why", "Traceback …")
    observer.record(news(FAILED, plain_run("failed"), error))
    fold()

    assert Job.objects.get().fingerprint == fingerprint(*error)
    group = ErrorGroup.objects.get()
    assert (group.pk, group.error_type, group.count) == (fingerprint(*error), "ValueError", 1)


@pytest.mark.parametrize(
    "order",
    [
        [0, 1, 2, 3],
        [0, 0, 1, 1, 2, 2, 3, 3],
        [1, 3],
        [0, 2, 1, 3],  # The retry began before the first end was told.
        [0, 2, 3, 1],
        [0, 1, 3, 2],
        [1, 0, 3, 2, 1],
    ],
)
@pytest.mark.parametrize("folds", [False, True])
def test_news_of_plain_jobs_that_are_late_repeated_or_lost_count_once(order, folds):
    first, second = plain_run(minutes=1), plain_run(minutes=5)
    story = [
        news(STARTED, first),
        news(QUEUED, end_of(first, "failed"), ("ValueError", "why", "Traceback …")),
        news(STARTED, second),
        news(FINISHED, end_of(second, "finished")),
    ]

    for number in order:
        observer.record(story[number])
        if folds:
            fold()
    fold()

    assert told("day") == {"failed": 1, "finished": 1}
    assert_each_attempt_counts_once()
    found = figures.total(timezone.now() - NOON + DAY)
    assert (sum(found.runs), found.run_seconds) == (2, 180)
    assert ErrorGroup.objects.get().count == 1


def test_a_plain_job_that_vanishes_while_it_runs_counts_as_canceled():
    observer.record(news(STARTED, plain_run()))
    change = observed.Change(Job.objects.get())
    change.vanish()

    assert observed.write([change]) == 1
    fold()

    assert told("day") == {"canceled": 1}
    assert_each_attempt_counts_once()


# Folding.


def test_additions_are_folded_into_the_rows_of_their_minute_hour_and_day():
    add(NOON + 59 * timedelta(seconds=1), 3, waited=0.2, ran=2)
    add(NOON + MINUTE, 2, outcome="failed", waited=50, ran=2)
    add(NOON + HOUR, outcome="lost", queue="slow")
    add(NOON + DAY, outcome="canceled", task="shop.ship")
    fold()

    assert Rollup.objects.filter(period="minute", queue="", task="").count() == 4
    assert told("minute", start=NOON) == {"finished": 3}
    assert told("hour", start=NOON) == {"finished": 3, "failed": 2}
    assert told("day", start=NOON - 12 * HOUR) == {"finished": 3, "failed": 2, "lost": 1}
    assert told("day", start=NOON + 12 * HOUR) == {"canceled": 1}
    assert told("day", queue="mail") == {"finished": 3, "failed": 2, "canceled": 1}
    assert told("day", queue="slow") == {"lost": 1}
    assert told("day", task="shop.pay") == {"finished": 3, "failed": 2, "lost": 1}
    hour = Rollup.objects.get(period="hour", start=NOON, queue="", task="")
    assert (hour.waits[bucket(0.2)], hour.waits[bucket(50)], hour.runs[bucket(2)]) == (3, 2, 5)
    assert (sum(hour.waits), sum(hour.runs)) == (5, 5)
    assert hour.wait_seconds == pytest.approx(100.6)
    assert hour.run_seconds == pytest.approx(10)


def test_what_is_folded_later_is_added_to_the_same_rows():
    for _ in range(3):
        add(waited=1)
        fold()

    assert [told(period) for period in PERIODS] == [{"finished": 3}] * 3
    assert Rollup.objects.count() == 9


def test_what_is_taken_back_is_taken_off_and_nothing_falls_below_zero():
    add(outcome="lost", waited=1)
    add(outcome="lost", waited=1, amount=-1)
    add(outcome="failed", amount=-1, ran=5)
    fold()

    assert told("day") == {}
    for row in Rollup.objects.all():
        assert (row.failed, row.lost, row.wait_seconds, row.run_seconds) == (0, 0, 0, 0)
        assert (set(row.waits), set(row.runs)) == ({0}, {0})


def test_a_queue_or_task_without_a_name_does_not_count_twice():
    add(queue="", task="")
    fold()

    assert told("day") == {"finished": 1}
    assert Rollup.objects.count() == 3


def test_a_time_to_come_counts_as_now():
    add(timezone.now() + 300 * DAY)
    fold()

    assert figures.total(HOUR).finished == 1


def test_a_fold_is_bounded_and_the_next_one_goes_on(monkeypatch):
    monkeypatch.setattr(figures, "MOST_FOLDED", 10)
    for _ in range(25):
        add()

    assert [figures.fold() for _ in range(4)] == [10, 10, 5, 0]
    assert told("day") == {"finished": 25}


def test_a_fold_in_a_transaction_that_is_rolled_back_has_not_happened():
    add()

    with pytest.raises(LookupError), transaction.atomic():
        assert figures.fold() == 1
        raise LookupError

    assert (FigureDelta.objects.count(), Rollup.objects.count()) == (1, 0)


@pytest.mark.parametrize("rows", [1, 1000])
def test_a_fold_takes_the_same_number_of_queries_for_one_and_for_many(rows, django_assert_max_num_queries):
    for number in range(rows):
        add(NOON + (number % 3) * MINUTE, queue=f"q{number % 4}", task=f"shop.task_{number % 5}")

    with django_assert_max_num_queries(10):
        assert figures.fold() == rows


@pytest.mark.django_db(transaction=True)
def test_folds_and_additions_at_once_lose_nothing_and_double_nothing(job_factory):
    for round_ in range(6):
        jobs = [claim(job_factory()) for _ in range(6)]

        def end_some(jobs=jobs, round_=round_):
            for job in jobs:
                report_alone(job, BROKEN if round_ % 2 else Outcome.finished())

        answers = at_once(figures.fold, figures.fold, end_some, figures.fold)

        assert [answer for answer in answers if isinstance(answer, Exception)] == []
    fold()

    assert told("day") == {"finished": 18, "failed": 18}
    assert_each_attempt_counts_once()
    assert ErrorGroup.objects.get().count == sum(count.count for count in ErrorCount.objects.all()) == 18


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite lets one transaction write at a time.")
def test_of_two_folds_of_the_same_rows_the_second_gives_way():
    for _ in range(5):
        add()

    with ThreadPoolExecutor() as pool:
        with transaction.atomic():
            assert figures.fold() == 5
            # Sees the rows as they were, waits for their deletion, and finds that it comes too late.
            second = pool.submit(at_once, figures.fold)
            wait_until(waits_for_lock)
        assert second.result(60) == [0]

    assert told("day") == {"finished": 5}


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite lets one transaction write at a time.")
@pytest.mark.parametrize("is_known", [False, True])
def test_folds_of_different_additions_to_the_same_rows_wait_for_each_other(is_known, monkeypatch):
    if is_known:
        add()
        fold()
    first, second = add(), add()

    def fold_only(delta):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FigureDelta.objects, "order_by", lambda *_: FigureDelta.objects.filter(pk=delta.pk))
            return figures.fold()

    with ThreadPoolExecutor() as pool:
        with transaction.atomic():
            assert fold_only(first) == 1
            other = pool.submit(at_once, partial(fold_only, second))
            wait_until(waits_for_lock)
        assert other.result(60) == [1]

    assert told("day") == {"finished": 3 if is_known else 2}


class Life:
    """Jobs that run and end in random ways, some of which come too late."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.worker = make_worker()
        self.held = []
        self.happened = Counter()

    def go_on(self, steps):
        for _ in range(steps):
            happening = self.random.choice(self._happenings)
            try:
                happening(self)
            except JobsError:  # Refused: also what happens.
                self.happened[f"{happening.__name__} refused"] += 1
            else:
                self.happened[happening.__name__] += 1

    def _enqueue(self):
        Job.objects.create(
            task=self.random.choice(["tests.tasks.add", "tests.tasks.echo"]),
            queue=self.random.choice(["file_processing", "vectorization"]),
            max_attempts=self.random.choice([1, 3]),
            idempotent=self.random.random() < 0.2,
            queued_at=timezone.now() - self.random.choice([HOUR, MINUTE, timedelta(0)]),
        )

    def _claim(self):
        wanted = list(Job.objects.queued().order_by("pk").values_list("pk", "attempt"))
        chosen = self.random.sample(wanted, min(len(wanted), 4))
        told = batches.claim(chosen, self.worker.pk, uuid4()) if chosen else []
        self.held += [batches.job_of(each.row) for each in sorted(told, key=lambda each: each.job_id)]

    def _outcome(self):
        outcome = self.random.choice(
            [
                *[Outcome.finished()] * 3,
                BROKEN,
                Outcome.failed("KeyError", f"no {self.random.random()}", ""),
                Outcome.canceled(),
                Outcome.elsewhere(60),
                Outcome.retried(Retry(max=2), "Retry", "", ""),
            ]
        )
        return replace(outcome, ran_seconds=self.random.choice([0.001, 0.2, 3]))

    def _some_held(self):
        if not self.held:
            self._enqueue()
            self._claim()
        return self.random.choice(self.held) if self.held else claim(Job.objects.queued().first())

    def _report(self):
        report_alone(self._some_held(), self._outcome())

    def _report_together(self):
        outbox = Outbox(self.worker.pk)
        for job in self.random.sample(self.held, min(len(self.held), 6)):
            put(outbox, job, self._outcome())
        outbox.flush()

    def _lose(self):
        outcomes.lose(self._some_held(), "Worker w1 is silent.")

    def _lose_and_report(self):
        job = self._some_held()
        outcomes.lose(job, "Worker w1 is silent.")
        report_alone(job, self._outcome())

    def _fail_untold(self):
        outcomes.fail_untold(self._some_held(), "odd", "w1")

    def _complete(self):
        control.complete(self._some_held().pk)

    def _fail(self):
        control.fail(self._some_held().pk, "no paper")

    def _cancel(self):
        control.cancel(fresh(self._some_held()))

    def _requeue(self):
        control.requeue(Job.objects.failed()[:3])

    def _fold(self):
        figures.fold()

    _happenings = [
        *[_enqueue, _enqueue, _claim, _report, _report_together] * 3,
        *[_lose, _lose_and_report, _fail_untold, _complete, _fail, _cancel, _requeue, _fold],
    ]


@pytest.mark.usefixtures("valkey")
@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_all_periods_tell_what_the_attempts_tell(seed):
    life = Life(seed)

    for _ in range(10):
        life.go_on(20)
        fold()

        assert_each_attempt_counts_once()

    failed = Attempt.objects.filter(outcome__in=["failed", "lost"])
    groups = Counter(fingerprint(each.error_type, each.error_message, each.traceback) for each in failed)
    assert dict(ErrorGroup.objects.filter(count__gt=0).values_list("pk", "count")) == groups
    assert set(told("day")) == set(OUTCOMES), life.happened


# Looking.


def test_a_series_has_no_gaps():
    add(NOON + 2 * MINUTE, 5)
    add(NOON + 4 * MINUTE, outcome="failed")
    fold()

    found = figures.series("minute", NOON + timedelta(seconds=30), NOON + 5 * MINUTE + timedelta(seconds=1))

    assert [each.start for each in found] == [NOON + number * MINUTE for number in range(6)]
    assert [(each.finished, each.failed) for each in found] == [
        (0, 0),
        (0, 0),
        (5, 0),
        (0, 0),
        (0, 1),
        (0, 0),
    ]
    assert found[0] == Figures(NOON)


def test_a_series_ends_with_the_period_that_begins_before_its_end():
    assert [each.start for each in figures.series("hour", NOON, NOON + 2 * HOUR)] == [NOON, NOON + HOUR]
    assert len(figures.series("day", NOON, NOON + DAY)) == 2
    assert figures.series("minute", NOON, NOON) == []


def test_a_series_is_of_one_queue_of_one_task_or_of_all():
    add(queue="mail", task="shop.pay")
    add(queue="slow", task="shop.pay", amount=2)
    add(queue="slow", task="shop.ship", amount=4)
    fold()

    def finished(**of):
        return [each.finished for each in figures.series("day", NOON, NOON + MINUTE, **of)]

    assert (finished(), finished(queue="slow"), finished(task="shop.pay")) == ([7], [6], [3])
    assert finished(queue="nowhere") == [0]


def test_the_series_of_many_queues_take_one_query(django_assert_num_queries):
    for number in range(5):
        add(queue=f"q{number}", amount=number + 1)
    fold()

    with django_assert_num_queries(1):
        found = figures.series_by_queue("hour", NOON, NOON + 2 * HOUR, ["q1", "q3", "nowhere"])

    assert {queue: [each.finished for each in series] for queue, series in found.items()} == {
        "q1": [2, 0],
        "q3": [4, 0],
        "nowhere": [0, 0],
    }
    assert figures.series_by_queue("hour", NOON, NOON + 2 * HOUR, []) == {}


def test_a_series_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match=r"are 20,160 minutes; at most 10,080 are told\.$"):
        figures.series("minute", NOON, NOON + 14 * DAY)


@pytest.mark.parametrize(
    ("age", "since", "is_within"),
    [
        (0 * MINUTE, HOUR, True),
        (59 * MINUTE, HOUR, True),
        (62 * MINUTE, HOUR, False),
        (23 * HOUR + 59 * MINUTE, DAY, True),
        (24 * HOUR + 2 * MINUTE, DAY, False),
        (7 * DAY - 2 * MINUTE, 7 * DAY, True),
        (7 * DAY + 2 * MINUTE, 7 * DAY, False),
        (30 * DAY - HOUR, 30 * DAY, True),
        (30 * DAY + 61 * MINUTE, 30 * DAY, False),
        (400 * DAY, 401 * DAY, True),
        (402 * DAY, 400 * DAY, False),
    ],
)
def test_a_total_is_of_the_time_since_then(age, since, is_within):
    add(timezone.now() - age, waited=1)
    fold()

    found = figures.total(since)

    assert (found.finished, sum(found.waits)) == ((1, 1) if is_within else (0, 0))


@pytest.mark.parametrize("hours", [0.5, 1, 5, 26, 100, 24 * 20, 24 * 100])
def test_a_total_counts_nothing_twice(hours):
    since = timedelta(hours=hours)
    for number in range(100):
        add(timezone.now() - since * number / 100.5)
    fold()

    assert figures.total(since).finished == 100


def test_a_total_takes_one_query_and_few_rows(django_assert_num_queries):
    Rollup.objects.bulk_create(
        Rollup(period=period, start=start_of, finished=1)
        for period, width in (("minute", MINUTE), ("hour", HOUR))
        for start_of in (
            timezone.now().replace(minute=0, second=0, microsecond=0) - number * width
            for number in range(2000)
        )
    )

    with django_assert_num_queries(1):
        figures.total(DAY)
    assert len(figures._rows_since(timezone.now() - DAY, DAY)) < 85


def test_tasks_are_told_the_most_failing_first(django_assert_num_queries):
    now = timezone.now()
    add(now, 50, task="shop.fine")
    add(now, 2, task="shop.pay", outcome="failed")
    add(now - 30 * MINUTE, 3, task="shop.pay", outcome="lost", ran=7)
    add(now, 4, task="shop.ship", outcome="failed")
    add(now - 25 * HOUR, 99, task="shop.old", outcome="failed")
    add(now, task="shop.none")
    add(now, task="shop.none", amount=-1)
    fold()

    with django_assert_num_queries(2):
        found = figures.by_task(DAY)

    assert [(task, each.failed, each.ended) for task, each in found] == [
        ("shop.pay", 5, 5),
        ("shop.ship", 4, 4),
        ("shop.fine", 0, 50),
    ]
    assert found[0][1].runs[bucket(7)] == 3
    assert [task for task, _ in figures.by_task(DAY, most=1)] == ["shop.pay"]


# Keeping.


def test_minutes_are_kept_for_a_week_hours_for_ninety_days_and_days_for_ever():
    now = timezone.now()
    ages = [6 * DAY, 8 * DAY, 89 * DAY, 92 * DAY, 2000 * DAY]
    for age in ages:
        add(now - age)
    fold()

    prune_figures()

    kept = Counter(Rollup.objects.filter(queue="", task="").values_list("period", flat=True))
    assert kept == {"minute": 1, "hour": 3, "day": 5}
    assert figures.prune(now) == 0


def test_pruning_is_bounded_and_begins_with_the_oldest(monkeypatch):
    monkeypatch.setattr(figures, "MOST_PRUNED", 5)
    now = timezone.now()
    for days in range(10, 14):
        add(now - days * DAY)
    fold()

    assert [figures.prune(now) for _ in range(4)] == [5, 5, 2, 0]
    assert not Rollup.objects.filter(period="minute").exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("valkey")
def test_additions_do_not_pile_up_while_jobs_run(job_factory):
    most = 0
    for _ in range(5):
        for _ in range(10):
            execute(job_factory())
        figures.fold()
        most = max(most, FigureDelta.objects.count())

    assert most == 0
    assert Rollup.objects.filter(period="day").count() <= 6


# The census.


def test_a_census_counts_what_runs_and_waits_and_who_lives(job_factory):
    worker = make_worker()
    make_worker(leased_until=timezone.now() - MINUTE)
    for status in (QUEUED, QUEUED, STARTED, FINISHED, FAILED):
        job_factory(status=status, worker=worker)

    assert figures.take_census()

    row = Census.objects.get()
    assert (row.running, row.waiting, row.workers) == (1, 2, 1)
    assert MINUTE > timezone.now() - row.start >= timedelta(0)


def test_where_no_job_is_the_workers_are_counted_all_the_same():
    make_worker()

    figures.take_census()

    row = Census.objects.get()
    assert (row.running, row.waiting, row.workers) == (0, 0, 1)


def test_a_minute_has_one_census_the_first(job_factory, monkeypatch):
    monkeypatch.setattr("django_jobs.sql.now", lambda alias: NOON + MINUTE / 2)
    figures.take_census()
    job_factory()

    assert not figures.take_census()
    assert Census.objects.get().waiting == 0


@pytest.mark.django_db(transaction=True)
def test_of_many_who_take_a_census_at_once_one_is_kept(monkeypatch):
    monkeypatch.setattr("django_jobs.sql.now", lambda alias: NOON)

    answers = at_once(*[figures.take_census] * 4)

    assert True in answers
    assert set(answers) <= {True, False}
    assert Census.objects.get().start == NOON


def test_a_census_counts_to_a_bound_and_in_few_statements(
    job_factory, monkeypatch, django_assert_max_num_queries
):
    monkeypatch.setattr("django_jobs.models.counting.MOST_COUNTED", 3)
    monkeypatch.setattr(figures, "MOST_WORKERS", 2)
    for _ in range(5):
        job_factory()
        make_worker()

    with django_assert_max_num_queries(5):
        figures.take_census()

    row = Census.objects.get()
    assert (row.waiting, row.workers) == (3, 2)


def test_where_nobody_counted_there_is_a_gap():
    for minutes in (0, 2, 9):
        Census.objects.create(start=NOON + minutes * MINUTE, running=minutes, waiting=0, workers=1)

    found = figures.censuses(NOON + MINUTE / 2, NOON + 3 * MINUTE)

    assert [each and each.running for each in found] == [0, None, 2]


def test_a_census_is_kept_for_a_week():
    now = timezone.now()
    for days in (6, 8):
        Census.objects.create(start=now - days * DAY, running=0, waiting=0, workers=0)

    prune_figures()

    assert Census.objects.get().start == now - 6 * DAY
