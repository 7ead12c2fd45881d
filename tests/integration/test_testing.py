"""What the tests of projects use: run_jobs, enqueued_jobs and the mixin, without a server."""

from unittest import mock

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection, connections, transaction
from django.db.backends.signals import connection_created
from django.test import TestCase, TransactionTestCase

from django_jobs import Retry, control, executor, relay
from django_jobs.exceptions import TaskNotFound
from django_jobs.models import Job, JobEvent, Queue
from django_jobs.states import CANCELED, FAILED, FINISHED, QUEUED, SCHEDULED
from django_jobs.testing import JobsTestMixin, enqueued_jobs, run_jobs
from tests import tasks
from tests.conftest import fresh

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("unasked_server")]

in_both_kinds_of_tests = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(0, marks=pytest.mark.django_db(transaction=False), id="rolled back"),
        pytest.param(0, marks=pytest.mark.django_db(transaction=True), id="committed"),
    ],
)


@pytest.fixture
def withheld():
    with relay.withheld():
        yield


def test_queued_jobs_run_in_the_order_in_which_they_were_enqueued(tmp_path):
    effects = str(tmp_path / "effects")
    jobs = [tasks.fail_until.enqueue(effects, 1) for _ in range(3)]
    first = tasks.fail_until.using(at_front=True).enqueue(effects, 1)

    ran = run_jobs()

    assert ran == [first, *jobs]
    assert [(job.status, job.result) for job in ran] == [(FINISHED, number) for number in (1, 2, 3, 4)]


def test_jobs_that_jobs_enqueue_run_as_well():
    outer = tasks.enqueue_another.enqueue(5)

    ran = run_jobs()

    assert [(job.task, job.status) for job in ran] == [
        ("tests.tasks.enqueue_another", FINISHED),
        ("tests.tasks.add", FINISHED),
    ]
    assert ran[0] == outer
    assert str(ran[1].pk) == ran[0].result


@pytest.mark.django_db(transaction=True)
def test_what_jobs_enqueue_meanwhile_is_not_pushed():
    with relay.withheld():
        tasks.enqueue_another.enqueue(5)

    assert [job.status for job in run_jobs()] == [FINISHED, FINISHED]


def test_with_nothing_enqueued_nothing_runs():
    assert run_jobs() == []


def test_only_with_scheduled_jobs_run_that_wait_for_a_time():
    later = tasks.add.using(delay=3600).enqueue(1)
    sooner = tasks.add.using(delay=60).enqueue(2)
    now = tasks.add.enqueue(3)

    assert run_jobs() == [now]
    assert [fresh(later).status, fresh(sooner).status] == [SCHEDULED, SCHEDULED]
    assert run_jobs(scheduled=True) == [sooner, later]
    assert fresh(later).status == FINISHED


def test_what_a_job_raises_is_recorded_and_then_raised():
    job, after = tasks.fail.enqueue("no paper"), tasks.add.enqueue(1)

    with pytest.raises(ValueError, match="no paper") as caught:
        run_jobs()

    assert caught.value.__notes__ == [
        f"Raised in attempt 1 of job {job.pk}, tests.tasks.fail('no paper'), by run_jobs()."
    ]
    assert (fresh(job).status, fresh(job).error_message) == (FAILED, "no paper")
    assert fresh(after).status == QUEUED


def test_what_a_job_raises_is_raised_also_where_a_retry_will_follow():
    job = tasks.fail.using(retry=Retry(max=1, interval=60)).enqueue()

    with pytest.raises(ValueError, match="broken"):
        run_jobs()

    assert (fresh(job).status, fresh(job).attempt) == (SCHEDULED, 2)


def test_with_raise_errors_false_failures_are_only_recorded():
    failing, after = tasks.fail.enqueue(), tasks.add.enqueue(1)

    ran = run_jobs(raise_errors=False)

    assert ran == [failing, after]
    assert [job.status for job in ran] == [FAILED, FINISHED]


def test_retries_run_to_their_end(tmp_path):
    at_once = tasks.fail_until.enqueue(str(tmp_path / "effects"), 3)
    waiting = tasks.fail.using(retry=Retry(max=2, interval=60)).enqueue()

    first = run_jobs(raise_errors=False)
    second = run_jobs(raise_errors=False, scheduled=True)

    assert [(job.pk, job.status, job.attempt) for job in first] == [
        (at_once.pk, FINISHED, 3),
        (waiting.pk, SCHEDULED, 2),
    ]
    assert [(job.pk, job.status, job.attempt) for job in second] == [(waiting.pk, FAILED, 3)]


def test_a_scheduled_job_that_is_run_says_that_it_was_run_before_its_time():
    job = tasks.add.using(delay=60).enqueue(1)

    run_jobs(scheduled=True)

    assert job.events.get().kind == JobEvent.Kind.RUN_NOW


def test_exits_are_raised_as_well():
    tasks.exit_with.enqueue(3)

    with pytest.raises(SystemExit):
        run_jobs()


def test_ctrl_c_is_raised_always():
    job = tasks.be_interrupted.enqueue()

    with pytest.raises(KeyboardInterrupt):
        run_jobs(raise_errors=False)

    assert fresh(job).status == FAILED


def test_jobs_without_end_are_an_error_that_tells_which():
    tasks.enqueue_itself.enqueue(100)

    with pytest.raises(RuntimeError) as caught:
        run_jobs(limit=5)

    assert str(caught.value) == (
        "run_jobs() made 5 attempts, and tests.tasks.enqueue_itself(95) is still to run. Does a job enqueue "
        "itself without end? If there are so many jobs, give a higher limit=."
    )
    assert Job.objects.finished().count() == 5


def test_as_many_jobs_as_the_limit_are_no_error():
    tasks.enqueue_itself.enqueue(5)

    assert len(run_jobs(limit=5)) == 5


def test_jobs_of_paused_queues_and_observed_ones_stay(job_factory):
    Queue.objects.create(name="vectorization", paused=True)
    waiting = [job_factory(queue="vectorization"), job_factory(observed_id="1")]

    assert run_jobs(scheduled=True) == []
    assert [fresh(job).status for job in waiting] == [QUEUED, QUEUED]


def test_a_job_that_was_canceled_does_not_run():
    job = tasks.add.enqueue(1)
    control.cancel(job)

    assert run_jobs() == []
    assert fresh(job).status == CANCELED


def test_a_job_that_deletes_its_own_row_is_not_among_those_that_ran():
    job = tasks.run_sql.enqueue("DELETE FROM django_jobs_job")

    assert run_jobs() == []
    assert not Job.objects.filter(pk=job.pk).exists()


@in_both_kinds_of_tests
def test_an_async_task_runs_on_the_connection_of_the_test(kind, withheld):
    job = tasks.add_by_another.enqueue(4)

    ran = run_jobs()

    assert [(each.task, each.status) for each in ran] == [
        ("tests.tasks.add_by_another", FINISHED),
        ("tests.tasks.add", FINISHED),
    ]
    assert Queue.objects.get().name == "queue 4"
    assert fresh(job).result == str(ran[1].pk)


def test_from_async_code_it_is_called_in_a_thread():
    async def work():
        await tasks.add.aenqueue(1)
        return await sync_to_async(run_jobs)()

    [job] = async_to_sync(work)()

    assert job.result == 1


@in_both_kinds_of_tests
def test_progress_is_recorded_by_no_connection_but_the_tests(kind, withheld):
    job = tasks.count_up.enqueue(4)
    opened = []

    def note(connection, **kwargs):
        opened.append(connection)

    connection_created.connect(note)
    run_jobs()
    connection_created.disconnect(note)

    assert opened == []
    assert (fresh(job).progress, fresh(job).stage, fresh(job).progress_message) == (100, "counting", "4")


def test_the_log_of_a_job_is_recorded():
    job = tasks.log_lines.enqueue(2, "line")

    run_jobs()

    assert "1 line" in job.attempts.get().log


@pytest.mark.parametrize(
    ("task", "argument"),
    [(tasks.create_queue_twice, "mail"), (tasks.run_sql, "SELECT nonsense")],
)
def test_a_failing_statement_of_a_job_leaves_the_transaction_of_the_test_usable(task, argument):
    Queue.objects.create(name="before")
    job = task.enqueue(argument)

    run_jobs(raise_errors=False)

    assert fresh(job).status == FAILED
    assert list(Queue.objects.values_list("name", flat=True)) == ["before"]


def test_what_a_job_did_before_it_raised_stays_as_it_does_on_a_worker():
    tasks.create_queue_and_fail.enqueue("mail")

    run_jobs(raise_errors=False)

    assert Queue.objects.get().name == "mail"


def test_a_durable_transaction_of_a_job_may_be_inside_that_of_the_test():
    tasks.commit_durably.enqueue("durable")

    run_jobs()

    assert Queue.objects.get().name == "durable"


@pytest.mark.django_db(transaction=True)
def test_a_row_that_another_transaction_holds_locked_is_told(withheld, monkeypatch):
    if not connection.features.has_select_for_update:
        pytest.skip("SQLite has no locks on rows.")
    monkeypatch.setattr(executor, "CLAIM_PATIENCE_SECONDS", 0.1)
    job = tasks.add.enqueue(1)
    elsewhere = connections.create_connection("default")
    try:
        with elsewhere.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("SELECT id FROM django_jobs_job FOR UPDATE")
            with pytest.raises(RuntimeError, match="add\\(1\\) cannot be started: another transaction holds"):
                run_jobs()
    finally:
        elsewhere.close()

    assert run_jobs() == [job]


def test_enqueued_jobs_is_like_a_list_in_the_order_of_enqueueing():
    assert not enqueued_jobs
    assert enqueued_jobs == []

    first, second = tasks.add.enqueue(1), tasks.echo.enqueue("x", y=2)
    run_jobs()

    assert enqueued_jobs == [first, second]
    assert len(enqueued_jobs) == 2
    assert (enqueued_jobs[0], enqueued_jobs[-1]) == (first, second)
    assert enqueued_jobs[1:] == [second]
    assert first in enqueued_jobs
    assert repr(enqueued_jobs) == "[tests.tasks.add(1), tests.tasks.echo('x', y=2)]"


def test_jobs_that_other_code_enqueued_are_not_among_them(job_factory):
    job_factory(observed_id="1")

    assert enqueued_jobs == []


def test_of_tells_the_jobs_of_a_task():
    one, two = tasks.add.enqueue(1), tasks.add.using(queue="vectorization").enqueue(2)
    tasks.echo.enqueue(1)

    assert enqueued_jobs.of(tasks.add) == [one, two]
    assert enqueued_jobs.of("tests.tasks.add") == [one, two]
    assert enqueued_jobs.of(tasks.add, queue="vectorization") == [two]
    assert enqueued_jobs.of(tasks.add, args=(1,)) == [one]
    assert enqueued_jobs.of(tasks.add, args=[mock.ANY], kwargs={}) == [one, two]
    assert enqueued_jobs.of(tasks.fail) == []


def test_of_takes_a_function_that_is_no_task(job_factory):
    job = job_factory(task="tests.tasks.undeclared")

    assert enqueued_jobs.of(tasks.undeclared) == [job]


def test_of_refuses_names_of_no_task_and_of_no_column():
    with pytest.raises(TaskNotFound, match=r'Did you mean "tests.tasks.add"\?'):
        enqueued_jobs.of("tests.tasks.ad")
    with pytest.raises(TypeError, match='A job has no column "unique"; did you mean "unique_key"'):
        enqueued_jobs.of(tasks.add, unique="file:42")


def test_one_returns_the_only_job():
    job = tasks.add.using(subject="file:42", unique="file:42").enqueue(1, right=2)

    assert enqueued_jobs.one(tasks.add) == job
    assert enqueued_jobs.one(tasks.add, args=[1], kwargs={"right": 2}, subject="file:42") == job


def test_one_lists_what_was_enqueued_instead():
    tasks.add.using(subject="file:41").enqueue(1)
    run_jobs()
    tasks.echo.using(delay=60, queue="vectorization").enqueue("x")

    with pytest.raises(AssertionError) as caught:
        enqueued_jobs.one(tasks.add, args=[1], subject="file:42")

    assert str(caught.value) == (
        "No job of tests.tasks.add with args=[1], subject='file:42' was enqueued. Enqueued were:\n"
        "  tests.tasks.add(1): queue='file_processing', status='finished', subject='file:41'\n"
        "  tests.tasks.echo('x'): queue='vectorization', status='scheduled', subject=''"
    )


def test_one_tells_that_nothing_was_enqueued():
    with pytest.raises(AssertionError) as caught:
        enqueued_jobs.one(tasks.add)

    assert str(caught.value) == "No job of tests.tasks.add was enqueued. Nothing was enqueued."


def test_one_refuses_more_than_one_and_lists_a_bounded_number():
    for number in range(40):
        tasks.add.enqueue(number)

    with pytest.raises(AssertionError) as caught:
        enqueued_jobs.one(tasks.add, args=[mock.ANY])

    first, *told = str(caught.value).splitlines()
    assert first == "40 jobs of tests.tasks.add with args=[<ANY>] were enqueued, not one. Enqueued were:"
    assert (len(told), told[-1]) == (31, "  … and 10 more")


class InDjangosTestCase(JobsTestMixin, TestCase):
    def test_jobs_run_and_are_asserted_on(self):
        tasks.add.enqueue(1, 2)

        [job] = self.run_jobs()

        assert job.result == 3
        assert self.enqueued_jobs.one(tasks.add, args=[1, 2]) == job


class InDjangosTransactionTestCase(JobsTestMixin, TransactionTestCase):
    def test_jobs_run_and_are_asserted_on(self):
        with transaction.atomic():
            tasks.add.enqueue(1, 2)

        [job] = self.run_jobs()

        assert job.result == 3
        assert self.enqueued_jobs == [job]
