"""What a killed worker had claimed and not begun is soon others'; what it had begun is not."""

import errno
import os
import subprocess
import sys
import time
from uuid import uuid4

import pytest
from django.db import connection

from django_jobs import batches, reports, spool
from django_jobs.models import Job
from django_jobs.outcomes import Outcome
from django_jobs.pool import wrecks
from django_jobs.pool.seats import Seats
from django_jobs.pool.wrecks import Wrecks
from django_jobs.states import FINISHED, QUEUED, STARTED
from tests.conftest import fresh, make_worker
from tests.threads import locked

pytestmark = pytest.mark.django_db


def settle():
    """As somebody does who has long seen who is dead; how many jobs are given back."""
    neighbour = Wrecks()
    neighbour._dead_since = dict.fromkeys([path for path, _ in spool.running_files_of_the_dead()], 0.0)
    return neighbour.settle()


@pytest.fixture(autouse=True)
def folder(settings, tmp_path):
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "SPOOL_DIRECTORY": tmp_path / "spool"}
    return tmp_path / "spool" / "reports"


@pytest.fixture
def worker(db):
    return make_worker()


@pytest.fixture
def claim_all(job_factory, worker):
    def claim(count, **values):
        jobs = [job_factory(**values) for _ in range(count)]
        batches.claim([(job.pk, job.attempt) for job in jobs], worker.pk, uuid4())
        return jobs

    return claim


def begin(seat, job):
    with seat.running(job.pk, None):
        pass
    seat.leave()


def running_file(folder):
    (path,) = folder.glob("*.running")
    return path


def kill(folder):
    """As if its process had ended: the name tells another one."""
    path = running_file(folder)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    prefix = path.name.rpartition(".")[0].rpartition(".")[0]
    return path.rename(path.with_name(f"{prefix}.{ended.pid}-1.running"))


def test_what_was_not_begun_is_given_back_and_what_was_is_not(claim_all, worker, folder):
    jobs = claim_all(6, queue="vectorization")
    seats = Seats(2, 2, spool.new_running_file(worker.pk, 100))
    for number, job in enumerate(jobs[:3]):
        begin(seats.of_child(number % 2)[number // 2], job)
    kill(folder)
    before = [Job.objects.filter(pk=job.pk).values().get() for job in jobs]

    assert settle() == 3

    after = [Job.objects.filter(pk=job.pk).values().get() for job in jobs]
    assert after[:3] == before[:3]
    for row in after[3:]:
        assert (row["status"], row["attempt"], row["delivery"]) == (QUEUED, 1, 1)
        assert [row[name] for name in ("worker_id", "claim_id", "started_at", "delivered_at")] == [None] * 4
        assert row["losses"] == 0
    assert not fresh(jobs[5]).attempts.exists()
    assert settle() == 0


def test_what_children_begin_that_outlive_their_worker_by_moments_is_theirs(
    claim_all, worker, folder, monkeypatch
):
    monkeypatch.setattr(wrecks, "DEAD_SECONDS", 3600)
    begun, unbegun = claim_all(2)
    seats, neighbour = Seats(1, 1, spool.new_running_file(worker.pk, 100)), Wrecks()
    kill(folder)

    assert neighbour.settle() == 0
    begin(seats.of_child(0)[0], begun)
    assert neighbour.settle() == 0
    monkeypatch.setattr(wrecks, "DEAD_SECONDS", 0)
    assert neighbour.settle() == 1

    assert [fresh(job).status for job in (begun, unbegun)] == [STARTED, QUEUED]


def test_what_begins_while_the_rows_are_read_is_not_given_back(claim_all, worker, folder):
    begun, unbegun = claim_all(2)
    seat = Seats(1, 1, spool.new_running_file(worker.pk, 100)).of_child(0)[0]
    kill(folder)

    def begin_first(execute, *statement):
        begin(seat, begun)
        return execute(*statement)

    with connection.execute_wrapper(begin_first):
        assert settle() == 1

    assert [fresh(job).status for job in (begun, unbegun)] == [STARTED, QUEUED]


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite locks no rows.")
@pytest.mark.django_db(transaction=True)
def test_what_is_locked_waits_and_keeps_no_other_from_being_given_back(claim_all, worker, folder):
    busy, free = claim_all(2)
    Seats(1, 1, spool.new_running_file(worker.pk, 100))
    kill(folder)

    with locked(Job.objects.filter(pk=busy.pk)):
        assert settle() == 1
        assert [fresh(job).status for job in (busy, free)] == [STARTED, QUEUED]

    assert (settle(), fresh(busy).status) == (1, QUEUED)


def test_the_jobs_of_a_worker_that_lives_are_left_to_it(claim_all, worker, folder):
    (job,) = claim_all(1)
    Seats(1, 1, spool.new_running_file(worker.pk, 100))

    assert settle() == 0

    assert (fresh(job).status, running_file(folder).exists()) == (STARTED, True)


def test_the_jobs_of_other_workers_are_left_to_them(claim_all, job_factory, worker, folder):
    other = job_factory(status=STARTED)
    observed = job_factory(status=STARTED, worker=worker, observed_id="abc")
    Seats(1, 1, spool.new_running_file(worker.pk, 100))
    kill(folder)

    assert settle() == 0

    assert [fresh(job).status for job in (other, observed)] == [STARTED] * 2


def test_the_file_of_another_machine_tells_nothing_here(claim_all, worker, folder, monkeypatch):
    (job,) = claim_all(1)
    Seats(1, 1, spool.new_running_file(worker.pk, 100))
    kill(folder)
    monkeypatch.setattr(spool, "_machine", lambda: "another")

    assert settle() == 0

    assert fresh(job).status == STARTED


def test_work_that_goes_on_elsewhere_has_begun(claim_all, worker, folder):
    (job,) = claim_all(1)
    claimed = fresh(job)
    reports.report(claimed, Outcome.elsewhere(3600), worker_name="w1")
    Seats(1, 1, spool.new_running_file(worker.pk, 100))
    kill(folder)

    assert settle() == 0

    assert (fresh(job).status, fresh(job).elsewhere_until is None) == (STARTED, False)


def keep_report(job):
    """In a file of a process that has ended."""
    path = reports.keep(reports.document(job, Outcome.finished(result=5), "w1"))
    path.rename(path.with_name(f"{path.name.rpartition('.')[0].rpartition('.')[0]}.999999-1.json"))


def test_what_has_a_report_in_a_file_is_recorded_and_not_run_again(claim_all, worker, folder):
    """It was begun so long ago that nothing else tells; its row was locked."""
    begun, unbegun = claim_all(2)
    Seats(1, 1, spool.new_running_file(worker.pk, 100))
    keep_report(fresh(begun))
    kill(folder)

    assert settle() == 1
    reports.deliver_kept()

    assert [fresh(job).status for job in (begun, unbegun)] == [FINISHED, QUEUED]
    assert fresh(begun).result == 5


def test_what_has_a_report_that_was_set_aside_is_not_run_again(claim_all, worker, folder):
    (begun,) = claim_all(1)
    Seats(1, 1, spool.new_running_file(worker.pk, 100))
    keep_report(fresh(begun))
    for path in folder.glob("*.json"):
        spool.set_aside(path, ValueError())
    kill(folder)

    assert settle() == 0


def test_a_report_of_an_earlier_claim_says_nothing_of_a_later_one(claim_all, worker, folder):
    (job,) = claim_all(1)
    earlier = fresh(job)
    earlier.claim_id = uuid4()
    Seats(1, 1, spool.new_running_file(worker.pk, 100))
    keep_report(earlier)
    (folder / "odd.json").write_text("odd")
    kill(folder)

    assert settle() == 1
    assert fresh(job).status == QUEUED


def test_the_file_stays_while_a_claim_may_be_on_its_way_and_as_long_as_jobs_are_held(
    claim_all, worker, folder
):
    (begun,) = claim_all(1)
    seats = Seats(1, 1, spool.new_running_file(worker.pk, 100))
    begin(seats.of_child(0)[0], begun)
    path = kill(folder)

    os.utime(path, (time.time() - 3600,) * 2)
    settle()
    assert path.exists()

    reports.report(fresh(begun), Outcome.finished(), worker_name="w1")
    os.utime(path)
    settle()
    assert path.exists()
    (late,) = claim_all(1)
    assert settle() == 1
    assert fresh(late).status == QUEUED

    os.utime(path, (time.time() - wrecks.KEPT_SECONDS - 1,) * 2)
    settle()
    assert not path.exists()


@pytest.mark.parametrize("size", [0, 5, 100])
def test_a_file_that_was_cut_gives_back_what_it_does_not_tell_of_as_begun(claim_all, worker, folder, size):
    (job,) = claim_all(1)
    os.truncate(spool.new_running_file(worker.pk, 100), size)
    kill(folder)

    assert settle() == 1
    assert fresh(job).status == QUEUED


def test_odd_files_keep_none_from_being_settled(claim_all, worker, folder):
    (job,) = claim_all(1)
    Seats(1, 1, spool.new_running_file(worker.pk, 100))
    kill(folder)
    machine = spool._machine()
    for name in ("odd.running", ".running", f"no-id.{machine}.999999-1.running"):
        (folder / name).write_text("odd")

    assert settle() == 1
    assert fresh(job).status == QUEUED


def test_a_worker_that_ended_well_leaves_no_file(worker, folder):
    Seats(1, 1, spool.new_running_file(worker.pk, 100))
    other = make_worker()
    Seats(1, 1, spool.new_running_file(other.pk, 100))

    spool.remove_running_file(worker.pk)

    assert running_file(folder).name.startswith(other.pk.hex)


def test_without_a_folder_there_is_nothing_to_settle_and_no_file(folder, worker, caplog):
    assert settle() == 0
    folder.parent.write_text("a file where the folder should be")

    assert spool.new_running_file(worker.pk, 100) is None

    assert "nobody will know what it had not begun" in caplog.text
    assert settle() == 0


def test_the_room_of_a_file_is_taken_at_once(worker, folder):
    descriptor = spool.new_running_file(worker.pk, 50_000)

    assert os.fstat(descriptor).st_blocks * 512 >= 50_000


def test_where_there_is_no_room_for_it_there_is_no_file(worker, folder, monkeypatch, caplog):
    def refuse(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", refuse)

    assert spool.new_running_file(worker.pk, 100) is None

    assert list(folder.glob("*.running")) == []
    assert "nobody will know what it had not begun: [Errno 28]" in caplog.text


def test_the_file_of_one_that_holds_nothing_any_more_is_not_searched(claim_all, worker, folder, monkeypatch):
    (job,) = claim_all(1)
    spool.new_running_file(worker.pk, 100)
    kill(folder)
    assert settle() == 1
    assert fresh(job).status == QUEUED

    def refuse(data):
        raise AssertionError("searched")

    monkeypatch.setattr(wrecks, "begun_of", refuse)

    assert settle() == 0
