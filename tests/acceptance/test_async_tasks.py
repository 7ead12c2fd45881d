"""`async def` tasks, run by real worker processes: ours and RQ's own."""

from django_jobs import Retry
from django_jobs.models import Queue, Worker
from django_jobs.states import CANCELED, FAILED, FINISHED, STARTED
from tests import tasks
from tests.acceptance.test_worker_command import plain_rq_worker
from tests.conftest import fresh, lines, wait_until


def test_coroutines_run_on_our_worker(start_worker, tmp_path):
    good = tasks.add_slowly.enqueue(1, 2)
    bad = tasks.fail_asynchronously.using(retry=Retry(max=1)).enqueue("why")
    storing = tasks.count_queues_in_async_steps.enqueue(["a", "b"])
    failing = tasks.create_in_a_transaction_and_fail.enqueue("c")
    start_worker("file_processing")

    for job in (good, bad, storing, failing):
        job.wait(timeout=60)

    assert (good.status, good.result) == (FINISHED, 3)
    assert (bad.status, bad.attempt, bad.error_message) == (FAILED, 2, "why")
    assert "in fail_asynchronously" in bad.traceback
    assert "django_jobs/" not in bad.traceback
    assert (storing.status, storing.result) == (FINISHED, [["a", "b"], False, str(storing.pk)])
    assert (failing.status, failing.error_message) == (FAILED, "c")
    assert sorted(Queue.objects.values_list("name", flat=True)) == ["a", "b", "before c"]


def test_a_coroutine_that_outlasts_its_time_is_interrupted_and_cleans_up(start_worker, tmp_path):
    effects, never = tmp_path / "effects", tmp_path / "never"
    job = tasks.hold_asynchronously.using(timeout=1).enqueue(str(effects), str(never))
    after = tasks.add_slowly.enqueue(1, 2)
    worker = start_worker("file_processing")

    after.wait(timeout=60)

    row = fresh(job)
    assert (row.status, row.error_type) == (FAILED, "rq.timeouts.JobTimeoutException")
    assert lines(effects) == ["CancelledError", "cleaned up"]
    assert (row.progress, Queue.objects.get().name) == (40, "cleaned up")
    assert (after.status, after.result) == (FINISHED, 3)
    assert worker.process.poll() is None


def test_a_coroutine_tells_its_progress_and_is_canceled_while_it_awaits(start_worker, tmp_path):
    job = tasks.hold_asynchronously.enqueue(str(tmp_path / "effects"), str(tmp_path / "never"))
    after = tasks.add_slowly.enqueue(1, 2)
    start_worker("file_processing")
    wait_until(lambda: fresh(job).progress == 40)
    assert (fresh(job).status, fresh(job).progress_message) == (STARTED, "attempt 1")

    job.cancel()

    assert job.wait(timeout=60).status == CANCELED
    assert after.wait(timeout=60).status == FINISHED


def test_coroutines_run_on_rqs_own_worker_too(transactional_db, valkey, valkey_server, tmp_path):
    effects, never = tmp_path / "effects", tmp_path / "never"
    good = tasks.count_queues_in_async_steps.enqueue(["a", "b"])
    bad = tasks.fail_asynchronously.enqueue("why")
    slow = tasks.hold_asynchronously.using(timeout=1).enqueue(str(effects), str(never))

    with plain_rq_worker(valkey_server, tmp_path, "--serializer", "json", "file_processing") as log:
        for job in (good, bad, slow):
            job.wait(timeout=60)
        wait_until(lambda: not Worker.objects.exists())

    assert (good.status, good.result) == (FINISHED, [["a", "b"], False, str(good.pk)]), log.read_text()
    assert (bad.status, bad.error_message) == (FAILED, "why")
    assert (slow.status, slow.error_type) == (FAILED, "rq.timeouts.JobTimeoutException")
    assert lines(effects) == ["CancelledError", "cleaned up"]
