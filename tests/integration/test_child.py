"""A child and its worker's view of it: over real lines, in a process of its own."""

import json
import os
import random
import signal
import socket
from contextlib import suppress
from uuid import uuid4

import pytest

from django_jobs import batches
from django_jobs.engines.rq.prefork import LIMITS
from django_jobs.pool import child as child_module
from django_jobs.pool import children
from django_jobs.pool import lines as pool_lines
from django_jobs.pool.child import Options
from django_jobs.pool.children import Child
from django_jobs.pool.seats import Seats
from django_jobs.processes import disconnect_databases
from django_jobs.signals import job_finished, job_started
from django_jobs.states import FAILED, FINISHED, QUEUED, STARTED
from tests import tasks
from tests.conftest import fresh, lines, make_worker, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


class ForksHere:
    """Stands for the process that forks children."""

    def __init__(self, seats):
        self._seats = seats
        self.pids = []

    def fork(self, options, *ends):
        disconnect_databases()
        if pid := os.fork():
            self.pids.append(pid)
            return
        try:
            os.setpgrp()
            mine = [socket.socket(fileno=os.dup(end.fileno())) for end in ends]
            child_module.serve(Options(**options), self._seats, LIMITS, *mine)
        finally:
            os._exit(0)

    def end(self):
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


class Handing:
    """What a worker does with one child, as far as these tests go."""

    def __init__(self, child, worker):
        self.child, self.worker = child, worker
        self.reports, self.progress, self.lives = {}, [], True

    def claim(self, *jobs):
        told = batches.claim([(job.pk, job.attempt) for job in jobs], self.worker.pk, uuid4())
        return sorted(told, key=lambda each: [job.pk for job in jobs].index(each.job_id))

    def hand(self, *jobs):
        for claimed in self.claim(*jobs):
            assert self.child.hand(claimed)

    def hear(self):
        told, progress, self.lives = self.child.heard()
        self.reports |= {each.job_id: each for each in told}
        self.progress += [json.loads(each) for each in progress.values()]
        return self

    def until_reported(self, *jobs):
        wait_until(lambda: {job.pk for job in jobs} <= self.hear().reports.keys())
        told = [self.reports[job.pk] for job in jobs]
        batches.record(told, self.worker.pk)
        return [fresh(job) for job in jobs]


@pytest.fixture
def start_child():
    made = []

    def start(async_concurrency=1):
        seats = Seats(2, 1 if async_concurrency == 1 else 1 + async_concurrency)
        forker = ForksHere(seats)
        child = Child(forker, seats, 1, "w1", async_concurrency)
        (child.pid,) = forker.pids
        made.append((forker, child))
        return Handing(child, make_worker())

    yield start
    for forker, child in made:
        forker.end()
        child.close()


@pytest.fixture
def receivers():
    connected = []

    def connect(which, function):
        which.connect(function, weak=False)
        connected.append((which, function))

    yield connect
    for which, function in connected:
        which.disconnect(function)


@pytest.fixture
def job(job_factory):
    def make(task, *args, **values):
        return job_factory(task=f"tests.tasks.{task}", args=list(map(_plain, args)), **values)

    return make


def _plain(value):
    return value if isinstance(value, int | float) else str(value)


def test_jobs_run_in_their_order_and_their_ends_are_told(start_child, job, tmp_path):
    handing = start_child()
    jobs = [job("note", tmp_path / "ran", number) for number in range(20)]
    broken, after = job("fail", "no paper"), job("add", 1, 2)

    handing.hand(*jobs, broken, after)
    rows = handing.until_reported(*jobs, broken, after)

    assert [row.status for row in rows] == [*[FINISHED] * 20, FAILED, FINISHED]
    assert lines(tmp_path / "ran") == [str(number) for number in range(20)]
    assert (rows[20].error_type, rows[20].error_message, rows[21].result) == ("ValueError", "no paper", 3)
    assert (handing.child.ran, handing.child.handed, handing.child.begun()) == (22, {}, set())


def test_what_a_child_tells_is_what_its_worker_needs(start_child, job):
    handing = start_child()
    ended, to_retry = job("add", 1, 2), job("fail", "no", max_attempts=2)
    handing.hand(ended, to_retry)
    handing.until_reported(ended, to_retry)

    told = handing.reports[ended.pk]
    assert (told.outcome, told.status, told.queue) == ("finished", "finished", "")
    assert 0 < told.ran_seconds < 60
    assert json.loads(told.document)["worker_name"] == "w1"
    assert (handing.reports[to_retry.pk].outcome, handing.reports[to_retry.pk].status) == ("failed", "queued")


@pytest.mark.parametrize("characters", [pool_lines.LARGEST_ROW, 300_000])
def test_large_jobs_and_large_results_pass(start_child, job, characters):
    handing = start_child()
    text = "ü" * characters
    large = [job("first", text) for _ in range(2)]

    handing.hand(*large)

    rows = handing.until_reported(*large)
    assert [(row.status, row.result) for row in rows] == [(FINISHED, text)] * 2


def test_the_worker_sees_what_runs_while_it_runs(start_child, job, tmp_path):
    handing = start_child()
    held, waiting = job("hold", tmp_path / "held", tmp_path / "release", timeout_seconds=60), job("add", 1)
    first, second = handing.claim(held, waiting)
    assert handing.child.has_free_hands(first)
    assert handing.child.hand(first)
    assert handing.child.hand(second)

    wait_until(lambda: lines(tmp_path / "held"))

    child = handing.child
    assert child.begun() == {held.pk}
    assert [child.runs(each.pk) for each in (held, waiting)] == [True, False]
    assert not child.has_free_hands(second)
    assert wait_until(lambda: child.makes_wait(0.05))
    assert not child.makes_wait(3600)
    assert child.seats[0].deadline.get() > 0
    assert child.memory_bytes() > 1_000_000
    (tmp_path / "release").touch()
    handing.until_reported(held, waiting)
    assert not child.makes_wait(0)
    wait_until(lambda: not child.begun())


def test_a_child_with_nothing_behind_what_it_runs_makes_none_wait(start_child, job, tmp_path):
    handing = start_child()
    handing.hand(job("hold", tmp_path / "held", tmp_path / "release"))

    wait_until(lambda: handing.child.seats[0].ran_seconds > 0.05)

    assert not handing.child.makes_wait(0.01)


def test_progress_comes_while_the_job_runs_and_says_of_which_attempt(start_child, job, tmp_path):
    handing = start_child()
    telling = job("tell", tmp_path / "release")
    handing.hand(telling)

    wait_until(lambda: handing.hear().progress[-1]["progress"] == 75)

    assert telling.pk not in handing.reports
    batches.record_progress([json.dumps(handing.progress[-1])])
    row = fresh(telling)
    assert (row.status, row.progress, row.stage_names) == (STARTED, 75, ["reading", "writing"])
    assert handing.progress[-1]["attempt"] == 1
    (tmp_path / "release").touch()
    (row,) = handing.until_reported(telling)
    assert (row.status, row.attempts.get().log.count("reading begins")) == (FINISHED, 1)


def test_of_what_a_job_has_told_meanwhile_the_newest_counts(job_factory):
    """The database would take either."""
    line, seats = [], Seats(1, 1)

    class Keeps:
        def fork(self, options, jobs, told, notes):
            line.append(told.dup())

    child, ids = Child(Keeps(), seats, 0, "w1", 1), [uuid4(), uuid4()]
    with line[0] as told:
        for percent in (1, 2, 3):
            for job_id in ids:
                told.sendall(pool_lines.pack_progress(job_id, f"{percent} % of {job_id}"))

        assert child.heard() == ([], {job_id: f"3 % of {job_id}" for job_id in ids}, True)
        assert child.heard() == ([], {}, True)
    child.close()


# Taking back


def test_what_has_not_begun_is_taken_back_in_its_order_and_never_runs(start_child, job, tmp_path):
    handing = start_child()
    held = job("hold", tmp_path / "held", tmp_path / "release")
    waiting = [job("note", tmp_path / "ran", "x" * size) for size in (1, 100_000, 2)]
    handing.hand(held, *waiting)
    wait_until(lambda: lines(tmp_path / "held"))
    before = set(os.listdir("/dev/fd"))

    returned = handing.child.take_back()

    assert [claimed.job_id for claimed in returned] == [each.pk for each in waiting]
    assert set(os.listdir("/dev/fd")) == before
    assert set(handing.child.handed) == {held.pk}
    assert handing.child.take_back() == []
    (tmp_path / "release").touch()
    handing.until_reported(held)
    last = job("note", tmp_path / "ran", "last")
    handing.hand(last)
    handing.until_reported(last)
    assert lines(tmp_path / "ran") == ["last"]


def test_each_job_either_runs_or_is_taken_back(start_child, job, tmp_path):
    handing = start_child()
    first = job("add", 1)
    handing.hand(first)
    handing.until_reported(first)  # It is there.
    handing.reports.clear()
    jobs = [job("note", tmp_path / "ran", number) for number in range(600)]
    to_hand = handing.claim(*jobs)
    returned = []
    while to_hand:
        for claimed in to_hand[: random.randint(1, 20)]:
            assert handing.child.hand(claimed)
            to_hand.remove(claimed)
        if random.random() < 0.3:
            handing.hear()
        returned += handing.child.take_back()
    wait_until(lambda: not handing.hear().child.handed)

    of_number = {jobs[number].pk: str(number) for number in range(600)}
    ran = lines(tmp_path / "ran")
    assert sorted([*ran, *(of_number[claimed.job_id] for claimed in returned)]) == sorted(of_number.values())
    assert sorted(of_number[job_id] for job_id in handing.reports) == sorted(ran)
    assert returned


def test_a_child_that_has_had_enough_ends_when_it_has_done_what_it_has(start_child, job, tmp_path):
    handing = start_child()
    jobs = [job("note", tmp_path / "ran", number) for number in range(3)]
    handing.hand(*jobs)

    handing.child.retire()
    handing.child.retire()

    handing.until_reported(*jobs)
    wait_until(lambda: not handing.hear().lives)
    assert os.waitstatus_to_exitcode(os.waitpid(handing.child.pid, 0)[1]) == 0


def test_one_that_is_to_end_does_so_though_all_was_taken_back(start_child, job, tmp_path):
    """What tells it to end was taken back, too."""
    handing = start_child()
    held, waiting = job("hold", tmp_path / "held", tmp_path / "release"), job("add", 1)
    handing.hand(held, waiting)
    wait_until(lambda: lines(tmp_path / "held"))
    handing.child.retire()

    assert [claimed.job_id for claimed in handing.child.take_back()] == [waiting.pk]

    (tmp_path / "release").touch()
    handing.until_reported(held)
    wait_until(lambda: not handing.hear().lives)


# Its end


def test_what_a_killed_child_had_not_begun_can_be_taken_back_and_what_it_ran_is_known(
    start_child, job, tmp_path
):
    handing = start_child()
    done, killed, waiting = job("add", 1), job("kill_itself"), job("note", tmp_path / "ran", "x")
    handing.hand(done, killed, waiting)

    wait_until(lambda: not handing.hear().lives)

    assert set(handing.reports) == {done.pk}
    assert [claimed.job_id for claimed in handing.child.take_back()] == [waiting.pk]
    assert (handing.child.begun(), set(handing.child.handed)) == ({killed.pk}, {killed.pk})
    assert lines(tmp_path / "ran") == []


def test_a_job_is_killed_only_while_it_runs(start_child, job, tmp_path):
    handing = start_child()
    held, done = job("hold", tmp_path / "held", tmp_path / "release"), job("add", 1)
    handing.hand(done, held)
    handing.until_reported(done)
    wait_until(lambda: lines(tmp_path / "held"))

    assert not handing.child.kill_if_it_runs(done.pk, "over")
    assert not handing.child.stop(done.pk, "over")
    assert handing.hear().lives
    assert handing.child.stop(held.pk, "asked to")

    wait_until(lambda: not handing.hear().lives)
    assert (handing.child.ending, handing.child.begun()) == ("asked to", {held.pk})


def test_a_child_that_stands_still_goes_on_when_another_job_runs_than_was_to_be_killed(
    start_child, job, tmp_path, monkeypatch
):
    handing = start_child()
    first, second = (job("hold", tmp_path / name, tmp_path / f"release {name}") for name in "ab")
    handing.hand(first, second)
    wait_until(lambda: lines(tmp_path / "a"))
    standing = children._wait_until_it_stands

    def come_to_another(pid):
        os.killpg(pid, signal.SIGCONT)
        (tmp_path / "release a").touch()
        wait_until(lambda: lines(tmp_path / "b"))
        os.killpg(pid, signal.SIGSTOP)
        standing(pid)

    monkeypatch.setattr(children, "_wait_until_it_stands", come_to_another)

    assert not handing.child.kill_if_it_runs(first.pk, "over")

    (tmp_path / "release b").touch()
    assert [row.status for row in handing.until_reported(first, second)] == [FINISHED] * 2


def test_a_time_limit_ends_the_function_and_the_child_goes_on(start_child, job):
    handing = start_child()
    slow, after = job("outlast_its_time", timeout_seconds=1), job("add", 1)
    handing.hand(slow, after)

    rows = handing.until_reported(slow, after)

    assert (rows[0].status, rows[0].error_type, rows[1].status) == (
        FAILED,
        "rq.timeouts.JobTimeoutException",
        FINISHED,
    )


# Signals


def test_receivers_hear_of_an_end_when_it_is_recorded_and_not_before(start_child, job, receivers, tmp_path):
    def tell(which):
        return lambda sender, job, **told: tasks.record(
            str(tmp_path / "told"), f"{which} {job.pk} {told.get('outcome', '')}".strip()
        )

    receivers(job_started, tell("started"))
    receivers(job_finished, tell("ended"))
    handing = start_child()
    first, second = job("add", 1), job("fail", "no")
    handing.hand(first, second)
    handing.until_reported(first, second)
    assert [handing.reports[each.pk].is_awaited for each in (first, second)] == [True, True]
    began = [f"started {each.pk}" for each in (first, second)]
    assert lines(tmp_path / "told") == began

    handing.child.note_recorded(second.pk)
    wait_until(lambda: lines(tmp_path / "told") == [*began, f"ended {second.pk} failed"])
    handing.child.note_recorded(second.pk)
    handing.child.note_recorded(uuid4())
    handing.child.note_recorded(first.pk)

    ended = [f"ended {second.pk} failed", f"ended {first.pk} finished"]
    wait_until(lambda: lines(tmp_path / "told") == [*began, *ended])


def test_no_word_is_awaited_where_nobody_wants_to_hear_of_ends(start_child, job):
    handing = start_child()
    added = job("add", 1)

    handing.hand(added)
    handing.until_reported(added)

    assert not handing.reports[added.pk].is_awaited


# Async jobs


def test_async_jobs_run_beside_each_other_and_are_stopped_alone(start_child, job, tmp_path):
    handing = start_child(async_concurrency=3)
    held = job("hold_asynchronously", tmp_path / "a", tmp_path / "release")
    stopped, beside = (job("sleep_asynchronously", 3600) for _ in range(2))
    handing.hand(stopped, held, beside)
    wait_until(lambda: all(map(handing.child.runs, [held.pk, stopped.pk, beside.pk])))
    (more,) = handing.claim(job("sleep_asynchronously", 3600))
    assert not handing.child.has_free_hands(more)
    wait_until(lambda: handing.hear().progress)

    assert handing.child.stop(stopped.pk, "asked to")
    (tmp_path / "release").touch()
    wait_until(lambda: {held.pk, stopped.pk} <= handing.hear().reports.keys())

    assert handing.reports[held.pk].outcome == "finished"
    assert handing.reports[stopped.pk].outcome == "canceled"
    wait_until(lambda: handing.child.begun() == {beside.pk})
    assert (handing.lives, handing.child.ending) == (True, "")


def test_a_plain_function_runs_in_the_main_thread_beside_async_jobs(start_child, job, tmp_path):
    handing = start_child(async_concurrency=2)
    beside = job("hold_asynchronously", tmp_path / "a", tmp_path / "release")
    slow = job("outlast_its_time", timeout_seconds=1)
    handing.hand(beside, slow)

    (row,) = handing.until_reported(slow)

    assert row.error_type == "rq.timeouts.JobTimeoutException"
    assert handing.child.begun() == {beside.pk}
    (tmp_path / "release").touch()
    (row,) = handing.until_reported(beside)
    assert (row.status, row.result) == (FINISHED, "released")


def test_what_a_child_reported_of_a_job_that_others_hold_changes_nothing(start_child, job):
    handing = start_child()
    mine = job("add", 1)
    (claimed,) = handing.claim(mine)
    type(mine).objects.filter(pk=mine.pk).update(status=QUEUED, claim_id=None, worker=None)
    handing.child.hand(claimed)

    (row,) = handing.until_reported(mine)

    assert (row.status, row.attempts.count()) == (QUEUED, 0)


def test_an_attempt_whose_last_one_has_not_left_its_seat_yet_leaves_that_alone(job_factory, monkeypatch):
    told, telling = socket.socketpair()
    child = child_module._Child(Options(0, "w1", async_concurrency=2), Seats(1, 3), LIMITS, telling)
    job = job_factory(task=tasks.add_slowly.name, attempt=2)
    monkeypatch.setattr(child._async_jobs, "start", lambda job: False)  # Its thread is not done with it.
    monkeypatch.setattr(child, "_run_here", lambda job: None)
    seat = child._seat_of[job.pk, 1] = child._free.pop()
    free = list(child._free)

    child.run(job)

    assert (child._seat_of, child._free) == ({(job.pk, 1): seat}, free)
    child.end()
    for end in (told, telling):
        end.close()
