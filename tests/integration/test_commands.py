import json

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db.models.functions import Now

from django_jobs.models import Queue
from django_jobs.states import FAILED, QUEUED, STARTED
from tests import tasks
from tests.conftest import fresh, make_worker

pytestmark = pytest.mark.usefixtures("valkey")


def status(capsys: pytest.CaptureFixture[str]) -> dict[str, dict]:
    call_command("jobs_status", "--json")
    told = json.loads(capsys.readouterr().out)
    return {"queues": {queue["name"]: queue for queue in told["queues"]}, "workers": told["workers"]}


def test_status_counts_the_jobs_of_each_queue(job_factory, capsys):
    job_factory()
    job_factory(status=FAILED)
    job_factory(status=STARTED, queue="vectorization")

    queues = status(capsys)["queues"]

    assert (queues["file_processing"]["queued"], queues["file_processing"]["failed"]) == (1, 1)
    assert queues["vectorization"]["started"] == 1
    assert queues["kg_extraction"]["queued"] == 0


def test_status_tells_what_is_delivered(transactional_db, job_factory, capsys):
    tasks.add.enqueue(1)
    job_factory()

    assert status(capsys)["queues"]["file_processing"]["undelivered"] == 1


def test_status_tells_a_silent_worker_from_a_live_one(db, capsys):
    make_worker(name="here", queues=["file_processing"])
    make_worker(name="gone", queues=["file_processing"], leased_until=Now())

    told = status(capsys)

    assert [(worker["name"], worker["alive"]) for worker in told["workers"]] == [
        ("gone", False),
        ("here", True),
    ]
    assert told["queues"]["file_processing"]["workers"] == 1


def test_status_as_text_is_a_table_and_says_what_is_missing(db, capsys):
    Queue.objects.create(name="vectorization", paused=True)

    call_command("jobs_status")

    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == [
        *("queue", "queued", "scheduled", "deferred", "started", "failed", "undelivered", "workers")
    ]
    assert "vectorization (paused)" in out
    assert "No worker runs; start one with: manage.py rqworker" in out


def test_status_without_redis_tells_the_database_and_the_masked_url(db, capsys, monkeypatch):
    unreachable = {"file_processing": {"URL": "redis://:secret@127.0.0.1:1/0"}}
    monkeypatch.setattr(settings, "RQ_QUEUES", unreachable)

    call_command("jobs_status")

    told = capsys.readouterr()
    assert "file_processing  0" in told.out
    assert "Redis at redis://:***@127.0.0.1:1/0" in told.err
    assert "secret" not in told.err


def test_requeue_failed_takes_ids(job_factory, capsys):
    chosen, other = job_factory(status=FAILED), job_factory(status=FAILED)

    call_command("requeue_failed", str(chosen.pk))

    assert (fresh(chosen).status, fresh(other).status) == (QUEUED, FAILED)
    assert "1 failed job requeued." in capsys.readouterr().out


def test_requeue_failed_takes_a_queue(job_factory):
    here, elsewhere = job_factory(status=FAILED), job_factory(status=FAILED, queue="vectorization")

    call_command("requeue_failed", "--queue", "file_processing")

    assert (fresh(here).status, fresh(elsewhere).status) == (QUEUED, FAILED)


def test_requeue_failed_takes_all(job_factory):
    jobs = [job_factory(status=FAILED), job_factory(status=FAILED, queue="vectorization")]

    call_command("requeue_failed", "--all")

    assert [fresh(job).status for job in jobs] == [QUEUED, QUEUED]


def test_requeue_failed_names_what_it_could_not_requeue_and_does_the_rest(job_factory):
    failed, running = job_factory(status=FAILED), job_factory(status=STARTED)

    with pytest.raises(CommandError) as error:
        call_command("requeue_failed", "nonsense", str(running.pk), str(failed.pk))

    assert "'nonsense' is not the id of a job" in str(error.value)
    assert f"Job {running.pk} is started, not failed." in str(error.value)
    assert fresh(failed).status == QUEUED


def test_requeue_failed_wants_to_know_which(db):
    with pytest.raises(CommandError, match="ids, or --queue NAME, or --all"):
        call_command("requeue_failed")


def test_requeue_failed_guesses_a_misspelled_queue(db):
    with pytest.raises(CommandError, match='Did you mean "file_processing"'):
        call_command("requeue_failed", "--queue", "file_procesing")


def test_status_tells_of_jobs_on_a_queue_that_nobody_declares(job_factory, capsys):
    for queue in ("aaa", "gone", "zzz"):
        job_factory(queue=queue)

    call_command("jobs_status")

    told = capsys.readouterr()
    assert "gone" in told.out
    assert "Jobs wait on the queue gone, which RQ_QUEUES does not declare." in told.err
    assert {"aaa", "gone", "zzz"} < status(capsys)["queues"].keys()
