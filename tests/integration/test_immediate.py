"""The setting IMMEDIATE: jobs run at commit in the process that enqueued them, and no server is asked."""

import logging
from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, transaction
from django.test import TestCase, override_settings

from django_jobs import Retry, control, enqueue_many, relay
from django_jobs.models import Attempt, Job, Queue
from django_jobs.signals import job_enqueued, job_started
from django_jobs.states import CANCELED, FAILED, FINISHED, QUEUED, SCHEDULED, STARTED
from tests import tasks
from tests.conftest import fresh, lines

IMMEDIATE = {"ALLOWED_TASKS": ["tests.tasks"], "IMMEDIATE": True}

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("immediate", "unasked_server")]


@pytest.fixture
def immediate(settings):
    settings.DJANGO_JOBS = IMMEDIATE


def statuses():
    return list(Job.objects.order_by("id").values_list("status", flat=True))


def test_without_a_transaction_a_job_has_run_when_enqueue_returns():
    job = tasks.add.enqueue(1, 2)

    assert (job.status, job.result) == (FINISHED, 3)
    assert (fresh(job).status, fresh(job).result) == (FINISHED, 3)


def test_receivers_are_told_of_a_job_before_it_runs():
    told = []

    def note(job, **kwargs):
        told.append(job.status)

    job_enqueued.connect(note)
    tasks.add.enqueue(1, 2)
    job_enqueued.disconnect(note)

    assert told == [QUEUED]


def test_in_a_transaction_a_job_runs_at_the_commit_and_not_before(tmp_path):
    effects = tmp_path / "effects"

    with transaction.atomic():
        job = tasks.fail_until.enqueue(str(effects), 1)
        before = (job.status, lines(effects))

    assert before == (QUEUED, [])
    assert (job.status, lines(effects)) == (FINISHED, ["called"])


def test_rolled_back_a_job_never_runs(tmp_path):
    effects = tmp_path / "effects"

    with pytest.raises(LookupError), transaction.atomic():
        tasks.fail_until.enqueue(str(effects), 1)
        raise LookupError

    assert lines(effects) == []
    assert not Job.objects.exists()


def test_of_a_transaction_that_rolls_back_a_part_the_rest_runs():
    with transaction.atomic():
        kept = tasks.add.enqueue(1)
        with pytest.raises(LookupError), transaction.atomic():
            lost = tasks.add.enqueue(2)
            raise LookupError
        also_kept = tasks.add.enqueue(3)

    assert [kept.result, also_kept.result] == [1, 3]
    assert lost.status == QUEUED
    assert statuses() == [FINISHED, FINISHED]


def test_many_jobs_run_in_their_order(tmp_path):
    effects = tmp_path / "effects"

    jobs = enqueue_many(tasks.fail_until.call(str(effects), 1) for _ in range(3))

    assert [job.result for job in jobs] == [1, 2, 3]


@pytest.mark.parametrize(
    ("task", "argument", "error"),
    [(tasks.fail, "broken", "ValueError: broken"), (tasks.exit_with, 3, "SystemExit: 3")],
)
def test_a_job_that_fails_is_recorded_and_logged_and_raises_nothing(task, argument, error, caplog):
    job = task.enqueue(argument)

    assert f"{job.error_type}: {job.error_message}" == error
    assert job.status == FAILED
    assert "tests/tasks.py" in job.traceback
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage() == f"Attempt 1 of job {job} failed."
    assert error in caplog.text


def test_ctrl_c_ends_the_job_and_then_the_caller():
    with pytest.raises(KeyboardInterrupt):
        tasks.be_interrupted.enqueue()

    assert statuses() == [FAILED]


def test_retries_without_a_pause_run_at_once(tmp_path, caplog):
    job = tasks.fail_until.enqueue(str(tmp_path / "effects"), 3)

    assert (job.status, job.attempt, job.result) == (FINISHED, 3, 3)
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 2
    outcomes = job.attempts.values_list("outcome", flat=True)
    assert list(outcomes) == [Attempt.Outcome.FAILED, Attempt.Outcome.FAILED, Attempt.Outcome.FINISHED]


def test_retries_with_a_pause_and_delayed_jobs_wait():
    retried = tasks.fail.using(retry=Retry(max=1, interval=60)).enqueue()
    delayed = tasks.add.using(delay=timedelta(hours=1)).enqueue(1)

    assert (retried.status, retried.attempt) == (SCHEDULED, 2)
    assert delayed.status == SCHEDULED
    assert statuses() == [SCHEDULED, SCHEDULED]


def test_a_job_that_a_job_enqueues_runs():
    job = tasks.enqueue_another.enqueue(5)

    inner = Job.objects.get(pk=job.result)
    assert (inner.status, inner.result) == (FINISHED, 5)


def test_jobs_that_enqueue_jobs_without_end_are_stopped_with_an_error(caplog):
    tasks.enqueue_itself.enqueue(1000)

    assert statuses() == [FINISHED] * relay.MOST_NESTED + [QUEUED]
    [left] = Job.objects.queued()
    assert (left.args, f"20 deep at most; {left} stays queued." in caplog.text) == ([980], True)


def test_async_code_enqueues_as_well():
    job = async_to_sync(tasks.add.aenqueue)(1, 2)

    assert (job.status, job.result) == (FINISHED, 3)


@pytest.mark.parametrize(
    "enqueue", [tasks.add_by_another.enqueue, async_to_sync(tasks.add_by_another.aenqueue)]
)
def test_an_async_task_runs_and_the_job_that_it_enqueues(enqueue):
    job = enqueue(4)

    assert job.status == FINISHED, job.traceback
    assert Job.objects.get(pk=job.result).result == 4
    assert Queue.objects.get().name == "queue 4"


def test_progress_and_log_are_recorded():
    job = tasks.tell.enqueue(__file__)

    assert (job.progress, job.stage, job.progress_message) == (100, "writing", "half")
    assert list(job.ordered_stages) == ["reading", "writing"]
    assert "reading begins" in job.attempts.get().log


def test_a_unique_job_is_enqueued_again_once_it_has_ended():
    task = tasks.add.using(unique="file:42")

    with transaction.atomic():
        first, second = task.enqueue(1), task.enqueue(2)
    third = task.enqueue(3)

    assert (second.pk, second.deduplicated) == (first.pk, True)
    assert third.pk != first.pk
    assert (first.result, third.result) == (1, 3)


def test_a_job_of_a_paused_queue_stays_queued():
    Queue.objects.create(name="file_processing", paused=True)

    job = tasks.add.enqueue(1)

    assert job.status == QUEUED


def test_a_job_runs_when_it_is_requeued_or_run_before_its_time():
    failed = tasks.fail.enqueue()
    delayed = tasks.add.using(delay=60).enqueue(1)

    failed.requeue()
    control.run_now(delayed)

    assert (fresh(failed).status, fresh(failed).attempt) == (FAILED, 2)
    assert fresh(delayed).result == 1


def test_a_job_is_canceled_without_asking_the_server():
    with transaction.atomic():
        job = tasks.add.enqueue(1)
        job.cancel()

    assert fresh(job).status == CANCELED


def test_a_job_leaves_the_callers_connection_alone():
    Queue.objects.bulk_create([Queue(name=f"queue {number}") for number in range(3)])

    seen = []
    for queue in Queue.objects.order_by("name").iterator(chunk_size=1):
        seen.append(tasks.echo.enqueue(queue.name).result)

    assert seen == [[[f"queue {number}"], {}] for number in range(3)]


def test_in_a_transaction_managed_by_hand_a_job_stays_queued():
    transaction.set_autocommit(False)
    try:
        job = tasks.add.enqueue(1)
        transaction.commit()
    finally:
        transaction.set_autocommit(True)

    assert fresh(job).status == QUEUED


def test_withheld_nothing_runs_at_commit():
    with relay.withheld():
        job = tasks.add.enqueue(1)

    assert fresh(job).status == QUEUED


def test_while_a_job_runs_its_row_says_so():
    seen = []

    def look(job, **kwargs):
        seen.append(fresh(job).status)

    job_started.connect(look)
    try:
        tasks.add.enqueue(1)
    finally:
        job_started.disconnect(look)

    assert seen == [STARTED]


@pytest.mark.django_db(transaction=False)
def test_with_the_fixture_of_pytest_django_jobs_run_when_callbacks_are_executed(
    django_capture_on_commit_callbacks,
):
    with django_capture_on_commit_callbacks(execute=True):
        job = tasks.enqueue_another.enqueue(5)
        before = job.status

    assert before == QUEUED
    assert job.status == FINISHED
    assert Job.objects.get(pk=job.result).result == 5


@pytest.mark.django_db(transaction=False)
def test_a_failing_job_leaves_the_transaction_of_a_test_usable(django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True):
        job = tasks.create_queue_twice.enqueue("mail")

    assert (job.status, job.error_type) == (FAILED, "django.db.utils.IntegrityError")
    assert connection.needs_rollback is False


@override_settings(DJANGO_JOBS=IMMEDIATE)
class InDjangosTestCase(TestCase):
    def test_a_job_never_runs_by_itself(self):
        job = tasks.add.enqueue(1)

        assert fresh(job).status == QUEUED

    def test_a_job_runs_when_callbacks_are_executed(self):
        with self.captureOnCommitCallbacks(execute=True):
            job = tasks.add.enqueue(1, 2)

        assert (job.status, job.result) == (FINISHED, 3)
