"""How a job ended, as whoever waits for it is told."""

import threading
import time
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from django.db import connections, transaction
from django.db.models.functions import Now
from django.utils import timezone

from django_jobs import control, get_task_result, wait_task_result
from django_jobs.exceptions import JobDoesNotExist, JobFailed, JobsError, ResultExpired, WaitTimeout
from django_jobs.models import Job
from django_jobs.outcomes import lose
from django_jobs.states import CANCELED, DEFERRED, FAILED, FINISHED, QUEUED, SCHEDULED, STARTED
from tests import tasks
from tests.conftest import Stopwatch, claim, execute, fresh, wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("valkey")]


def test_a_finished_job_tells_what_its_function_returned(job_factory):
    job = execute(job_factory(task="tests.tasks.first", args=[{"pages": [1, None]}]))

    result = get_task_result(job.pk)

    assert (result.job_id, result.is_err, result.error) == (job.pk, False, None)
    assert result.return_value == {"pages": [1, None]}
    assert result.raise_for_error() is None


@pytest.mark.parametrize("value", [None, 0, False, "", []])
def test_a_result_may_be_nothing_much(job_factory, value):
    job = execute(job_factory(task="tests.tasks.first", args=[value]))

    result = get_task_result(job.pk)

    assert (result.is_err, result.return_value) == (False, value)


def test_the_execution_time_is_that_of_the_last_attempt(job_factory):
    ended = timezone.now()
    job = job_factory(status=FINISHED, started_at=ended - timedelta(seconds=2.5), finished_at=ended)

    assert get_task_result(job.pk).execution_time == pytest.approx(2.5, abs=0.001)


def test_a_failed_job_tells_its_error(job_factory):
    job = execute(job_factory(task="tests.tasks.fail", args=["why"]))

    result = get_task_result(job.pk)

    assert (result.is_err, result.return_value, result.error) == (True, None, "ValueError: why")
    assert result.execution_time > 0
    with pytest.raises(JobFailed, match=f"Job {job.pk} did not finish: ValueError: why"):
        result.raise_for_error()


def test_an_error_without_a_message_is_its_type(job_factory):
    job = execute(job_factory(task="tests.tasks.be_interrupted"))

    assert get_task_result(job.pk).error == "KeyboardInterrupt"


def test_an_interrupted_job_tells_the_evidence(job_factory):
    job = job_factory(status=STARTED)
    lose(job, "Worker w1 is gone.")

    assert get_task_result(job.pk).error == "WorkerLost: Worker w1 is gone."


def test_a_job_canceled_before_it_began_tells_that(job_factory):
    job = job_factory()
    control.cancel(job)

    result = get_task_result(job.pk)

    assert (result.is_err, result.error, result.execution_time) == (True, "canceled", 0)
    with pytest.raises(JobFailed, match="did not finish: canceled"):
        result.raise_for_error()


def test_a_job_canceled_while_it_failed_tells_its_error(job_factory):
    job = job_factory(task="tests.tasks.fail", args=["why"], cancel_requested_at=Now())
    job = execute(job)

    assert (job.status, get_task_result(job.pk).error) == (CANCELED, "ValueError: why")


@pytest.mark.parametrize("status", [QUEUED, SCHEDULED, DEFERRED, STARTED])
def test_a_job_that_has_not_ended_has_no_result_yet(job_factory, status):
    assert get_task_result(job_factory(status=status, result=7).pk) is None


def test_a_job_that_waits_for_its_retry_has_no_result_yet(job_factory):
    job = execute(job_factory(task="tests.tasks.fail", max_attempts=2))

    assert (job.status, get_task_result(job.pk)) == (QUEUED, None)


@pytest.mark.parametrize("spell", [lambda job_id: job_id, str, lambda job_id: job_id.hex])
def test_a_job_is_named_by_its_id_in_any_spelling(job_factory, spell):
    job = execute(job_factory(args=[1, 2]))

    assert get_task_result(spell(job.pk)).return_value == 3
    assert wait_task_result(spell(job.pk), timeout=0).return_value == 3


@pytest.mark.parametrize("ask", [get_task_result, wait_task_result])
@pytest.mark.parametrize("job_id", [UUID(int=0), str(uuid4()), "42", "", None])
def test_an_unknown_id_is_an_error(ask, job_id):
    with pytest.raises(JobDoesNotExist):
        ask(job_id)


def test_a_result_that_could_not_be_kept_is_none(job_factory):
    job = execute(job_factory(task="tests.tasks.return_a_set"))

    result = get_task_result(job.pk)

    assert (result.is_err, result.return_value) == (False, None)
    assert result.result_error == "The result is a value of type set, which is not JSON."


def test_a_result_that_is_too_large_is_not_kept_and_the_job_finished(job_factory, settings):
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "MAX_RESULT_BYTES": len('"é"'.encode())}

    kept = execute(job_factory(task="tests.tasks.first", args=["é"]))
    too_large = execute(job_factory(task="tests.tasks.first", args=["éx"]))

    assert (kept.result, kept.result_error) == ("é", "")
    assert (too_large.status, too_large.result, too_large.error_type) == (FINISHED, None, "")
    assert too_large.result_error == (
        "The result is 5 bytes of JSON; at most 4 are stored. Store it elsewhere and return an id or a "
        'path, or raise DJANGO_JOBS["MAX_RESULT_BYTES"].'
    )
    assert too_large.progress == 100


def test_waiting_ends_when_the_job_does(job_factory):
    job = job_factory(args=[1, 2])

    def run():
        try:
            execute(fresh(job))
        finally:
            connections.close_all()

    timer = threading.Timer(0.3, run)
    timer.start()
    result = wait_task_result(job.pk, timeout=60)
    timer.join()

    assert result.return_value == 3


def test_waiting_no_time_looks_once(job_factory):
    ended, waiting = execute(job_factory(args=[1])), job_factory()

    assert wait_task_result(ended.pk, timeout=0).return_value == 1
    with pytest.raises(WaitTimeout, match=f"Job {waiting.pk} is still queued after 0 s"):
        wait_task_result(waiting.pk, timeout=0)


def test_waiting_too_long_is_an_error_of_ours_and_a_timeout(job_factory):
    began = time.monotonic()

    with Stopwatch() as watch, pytest.raises(WaitTimeout) as raised:
        wait_task_result(job_factory(status=STARTED).pk, timeout=0.2)

    assert time.monotonic() - began >= 0.2
    assert watch.seconds < 5
    assert isinstance(raised.value, TimeoutError)
    assert isinstance(raised.value, JobsError)


def test_waiting_inside_a_transaction_is_refused(job_factory):
    job = job_factory()

    with transaction.atomic(), pytest.raises(RuntimeError, match="would wait for ever"):
        wait_task_result(job.pk)


def test_a_result_is_kept_as_long_as_its_row_unless_told(job_factory):
    job = execute(job_factory(args=[1]))

    assert (job.keep_result_seconds, job.result_expires_at) == (None, None)


def test_a_result_is_kept_for_milliseconds(job_factory):
    kept = execute(tasks.add.using(keep_result_for=timedelta(milliseconds=300_000)).enqueue(1))
    gone = execute(tasks.add.using(keep_result_for=0.004).enqueue(1))

    assert kept.result_expires_at - kept.finished_at == timedelta(minutes=5)
    assert gone.result_expires_at - gone.finished_at == timedelta(milliseconds=4)
    assert get_task_result(kept.pk).return_value == 1
    wait_until(lambda: timezone.now() > gone.result_expires_at + timedelta(milliseconds=1))
    for ask in (get_task_result, wait_task_result):
        with pytest.raises(ResultExpired, match=rf"The result of job {gone.pk} was kept for 0\.004 s, until"):
            ask(gone.pk)


@pytest.mark.parametrize("years", [-30, 30])
def test_whether_it_has_expired_is_told_by_the_databases_clock(monkeypatch, years):
    job = execute(tasks.add.using(keep_result_for=60).enqueue(1))
    now = timezone.now() + timedelta(days=365 * years)
    monkeypatch.setattr(timezone, "now", lambda: now)  # This machine's clock is wrong.

    assert get_task_result(job.pk).return_value == 1


def test_failed_and_canceled_jobs_have_nothing_that_expires(job_factory):
    failed = execute(tasks.fail.using(keep_result_for=0).enqueue("why"))
    canceled = tasks.add.using(keep_result_for=0).enqueue(1)
    canceled.cancel()

    assert get_task_result(failed.pk).error == "ValueError: why"
    assert get_task_result(canceled.pk).error == "canceled"


def test_a_result_counts_from_the_end_of_the_attempt_that_finished(job_factory):
    job = job_factory(task="tests.tasks.fail", max_attempts=2, keep_result_seconds=60)
    job = execute(job)
    assert (job.status, job.result_expires_at) == (QUEUED, None)
    Job.objects.filter(pk=job.pk).update(task="tests.tasks.add", args=[1])

    job = execute(job)

    assert job.result_expires_at - job.finished_at == timedelta(minutes=1)


def test_a_job_taken_from_a_worker_tells_what_was_told_from_outside(job_factory):
    job = claim(job_factory())

    control.fail(job, "closed")

    assert fresh(job).status == FAILED
    assert get_task_result(job.pk).error.endswith(": closed")
