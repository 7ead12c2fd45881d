"""The executor: who may run an attempt, and what comes of it."""

import logging
import threading
import time
from contextlib import contextmanager
from uuid import uuid4

import pytest
from django.db import connection, connections

from django_jobs import current_job, executor
from django_jobs.engines.rq import trampoline
from django_jobs.fences import Fence
from django_jobs.models import Attempt, Job, Queue
from django_jobs.models.workers import installation_id
from django_jobs.outcomes import lose
from django_jobs.processes import SharedMoment
from django_jobs.reporter import LOG_LIMIT
from django_jobs.signals import job_finished, job_started
from django_jobs.states import CANCELED, FAILED, FINISHED, QUEUED, SCHEDULED, STARTED
from django_jobs.values import TRACEBACK_LIMIT, clean_text
from tests.conftest import claim, execute, fresh, make_worker, no_time_limit
from tests.threads import holding_locks

# With transactions of their own: after a job its worker closes what connections the job spoiled.
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def deliver(monkeypatch):
    """Call the trampoline as RQ does, in the name of a live worker."""

    def call(delivery_id, installation=None):
        monkeypatch.setattr(trampoline, "_disarm_rq_timeout", lambda: None)
        token = trampoline.claimant.set(
            trampoline.Claimant(make_worker(), uuid4(), Fence(), SharedMoment(time.monotonic))
        )
        try:
            trampoline.run(delivery_id, installation or str(installation_id()))
        finally:
            trampoline.claimant.reset(token)

    return call


@contextmanager
def receiving(signal, receiver):
    signal.connect(receiver)
    try:
        yield
    finally:
        signal.disconnect(receiver)


def test_a_claim_starts_the_job_and_brings_its_call(job_factory):
    job = job_factory(args=[1], kwargs={"right": {"a": None}}, progress=30, stage="old", stages={"old": {}})
    worker, claim_id = make_worker(name="w7"), uuid4()

    started = claim(job, worker=worker, claim_id=claim_id)

    assert (started.task, started.args, started.kwargs) == ("tests.tasks.add", [1], {"right": {"a": None}})
    row = fresh(job)
    assert (row.status, row.worker, row.claim_id) == (STARTED, worker, claim_id)
    assert row.started_at is not None
    assert (row.progress, row.stage, row.stages) == (0, "", {})


def test_an_attempt_is_claimed_once(job_factory):
    job = job_factory()

    assert claim(job) is not None
    assert claim(job) is None


def test_a_claim_whose_reply_was_lost_is_found_again(job_factory):
    job, worker, claim_id = job_factory(), make_worker(), uuid4()

    assert claim(job, worker=worker, claim_id=claim_id) is not None
    assert claim(job, worker=worker, claim_id=claim_id) == job


def test_of_many_claims_at_once_one_wins(job_factory):
    job, worker = job_factory(), make_worker()
    start, won = threading.Barrier(6), []

    def compete():
        try:
            start.wait()
            if started := executor.claim(job.pk, 1, worker=worker, claim_id=uuid4()):
                won.append(started.claim_id)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=compete) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert won == [fresh(job).claim_id]


@pytest.mark.parametrize("status", [SCHEDULED, STARTED, FINISHED, FAILED, CANCELED])
def test_a_job_that_is_not_queued_cannot_be_claimed(job_factory, status):
    job = job_factory(status=status)

    assert claim(job) is None
    assert fresh(job).status == status


@pytest.mark.parametrize("attempt", [1, 3])
def test_only_the_attempt_awaited_can_be_claimed(job_factory, attempt):
    job = job_factory(attempt=2)

    assert executor.claim(job.pk, attempt, worker=make_worker(), claim_id=uuid4()) is None
    assert fresh(job).status == QUEUED


def test_a_job_that_does_not_exist_cannot_be_claimed():
    assert executor.claim(uuid4(), 1, worker=make_worker(), claim_id=uuid4()) is None


def test_a_job_of_a_paused_queue_is_given_back_to_be_delivered_anew(job_factory):
    Queue.objects.create(name="file_processing", paused=True)
    job = job_factory(delivered_epoch="epoch")

    assert claim(job) is None

    row = fresh(job)
    assert (row.status, row.attempt, row.delivery, row.delivered_epoch) == (QUEUED, 1, 1, "")


def test_a_delivery_runs_its_job(job_factory, deliver):
    job = job_factory(args=[1, 2])

    deliver(f"{job.pk.hex}-1-0")

    assert (fresh(job).status, fresh(job).result) == (FINISHED, 3)


def test_a_delivery_repeated_runs_nothing(job_factory, deliver, tmp_path):
    job = job_factory(task="tests.tasks.fail_until", args=[str(tmp_path / "calls"), 1])

    deliver(f"{job.pk.hex}-1-0")
    deliver(f"{job.pk.hex}-1-0")

    assert (tmp_path / "calls").read_text() == "called\n"
    assert job.attempts.count() == 1


def test_a_delivery_of_a_superseded_attempt_runs_nothing(job_factory, deliver):
    job = job_factory(attempt=2)

    deliver(f"{job.pk.hex}-1-0")

    assert (fresh(job).status, job.attempts.count()) == (QUEUED, 0)


def test_a_delivery_raises_what_its_function_raised(job_factory, deliver):
    job = job_factory(task="tests.tasks.fail", args=["why"])

    with pytest.raises(ValueError, match="why"):
        deliver(f"{job.pk.hex}-1-0")

    assert fresh(job).status == FAILED


@pytest.mark.parametrize("delivery_id", ["", "x", "os.system-1-0", "{hex}-1", "{hex}-1-0\n", "{hex}--1-0"])
def test_a_forged_delivery_runs_nothing(job_factory, deliver, delivery_id):
    job = job_factory()

    with pytest.raises(trampoline.ForeignDelivery):
        deliver(delivery_id.format(hex=job.pk.hex))

    assert fresh(job).status == QUEUED


def test_a_delivery_of_another_installation_runs_nothing_and_says_how_to_part_them(job_factory, deliver):
    job = job_factory()

    with pytest.raises(
        trampoline.ForeignDelivery, match=r"two projects share a Redis database.*RQ_KEY_PREFIX"
    ):
        deliver(f"{job.pk.hex}-1-0", installation=str(uuid4()))

    assert fresh(job).status == QUEUED


def test_a_job_that_returns_is_finished_with_its_result_and_one_attempt(job_factory):
    job = execute(job_factory(args=[2], kwargs={"right": 3}), worker=make_worker(name="w7"))

    assert (job.status, job.result, job.result_error, job.progress) == (FINISHED, 5, "", 100)
    assert job.started_at <= job.finished_at
    assert (job.error_type, job.error_message, job.traceback) == ("", "", "")
    attempt = job.attempts.get()
    assert (attempt.number, attempt.outcome, attempt.worker_name) == (1, "finished", "w7")
    assert (attempt.started_at, attempt.claim_id) == (job.started_at, job.claim_id)
    assert attempt.finished_at >= attempt.started_at


@pytest.mark.parametrize("value", [None, False, 0, "", [], {}, {"a": [1.5, "é", None]}])
def test_a_result_comes_back_as_it_was(job_factory, value):
    job = execute(job_factory(task="tests.tasks.first", args=[value]))

    assert (job.status, job.result, job.result_error) == (FINISHED, value, "")


def test_a_result_of_fifty_megabytes_leaves_the_job_finished_and_says_why(job_factory):
    job = execute(job_factory(task="tests.tasks.return_much", args=[50_000_000]))

    assert (job.status, job.result, job.error_type) == (FINISHED, None, "")
    assert job.result_error.startswith(
        "The result is 50,000,002 bytes of JSON; at most 10,000,000 are stored."
    )


def test_a_result_that_is_not_json_leaves_the_job_finished_and_says_why(job_factory):
    job = execute(job_factory(task="tests.tasks.return_a_set"))

    assert (job.status, job.result) == (FINISHED, None)
    assert job.result_error == "The result is a value of type set, which is not JSON."
    assert job.attempts.get().outcome == "finished"


@pytest.mark.parametrize("text", [r"a\0b", r"\ud800"])
def test_a_result_that_postgresql_refuses_leaves_the_job_finished_and_says_why(job_factory, text):
    job = execute(job_factory(task="tests.tasks.return_text", args=[text]))

    assert (job.status, job.result) == (FINISHED, None)
    assert job.result_error.startswith("The result is text with a NUL character")


def test_a_failed_job_tells_what_was_raised(job_factory):
    job = execute(job_factory(task="tests.tasks.fail", args=["why"]))

    assert (job.status, job.error_type, job.error_message) == (FAILED, "ValueError", "why")
    assert job.finished_at >= job.started_at
    assert "in fail\n    raise ValueError(message)" in job.traceback
    assert job.traceback.endswith("ValueError: why\n")


def test_a_traceback_is_without_our_own_frames(job_factory):
    job = execute(job_factory(task="tests.tasks.fail", args=["why"]))

    assert "django_jobs/" not in job.traceback
    assert "contextlib" not in job.traceback


def test_a_traceback_tells_the_cause_too(job_factory):
    job = execute(job_factory(task="tests.tasks.fail_from_a_cause"))

    assert job.error_type == "LookupError"
    assert "ValueError: the cause" in job.traceback
    assert "direct cause" in job.traceback


def test_an_exception_of_the_project_is_named_in_full(job_factory):
    job = execute(job_factory(task="tests.tasks.fail_unprintably"))

    assert job.error_type == "tests.tasks.Unprintable"


def test_an_exception_that_cannot_be_printed_is_told_all_the_same(job_factory):
    job = execute(job_factory(task="tests.tasks.fail_unprintably"))

    assert job.status == FAILED
    assert job.error_message == "(its message raises RuntimeError)"
    assert "in fail_unprintably" in job.traceback


@pytest.mark.parametrize("code", [0, 3])
def test_a_job_that_exits_has_failed(job_factory, code):
    job = execute(job_factory(task="tests.tasks.exit_with", args=[code]))

    assert (job.status, job.error_type, job.error_message) == (FAILED, "SystemExit", str(code))
    assert "leaving" in job.attempts.get().log


def test_a_function_removed_by_a_deploy_fails_the_job_with_its_path(job_factory):
    job = execute(job_factory(task="tests.tasks.was_here_before"))

    assert (job.status, job.error_type) == (FAILED, "django_jobs.exceptions.TaskNotFound")
    assert job.error_message.startswith("tests.tasks.was_here_before cannot be imported")


def test_a_function_no_longer_allowed_fails_the_job_with_its_path(job_factory, settings):
    job = execute(job_factory(task="json.dumps", args=[1]))

    assert (job.status, job.error_type) == (FAILED, "django_jobs.exceptions.TaskNotAllowed")
    assert "json.dumps may not run as a job" in job.error_message


def test_a_call_that_no_longer_fits_its_function_fails_the_job(job_factory):
    job = execute(job_factory(kwargs={"renamed": 1}))

    assert (job.status, job.error_type) == (FAILED, "TypeError")


@pytest.mark.parametrize("text", [r"a\0b", r"a\ud800b"])
def test_what_postgresql_refuses_is_replaced_in_error_traceback_and_log(job_factory, text):
    job = execute(job_factory(task="tests.tasks.fail_with_text", args=[text]))

    assert job.status == FAILED
    assert job.error_message in {"a\N{REPLACEMENT CHARACTER}b", "a?b"}
    assert job.error_message in job.traceback
    assert job.error_message in job.attempts.get().log


def test_a_huge_traceback_is_cut_in_its_middle(job_factory):
    job = execute(job_factory(task="tests.tasks.fail_deep", args=[500]))

    assert job.status == FAILED
    assert len(job.traceback) < TRACEBACK_LIMIT + 100
    assert job.traceback.startswith("Traceback (most recent call last)")
    assert "characters cut" in job.traceback
    assert job.traceback.endswith("ValueError: at the bottom\n")


def test_a_traceback_of_a_million_lines_is_cut_in_its_middle(job_factory):
    job = execute(job_factory(task="tests.tasks.fail", args=["line\n" * 1_000_000 + "the last"]))

    assert job.status == FAILED
    assert len(job.traceback) < TRACEBACK_LIMIT + 100
    assert "characters cut" in job.traceback
    assert job.traceback.endswith("line\nthe last\n")


def test_a_huge_message_is_cut(job_factory):
    job = execute(job_factory(task="tests.tasks.fail", args=["x" * 1_000_000]))

    assert job.status == FAILED
    assert len(job.error_message) == 2000
    assert len(job.traceback) < TRACEBACK_LIMIT + 100


def test_an_attempt_keeps_what_its_job_logged(job_factory):
    job = execute(job_factory(task="tests.tasks.log_lines", args=[2, "of text"]))

    first, second = job.attempts.get().log.splitlines()
    assert first.endswith("INFO tests.tasks: 0 of text")
    assert second.endswith("INFO tests.tasks: 1 of text")


def test_what_was_logged_before_and_after_a_job_is_not_its_log(job_factory):
    logging.getLogger("tests").warning("before")
    job = execute(job_factory(task="tests.tasks.log_lines", args=[1, "inside"]))
    logging.getLogger("tests").warning("after")

    assert "inside" in job.attempts.get().log
    assert "before" not in job.attempts.get().log
    assert "after" not in job.attempts.get().log


def test_a_huge_log_keeps_its_end_and_says_how_much_is_missing(job_factory):
    job = execute(job_factory(task="tests.tasks.log_lines", args=[1000, "x" * 500]))

    head, *lines = job.attempts.get().log.splitlines()
    assert head == f"… {1000 - len(lines)} earlier records cut …"
    assert lines[-1].split()[-2] == "999"
    assert LOG_LIMIT - 1000 < len("\n".join(lines)) <= LOG_LIMIT


def test_one_huge_log_record_is_cut(job_factory):
    job = execute(job_factory(task="tests.tasks.log_lines", args=[1, "x" * 1_000_000]))

    assert len(job.attempts.get().log) < LOG_LIMIT + 100
    assert len(clean_text("x" * 1_000_000, LOG_LIMIT)) < LOG_LIMIT + 100


def test_a_job_knows_itself_only_while_it_runs(job_factory):
    job = execute(job_factory(task="tests.tasks.who_am_i", attempt=2, max_attempts=2))

    assert job.result == [str(job.pk), 2]
    assert current_job() is None


def test_receivers_are_told_of_start_and_end_and_cannot_break_the_job(job_factory):
    told = []

    def note(job, outcome="none yet", **kwargs):
        told.append((job.pk, outcome))
        raise RuntimeError

    job = job_factory(args=[1])
    with receiving(job_started, note), receiving(job_finished, note):
        executor.execute(job.pk, 1, worker=make_worker(), claim_id=uuid4(), time_limit=no_time_limit)

    assert told == [(job.pk, "none yet"), (job.pk, "finished")]
    assert fresh(job).status == FINISHED


def test_the_end_is_logged_with_the_id(job_factory, caplog):
    caplog.set_level("INFO")
    job = job_factory(args=[1])

    executor.execute(job.pk, 1, worker=make_worker(), claim_id=uuid4(), time_limit=no_time_limit)

    assert f"Job started id={job.pk} task=tests.tasks.add queue=file_processing attempt=1" in caplog.text
    assert f"Job ended id={job.pk} task=tests.tasks.add queue=file_processing attempt=1 outcome=finished" in (
        caplog.text
    )


def test_a_job_that_breaks_its_database_connection_is_reported_over_a_new_one(job_factory):
    job = execute(job_factory(task="tests.tasks.break_its_connection"))

    assert (job.status, job.attempts.count()) == (FAILED, 1)
    assert connection.is_usable()


def test_a_job_that_leaves_a_transaction_open_is_reported_and_its_writes_are_not_kept(job_factory):
    job = execute(job_factory(task="tests.tasks.leave_a_transaction_open", args=["never committed"]))

    assert (job.status, job.attempts.count()) == (FINISHED, 1)
    assert not Queue.objects.filter(name="never committed").exists()


def test_what_a_failed_job_wrote_in_a_transaction_is_rolled_back_and_its_report_is_not(job_factory):
    job = execute(job_factory(task="tests.tasks.write_and_fail", args=["half done"]))

    assert not Queue.objects.filter(name="half done").exists()
    assert (job.status, job.error_type) == (FAILED, "ValueError")
    assert Attempt.objects.filter(job=job).count() == Job.objects.count() == 1


# Whether an attempt is still this worker's


def test_what_is_claimed_is_surely_held(job_factory):
    job = claim(job_factory())

    assert executor.is_surely_held(job.pk, job.claim_id)


def test_what_is_not_claimed_yet_is_taken_by_nobody(job_factory):
    assert executor.is_surely_held(job_factory().pk, uuid4())


def test_what_was_taken_for_lost_is_not_held(job_factory):
    job = claim(job_factory(idempotent=True))
    lose(job, "Its worker was silent.")
    claim(fresh(job))

    assert not executor.is_surely_held(job.pk, job.claim_id)


def test_a_deleted_job_is_not_held(job_factory):
    job = claim(job_factory())
    fresh(job).delete()

    assert not executor.is_surely_held(job.pk, job.claim_id)


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite locks no rows.")
def test_what_somebody_may_just_be_taking_is_not_surely_held(job_factory):
    job = claim(job_factory())

    with holding_locks(lambda: Job.objects.select_for_update().get()):
        assert not executor.is_surely_held(job.pk, job.claim_id)


def test_an_attempt_that_may_not_begin_is_given_back_and_is_no_attempt_yet(job_factory, tmp_path):
    job, worker = (
        job_factory(task="tests.tasks.record", args=[str(tmp_path / "effects"), "ran"]),
        make_worker(),
    )

    executor.execute(
        job.pk, 1, worker=worker, claim_id=uuid4(), time_limit=no_time_limit, may_begin=lambda: False
    )

    job = fresh(job)
    assert (job.status, job.attempt, job.delivery, job.claim_id) == (QUEUED, 1, 1, None)
    assert not job.attempts.exists()
    assert not job.events.exists()
    assert not (tmp_path / "effects").exists()
    assert claim(job)
