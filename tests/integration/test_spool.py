"""Reports that wait in files: what a worker did is recorded although its process has ended."""

import json
import os
import secrets
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from django.db import InternalError, connection
from django.utils import timezone

from django_jobs import Retry, reports, spool
from django_jobs.models import Attempt, Installation, Job
from django_jobs.models.workers import installation_id
from django_jobs.outcomes import Outcome, lose
from django_jobs.reports import deliver_kept, report
from django_jobs.signals import job_finished
from django_jobs.states import CANCELED, FAILED, FINISHED, QUEUED, SCHEDULED, STARTED
from tests.conftest import claim, fresh
from tests.threads import holding_locks

pytestmark = pytest.mark.django_db

DONE = {"progress": 100, "progress_message": "done", "stage": "", "stages": {}, "stage_names": []}


@pytest.fixture(autouse=True)
def folder(settings, tmp_path):
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "SPOOL_DIRECTORY": tmp_path / "spool"}
    return tmp_path / "spool" / "reports"


@pytest.fixture
def leave():
    """Keep the report of a job as a worker does whose process then ends."""

    def keep(job, outcome):
        path = reports.keep(reports.document(job, outcome, "w1"))
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        return path.rename(path.with_name(f"{job.claim_id.hex}.{ended.pid}-1.json"))

    return keep


def let_sleep(monkeypatch, sleep):
    """Replace the sleep of reports, and not that of threads that other tests have left."""
    monkeypatch.setattr(reports, "time", SimpleNamespace(sleep=sleep))


def left_in(folder):
    return [path.name for path in folder.iterdir() if path.name != ".gitignore"]


def test_a_kept_report_is_recorded_as_if_its_worker_had_written_it(job_factory, leave, folder):
    job = claim(job_factory())
    told = {"log": "a line", "progress": DONE, "ran_seconds": 1.5}
    leave(job, Outcome.finished(result={"pages": [1, None, "ü"]}, **told))

    assert deliver_kept() == 1

    job = fresh(job)
    assert (job.status, job.result, job.progress_message) == (FINISHED, {"pages": [1, None, "ü"]}, "done")
    attempt = job.attempts.get()
    assert (attempt.worker_name, attempt.log, attempt.started_at) == ("w1", "a line", job.started_at)
    assert left_in(folder) == []


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome.failed("ValueError", "no", "Traceback"), FAILED),
        (Outcome.retried(Retry(max=3, interval=60), "ValueError", "no", ""), SCHEDULED),
        (Outcome.elsewhere(60), STARTED),
    ],
)
def test_whichever_way_an_attempt_ended_its_report_is_kept(job_factory, leave, outcome, status):
    job = claim(job_factory())
    leave(job, outcome)

    deliver_kept()

    assert (fresh(job).status, job.attempts.get().outcome) == (status, outcome.kind)


def test_a_kept_report_is_recorded_once(job_factory, leave, folder):
    job = claim(job_factory(max_attempts=2))
    path = leave(job, Outcome.failed("ValueError", "no", ""))
    copy = path.read_text()

    deliver_kept()
    path.write_text(copy)
    deliver_kept()

    assert (fresh(job).status, fresh(job).attempt, job.attempts.count()) == (QUEUED, 2, 1)
    assert not job.events.exists()


def test_work_whose_report_was_kept_does_not_stay_interrupted(job_factory, leave):
    job = claim(job_factory())
    leave(job, Outcome.finished(result=42))
    lose(job, "Worker w1 is silent.")

    deliver_kept()

    assert (fresh(job).status, fresh(job).result, fresh(job).error_type) == (FINISHED, 42, "")


def test_a_kept_report_of_a_superseded_attempt_is_told_as_late(job_factory, leave):
    job = claim(job_factory(idempotent=True))
    leave(job, Outcome.finished(result=42))
    lose(job, "Worker w1 is silent.")
    claim(fresh(job))

    deliver_kept()

    assert (fresh(job).status, fresh(job).attempt) == (STARTED, 2)
    assert [event.kind for event in job.events.all()] == ["worker_lost", "late_report"]


def test_the_report_of_a_job_to_be_canceled_cancels_it(job_factory, leave):
    job = claim(job_factory(max_attempts=5, cancel_requested_at=timezone.now()))
    leave(job, Outcome.failed("ValueError", "no", ""))

    deliver_kept()

    assert fresh(job).status == CANCELED


def test_the_kept_report_of_a_deleted_job_is_dropped(job_factory, leave, folder):
    job = claim(job_factory())
    leave(job, Outcome.finished())
    job.delete()

    deliver_kept()

    assert left_in(folder) == []


def test_a_kept_report_is_told_to_receivers_of_the_signal(job_factory, leave):
    told = []
    job = claim(job_factory())
    leave(job, Outcome.finished())

    def tell(sender, job, outcome, **_):
        told.append((job.pk, outcome))

    job_finished.connect(tell)
    try:
        deliver_kept()
    finally:
        job_finished.disconnect(tell)

    assert told == [(job.pk, Attempt.Outcome.FINISHED)]


def test_what_a_process_that_lives_keeps_is_left_to_it(job_factory, folder):
    job = claim(job_factory())
    reports.keep(reports.document(job, Outcome.finished(), "w1"))

    assert deliver_kept() == 0

    assert (fresh(job).status, len(left_in(folder))) == (STARTED, 1)


def test_what_is_of_another_database_is_left_alone(job_factory, leave, folder):
    job = claim(job_factory())
    leave(job, Outcome.finished())
    Installation.objects.all().delete()
    installation_id.cache_clear()

    assert deliver_kept() == 0

    assert (fresh(job).status, len(left_in(folder))) == (STARTED, 1)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '"x"', "{}", '{"installation": "mine"}', '{"installation": "mine", "outcome": 5}']
)
def test_a_file_that_holds_no_report_keeps_no_other_from_being_recorded(job_factory, leave, folder, text):
    job = claim(job_factory())
    leave(job, Outcome.finished())
    broken = text.replace("mine", str(installation_id()))
    (folder / "0.999999-1.json").write_text(broken)
    (folder / "odd.json").write_text(broken)

    deliver_kept()

    assert fresh(job).status == FINISHED
    assert not [name for name in left_in(folder) if name.endswith(".json")]


def test_what_a_process_did_not_finish_writing_is_removed(folder, job_factory, leave):
    leave(claim(job_factory()), Outcome.finished())
    (folder / "report.999999-1.part").write_text("{")

    deliver_kept()

    assert left_in(folder) == []


def test_a_folder_that_others_may_write_to_is_neither_read_nor_written(job_factory, leave, folder, caplog):
    job = claim(job_factory())
    leave(job, Outcome.finished())
    folder.chmod(0o777)

    assert deliver_kept() == 0
    assert spool.keep("report", {}) is None

    assert fresh(job).status == STARTED
    assert 'Name another folder in DJANGO_JOBS["SPOOL_DIRECTORY"]' in caplog.text


def test_what_is_kept_is_for_the_eyes_of_its_user_alone(folder):
    path = spool.keep("report", {"a": 1})

    assert (folder.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o600)
    assert json.loads(path.read_text()) == {"a": 1}


def test_other_files_in_the_folder_that_was_named_are_left_alone(folder):
    others = [folder.parent / name for name in ("package.json", "film.part", ".gitignore")]
    folder.parent.mkdir()
    for other in others:
        other.write_text("theirs")

    spool.keep("report", {})
    deliver_kept()

    assert [other.read_text() for other in others] == ["theirs"] * 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything.")
def test_a_report_that_cannot_be_read_now_stays(job_factory, leave, folder):
    path = leave(claim(job_factory()), Outcome.finished())
    path.chmod(0)

    assert deliver_kept() == 0

    assert path.exists()


def test_a_disk_that_takes_nothing_is_told_and_no_error(folder, caplog):
    folder.parent.write_text("a file where the folder should be")

    assert spool.keep("report", {}) is None

    assert "cannot be kept" in caplog.text


@pytest.mark.django_db(transaction=True)
def test_a_report_waits_in_a_file_until_it_is_written(job_factory, folder, monkeypatch):
    job, waited = claim(job_factory()), []
    installation_id()
    let_sleep(monkeypatch, lambda seconds: waited.append(left_in(folder)))

    with unable_to_write_for_now(lambda: waited):
        report(job, Outcome.finished(result=1), worker_name="w1")

    assert (fresh(job).status, job.attempts.count(), left_in(folder)) == (FINISHED, 1, [])
    assert waited
    assert all(
        name.startswith(reports.document(job, Outcome.finished(), "")["claim"])
        for names in waited
        for name in names
    )
    assert [len(names) for names in waited] == [1] * len(waited)


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite locks no rows.")
@pytest.mark.django_db(transaction=True)
def test_a_report_that_hangs_is_in_a_file_before_it_is_written(job_factory, folder):
    installation_id()
    job = claim(job_factory())
    lock = Job.objects.select_for_update().filter(pk=job.pk)

    with holding_locks(lambda: list(lock), until=lambda: folder.exists() and left_in(folder)):
        report(job, Outcome.finished(result=1), worker_name="w1")

    assert (fresh(job).status, left_in(folder)) == (FINISHED, [])


@contextmanager
def unable_to_write_for_now(has_failed):
    """The first try fails: the connection is lost, or the database locked by somebody else."""
    if connection.vendor == "postgresql":
        connection.connection.close()
        yield
        return
    connection.cursor().execute("PRAGMA busy_timeout = 50")
    with holding_locks(lambda: Installation.objects.update(namespace="x"), until=has_failed):
        yield


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite locks no rows.")
@pytest.mark.django_db(transaction=True)
def test_a_locked_row_keeps_no_other_report_from_being_recorded(job_factory, leave, folder):
    locked, free = (claim(job_factory()) for _ in range(2))
    for job in (locked, free):
        leave(job, Outcome.finished())

    with holding_locks(lambda: list(Job.objects.select_for_update().filter(pk=locked.pk))):
        assert deliver_kept() == 1
        assert fresh(free).status == FINISHED

    assert (deliver_kept(), fresh(locked).status) == (1, FINISHED)


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite is never read-only for a while.")
@pytest.mark.django_db(transaction=True)
def test_a_database_that_is_read_only_for_now_loses_no_value(job_factory, monkeypatch):
    """As after a failover, until the other server is the primary."""
    job, waited = claim(job_factory()), []
    let_sleep(monkeypatch, waited.append)
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")  # For this connection.

    report(job, Outcome.finished(result="kept"), worker_name="w1")

    assert (fresh(job).status, fresh(job).result, bool(waited)) == (FINISHED, "kept", True)


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite is never read-only for a while.")
@pytest.mark.django_db(transaction=True)
def test_a_database_that_is_read_only_for_now_has_no_report_set_aside(job_factory, leave):
    job = claim(job_factory())
    leave(job, Outcome.finished(result="kept"))

    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")
        try:
            with pytest.raises(InternalError):
                deliver_kept()
        finally:
            cursor.execute("RESET default_transaction_read_only")

    assert (deliver_kept(), fresh(job).result) == (1, "kept")


# What the database refuses for its value


def long_text():
    return secrets.token_hex(12_000)  # It cannot be compressed.


def test_a_result_that_the_database_refuses_is_told_and_the_job_is_finished(job_factory, narrow_database):
    job = claim(job_factory())

    report(job, Outcome.finished(result=long_text(), log="a line"), worker_name="w1")

    job = fresh(job)
    assert (job.status, job.result) == (FINISHED, None)
    assert job.result_error.startswith("The database refused it: ")
    assert job.attempts.get().outcome == "finished"


def test_an_error_that_the_database_refuses_leaves_its_type(job_factory, narrow_database):
    job = claim(job_factory())

    report(job, Outcome.failed("ValueError", "no", long_text()), worker_name="w1")

    job = fresh(job)
    assert (job.status, job.error_type, job.traceback) == (FAILED, "ValueError", "")
    assert job.error_message.startswith("The database refused it: ")
