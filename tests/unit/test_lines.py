"""The lines between a worker and its children: messages arrive whole, in order, and at one place only."""

import os
import random
import secrets
import threading
from uuid import UUID, uuid4

import pytest

from django_jobs.batches import Claimed, Report
from django_jobs.models import Attempt
from django_jobs.pool import lines
from django_jobs.states import Status


@pytest.fixture
def jobs():
    ours, theirs = lines.job_line()
    with ours, theirs:
        for end in (ours, theirs):
            end.setblocking(False)
        yield ours, theirs


def job(row="[]", job_id=None):
    return Claimed(job_id or uuid4(), 1, "tests.tasks.add", "file_processing", row)


def report(**values):
    told = {"job_id": uuid4(), "queue": "", "outcome": "finished", "status": "finished"}
    return Report(**{**told, "ran_seconds": 1.5, "document": '{"a": "ü"}', **values})


def descriptors():
    return set(os.listdir("/dev/fd"))


SIZES = [0, 1, lines.LARGEST_ROW - 1, lines.LARGEST_ROW, lines.LARGEST_ROW + 1, 1_000_000]


@pytest.mark.parametrize("size", SIZES)
def test_a_job_arrives_as_it_was_sent_however_large_it_is(jobs, size):
    ours, theirs = jobs
    sent = job(secrets.token_hex(size // 2 + 1)[:size])

    lines.send_job(ours, sent)

    assert lines.receive_job(theirs) == (sent.job_id, sent.row)


def test_bytes_count_rather_than_characters(jobs):
    ours, theirs = jobs
    sent = job("🦉" * (lines.LARGEST_ROW // 2))

    lines.send_job(ours, sent)

    assert lines.receive_job(theirs) == (sent.job_id, sent.row)


def test_small_and_large_jobs_arrive_in_their_order(jobs):
    ours, theirs = jobs
    sent = [job("x" * size) for size in (5, 100_000, 7, 200_000, 0)]
    for each in sent:
        lines.send_job(ours, each)

    assert [lines.receive_job(theirs) for _ in sent] == [(each.job_id, each.row) for each in sent]


def test_nothing_stays_open_of_large_jobs(jobs):
    ours, theirs = jobs
    before = descriptors()

    for _ in range(10):
        lines.send_job(ours, job("x" * 100_000))
        lines.receive_job(theirs)

    assert descriptors() == before


@pytest.mark.parametrize("size", [1000, 100_000])
def test_a_full_line_takes_nothing_and_says_so(jobs, size):
    ours, theirs = jobs
    before, sent = descriptors(), []

    with pytest.raises(BlockingIOError):
        while len(sent) < 100_000:
            each = job("x" * size)
            lines.send_job(ours, each)
            sent.append(each.job_id)

    assert len(sent) >= 64
    received = [lines.receive_job(theirs) for _ in sent]
    assert [job_id for job_id, _ in received] == sent
    assert all(row == "x" * size for _, row in received)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)
    assert descriptors() == before


def test_who_has_no_job_waits_for_one(jobs):
    ours, theirs = jobs
    sent = job("[1]")
    timer = threading.Timer(0.05, lines.send_job, [ours, sent])
    timer.start()

    assert lines.receive_job(theirs) == (sent.job_id, "[1]")
    timer.join()


def test_no_more_jobs_come_after_the_last_one_or_when_the_worker_is_gone(jobs):
    ours, theirs = jobs
    lines.send_job(ours, job())
    ours.send(b"")
    assert lines.receive_job(theirs) is not None
    assert lines.receive_job(theirs) is None

    ours.close()

    assert lines.receive_job(theirs) is None


def test_each_job_is_received_at_one_of_two_ends(jobs):
    """One is the child's, the other the worker's, who takes back."""
    ours, theirs = jobs
    with theirs.dup() as behind:
        got = {"child": [], "worker": []}
        sent = [job("x" * random.choice([3, 70_000])) for _ in range(300)]

        def receive(name, end):
            while received := lines.receive_job(end):
                got[name].append(received)

        threads = [
            threading.Thread(target=receive, args=each) for each in (("child", theirs), ("worker", behind))
        ]
        for thread in threads:
            thread.start()
        ours.setblocking(True)
        for each in sent:
            lines.send_job(ours, each)
        ours.close()
        for thread in threads:
            thread.join(60)

    assert sorted(got["child"] + got["worker"]) == sorted((each.job_id, each.row) for each in sent)


def test_notes_arrive_and_are_lost_without_an_error_when_nobody_listens():
    ours, theirs = lines.job_line()
    job_id = uuid4()
    with ours:
        lines.send_note(ours, lines.RECORDED, job_id)
        lines.send_note(ours, lines.STOP, job_id)
        assert [lines.receive_note(theirs) for _ in range(2)] == [
            (lines.RECORDED, job_id),
            (lines.STOP, job_id),
        ]

        theirs.close()

        lines.send_note(ours, lines.RECORDED, job_id)


def test_nobody_waits_for_who_reads_no_notes():
    ours, theirs = lines.job_line()
    with ours, theirs:
        ours.setblocking(False)
        for _ in range(100_000):
            lines.send_note(ours, lines.RECORDED, UUID(int=1))


def test_who_hears_no_more_notes_is_told():
    ours, theirs = lines.job_line()
    with theirs:
        ours.close()

        assert lines.receive_note(theirs) is None


@pytest.mark.parametrize("status", ["", *Status.values])
@pytest.mark.parametrize("outcome", Attempt.Outcome.values)
def test_a_report_is_unpacked_as_it_was(outcome, status):
    sent = report(outcome=outcome, status=status, is_awaited=outcome == "failed")

    assert list(lines.Reports().feed(lines.pack_report(sent))) == [(sent.job_id, sent)]


def test_progress_is_told_apart_from_reports():
    sent, job_id = report(), uuid4()

    told = lines.pack_progress(job_id, '{"progress": 5}') + lines.pack_report(sent)

    assert list(lines.Reports().feed(told)) == [(job_id, '{"progress": 5}'), (sent.job_id, sent)]


@pytest.mark.parametrize("piece", [1, 7, 33, 34, 35, 1000])
def test_reports_are_put_together_from_pieces_of_any_size(piece):
    sent = [report(document="ü" * size) for size in (0, 1, 100, 3000)]
    told = b"".join(map(lines.pack_report, sent))
    gathering = lines.Reports()

    got = [
        each
        for start in range(0, len(told), piece)
        for _, each in gathering.feed(told[start : start + piece])
    ]

    assert got == sent
