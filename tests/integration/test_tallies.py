"""Tallies: whatever happens to jobs, they say how many have ended how, without counting rows."""

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.db.models import Count, Q

from django_jobs import control, executor
from django_jobs.exceptions import JobsError
from django_jobs.models import Job, Tally, tallies
from django_jobs.models.jobs import WORKER_LOST
from django_jobs.outcomes import Outcome, lose
from django_jobs.reports import report
from django_jobs.retries import Retry
from django_jobs.states import CANCELED, FAILED, FINISHED, STARTED, TERMINAL, Status
from tests.conftest import claim, fresh, make_worker, wait_until
from tests.threads import at_once, waits_for_lock

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]

QUEUES = ["file_processing", "vectorization", "kg_extraction"]
HERE = ("file_processing", "finished")


def counted():
    """What counting the rows says."""
    groups = Job.objects.order_by().values_list("queue", "status").annotate(Count("pk"))
    return {(queue, status): count for queue, status, count in groups if status in TERMINAL}


def add(amount, queue="file_processing", status=FINISHED):
    tallies.tally({(queue, status): amount})


def test_what_was_added_is_summed_by_queue_and_status():
    add(2)
    add(3)
    add(1, status=FAILED)
    add(7, queue="vectorization")
    add(-1)

    assert tallies.totals() == {
        ("file_processing", "finished"): 4,
        ("file_processing", "failed"): 1,
        ("vectorization", "finished"): 7,
    }
    assert tallies.totals("vectorization", "kg_extraction") == {("vectorization", "finished"): 7}
    assert tallies.totals("kg_extraction") == {}


@pytest.mark.parametrize("status", sorted(set(Status) - TERMINAL))
def test_states_in_which_a_job_has_not_ended_are_not_counted(status):
    tallies.tally({("file_processing", status): 1, HERE: 0})

    assert (tallies.totals(), Tally.objects.count()) == ({}, 0)


def test_where_nothing_is_left_nothing_is_told():
    add(1)
    add(-1)

    assert tallies.totals() == {}
    assert tallies.fold() == 2
    assert Tally.objects.count() == 0


def test_an_addition_that_is_rolled_back_does_not_count():
    with pytest.raises(LookupError), transaction.atomic():
        add(1)
        raise LookupError

    assert tallies.totals() == {}


def test_folding_puts_additions_together_and_changes_no_total():
    for number in range(30):
        add(number, queue=QUEUES[number % 3], status=[FINISHED, FAILED][number % 2])
    before, rows = tallies.totals(), Tally.objects.count()

    saved = tallies.fold()

    assert (tallies.totals(), Tally.objects.count()) == (before, len(before))
    assert saved == rows - len(before)
    assert tallies.fold() == 0


def test_folding_nothing_does_nothing():
    assert tallies.fold() == 0


def test_a_fold_is_bounded_and_the_next_one_goes_on():
    Tally.objects.bulk_create(
        Tally(queue="file_processing", status=FINISHED, amount=1) for _ in range(tallies.MOST_FOLDED + 10)
    )

    assert tallies.fold() == tallies.MOST_FOLDED - 1
    assert (Tally.objects.count(), tallies.totals()) == (11, {HERE: tallies.MOST_FOLDED + 10})
    assert tallies.fold() == 10
    assert (Tally.objects.count(), tallies.totals()) == (1, {HERE: tallies.MOST_FOLDED + 10})


def test_a_fold_in_a_transaction_that_is_rolled_back_has_not_happened():
    add(1)
    add(1)

    with pytest.raises(LookupError), transaction.atomic():
        assert tallies.fold() == 1
        raise LookupError

    assert (Tally.objects.count(), tallies.totals()) == (2, {HERE: 2})


@pytest.mark.django_db(transaction=True)
def test_folds_and_additions_at_once_lose_nothing_and_double_nothing():
    for _ in range(6):
        add(1)

        def add_some():
            for _ in range(10):
                add(1)

        answers = at_once(tallies.fold, tallies.fold, add_some, tallies.fold)

        assert [answer for answer in answers if isinstance(answer, Exception)] == []
    tallies.fold()

    assert (Tally.objects.count(), tallies.totals()) == (1, {HERE: 66})


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite lets one transaction write at a time.")
def test_of_two_folds_of_the_same_rows_the_second_gives_way():
    for _ in range(5):
        add(1)

    with ThreadPoolExecutor() as pool:
        with transaction.atomic():
            assert tallies.fold() == 4
            # Sees the rows as they were, waits for their deletion, and finds that it comes too late.
            second = pool.submit(at_once, tallies.fold)
            wait_until(waits_for_lock)
        assert second.result(60) == [0]

    assert (Tally.objects.count(), tallies.totals()) == (1, {HERE: 5})


def test_a_finished_report_after_the_job_was_taken_for_lost_moves_it_over(job_factory):
    job = job_factory(status=STARTED)
    lose(job, "Worker w1 is gone.")
    assert tallies.totals() == {("file_processing", "failed"): 1}

    report(job, Outcome.finished(), worker_name="w1")

    assert tallies.totals() == counted() == {HERE: 1}


@pytest.mark.parametrize("outcome", [Outcome.finished(), Outcome.failed("ValueError", "why", "")])
def test_a_report_that_is_repeated_or_late_counts_nothing(job_factory, outcome):
    job = job_factory(status=STARTED)
    for _ in range(3):
        report(job, outcome, worker_name="w1")
    canceled = job_factory(status=STARTED)
    control.cancel(fresh(canceled))
    lose(canceled, "Worker w1 is gone.")
    report(canceled, outcome, worker_name="w1")

    assert tallies.totals() == counted()
    assert sum(tallies.totals().values()) == 2


def test_deleting_rows_by_whatever_way_takes_them_off(job_factory):
    for status in TERMINAL:
        for _ in range(4):
            control.complete(job_factory()) if status == FINISHED else None
            control.cancel(job_factory()) if status == CANCELED else None
            control.mark_failed(job_factory()) if status == FAILED else None
    job_factory()

    Job.objects.finished().first().delete()
    Job.objects.filter(pk=Job.objects.failed().first().pk).delete()
    control.delete(Job.objects.canceled().first())
    assert tallies.totals() == counted()
    assert sum(tallies.totals().values()) == 9

    Job.objects.all().delete()
    assert tallies.totals() == {}


def test_a_row_is_taken_off_once_however_its_deletion_chooses_it(job_factory):
    for _ in range(2):
        job = job_factory(status=STARTED, max_attempts=2)
        report(job, Outcome.failed("ValueError", "why", ""), worker_name="w1")
        report(claim(fresh(job)), Outcome.failed("ValueError", "why", ""), worker_name="w1")

    Job.objects.filter(Q(owner__username="ada") | Q(pk=job.pk)).distinct().delete()
    assert tallies.totals() == counted() == {("file_processing", "failed"): 1}

    assert Job.objects.filter(attempts__outcome="failed").delete()[1]["django_jobs.Job"] == 1
    assert tallies.totals() == counted() == {}


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite lets one transaction write at a time.")
def test_a_job_that_ends_while_ended_ones_are_deleted_is_deleted_and_counted_or_neither(job_factory):
    ended, running = control.complete(job_factory()), claim(job_factory())

    with ThreadPoolExecutor() as pool:
        with transaction.atomic():
            Job.objects.filter(pk=ended.pk).update(description="locked")
            deletion = pool.submit(at_once, Job.objects.ended().delete)
            wait_until(waits_for_lock)
            assert at_once(partial(report, running, Outcome.finished(), worker_name="w1")) == [None]
        deletion.result(60)

    assert tallies.totals() == counted()


class Life:
    """Jobs to which random things happen, as to real ones."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.worker = make_worker()
        self.held = []  # what workers hold, or believe to hold: reports may come late, twice, or never
        self.happened = Counter()

    def go_on(self, steps):
        for _ in range(steps):
            happening = self.random.choice(self._happenings)
            try:
                happening(self)
            except (JobsError, Job.DoesNotExist):  # Refused, or the row is gone: also what happens.
                self.happened[f"{happening.__name__} refused"] += 1
            else:
                self.happened[happening.__name__] += 1

    def _some_job(self):
        ids = list(Job.objects.order_by("pk").values_list("pk", flat=True))
        return fresh(Job(pk=self.random.choice(ids))) if ids else self._enqueue()

    def _some_held(self):
        return self.random.choice(self.held) if self.held else self._claim()

    def _enqueue(self):
        return Job.objects.create(
            task="tests.tasks.add",
            queue=self.random.choice(QUEUES),
            max_attempts=self.random.choice([1, 1, 3]),
            retry_intervals=self.random.choice([[], [3600]]),
            idempotent=self.random.random() < 0.2,
            unique_key=self.random.choice([None, None, f"key {uuid4()}"]),
        )

    def _claim(self):
        job = self._some_job()
        claimed = executor.claim(job.pk, job.attempt, worker=self.worker, claim_id=uuid4())
        job = claimed or claim(self._enqueue(), worker=self.worker)
        if job is None:
            raise Job.DoesNotExist  # Another life had it first.
        self.held.append(job)
        return job

    def _report(self):
        outcome = self.random.choice(
            [
                Outcome.finished(result=1),
                Outcome.finished(result=1),
                Outcome.failed("ValueError", "why", ""),
                Outcome.canceled(),
                Outcome.elsewhere(60),
                Outcome.retried(Retry(max=2), "Retry", "", ""),
            ]
        )
        report(self._some_held(), outcome, worker_name="w1")

    def _lose(self):
        lose(self._some_held(), "Worker w1 is gone.")

    def _lose_and_finish(self):
        job = self._some_held()
        lose(job, "Worker w1 is gone.")
        report(job, Outcome.finished(result=1), worker_name="w1")

    def _cancel(self):
        control.cancel(self._some_job())

    def _requeue(self):
        control.requeue(self._some_job())

    def _requeue_failed(self):
        control.requeue(Job.objects.failed()[:3])

    def _run_now(self):
        control.run_now(Job.objects.scheduled())

    def _mark_failed(self):
        control.mark_failed(self._some_job())

    def _move(self):
        control.move(self._some_job(), queue=self.random.choice(QUEUES))

    def _complete(self):
        control.complete(self._some_job(), 1)

    def _fail(self):
        control.fail(self._some_job(), "why")

    def _delete(self):
        control.delete(self._some_job())

    def _delete_row(self):
        self._some_job().delete()

    def _delete_rows(self):
        Job.objects.filter(pk__in=[self._some_job().pk for _ in range(3)]).delete()

    def _fold(self):
        tallies.fold()

    _happenings = [
        *[_enqueue, _claim, _report] * 4,
        *[_lose, _lose_and_finish, _cancel, _requeue, _requeue_failed, _run_now, _mark_failed, _move],
        *[_complete, _fail, _delete, _delete_row, _delete_rows, _fold],
    ]


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_to_jobs_the_tallies_say_what_counting_says(seed):
    life = Life(seed)

    for step in range(40):
        life.go_on(5)

        assert tallies.totals() == counted(), f"after {step * 5 + 5} steps: {life.happened}"

    assert len(life.happened) > len(set(life._happenings)), "everything happened, and some was refused"
    assert Job.objects.exclude(error_type=WORKER_LOST).finished().exists()


@pytest.mark.django_db(transaction=True)
def test_whatever_happens_at_once_the_tallies_say_what_counting_says():
    lives = [Life(seed) for seed in range(3)]

    answers = at_once(*[partial(life.go_on, 60) for life in lives])

    assert answers == [None] * 3
    assert tallies.totals() == counted(), [life.happened for life in lives]
    while tallies.fold():
        pass
    assert tallies.totals() == counted()
