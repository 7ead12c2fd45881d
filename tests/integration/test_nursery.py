"""A worker's children, from the process that forks them: they come, stay, and are replaced."""

import errno
import itertools
import os
import signal
import time
from uuid import uuid4

import pytest
from django.db import connection
from django.db.backends.signals import connection_created

from django_jobs import batches, loops
from django_jobs.engines.rq.prefork import LIMITS
from django_jobs.pool.nursery import Nursery
from django_jobs.processes import identity
from tests import tasks
from tests.conftest import lines, make_worker, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def start_nursery():
    started = []

    def start(processes=1, **options):
        started.append(Nursery("w1", processes, lambda size: None, LIMITS, **options))
        return started[-1]

    yield start
    for nursery in started:
        heard(nursery)
        children = list(nursery.children)
        nursery.close()
        for child in children:
            child.close()


@pytest.fixture
def claim(job_factory):
    """A claimed job, as a worker hands it to a child."""
    worker = make_worker()

    def make(task, *args, **values):
        job = job_factory(task=f"tests.tasks.{task}", args=list(args), **values)
        (claimed,) = batches.claim([(job.pk, job.attempt)], worker.pk, uuid4())
        return claimed

    return make


@pytest.fixture
def connecting(tmp_path):
    """The processes that have connected to a database since, once for each time."""

    def note(**told):
        tasks.record(str(tmp_path / "connecting"), str(os.getpid()))

    connection_created.connect(note)
    yield lambda: [int(line) for line in lines(tmp_path / "connecting")]
    connection_created.disconnect(note)


def heard(nursery):
    """The children, as soon as all are there."""

    def are_there():
        nursery.hear()
        return all(child.pid for child in nursery.children)

    wait_until(are_there)
    return nursery.children


def test_the_seat_of_a_child_whose_last_jobs_are_not_settled_is_taken_last(start_nursery):
    nursery = start_nursery(2)
    nursery.unsettled = {0, 1, 4}
    nursery.fill()
    assert [child.number for child in nursery.children] == [2, 3]

    nursery.unsettled = set(range(nursery.seats.children)) - {0}
    nursery.processes = 4
    nursery.fill()
    assert [child.number for child in nursery.children] == [2, 3, 0, 1]


def test_a_child_that_is_to_be_killed_before_it_has_a_process_is_killed_when_it_has(start_nursery):
    nursery = start_nursery()
    nursery.fill()
    (child,) = nursery.children
    child.kill("it was cut")
    assert child.pid == 0

    heard(nursery)

    wait_until(lambda: not child.heard()[2])
    assert nursery.remove(child) == "it was cut"
    child.close()


def test_a_forker_that_does_not_end_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr("django_jobs.pool.nursery.FORKER_PATIENCE_SECONDS", 0.1)
    nursery = Nursery("w1", 1, lambda size: None, LIMITS)
    forker = nursery._forker.pid
    os.kill(forker, signal.SIGSTOP)

    nursery.close()

    assert identity(forker) is None


def run(child, claimed):
    """Have a child run this, and wait for its end."""
    assert child.hand(claimed)
    (report,) = wait_until(lambda: child.heard()[0])
    return report


def test_a_fork_that_fails_costs_no_other_child_and_the_next_one_is_there(start_nursery, claim, monkeypatch):
    fork, calls = os.fork, itertools.count(1)

    def fail_for_the_second_child():
        if next(calls) == 3:  # The first one is of who forks them.
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()

    monkeypatch.setattr(os, "fork", fail_for_the_second_child)
    nursery = start_nursery(processes=2)
    nursery.fill()
    first, second = nursery.children

    wait_until(lambda: not second.heard()[2])
    nursery.remove(second)
    second.close()
    wait_until(lambda: nursery.fill() or len(nursery.children) == 2)

    assert heard(nursery)[0] is first
    for child in nursery.children:
        assert run(child, claim("add", 1)).outcome == "finished"


def test_a_connection_left_open_by_what_was_imported_is_shared_by_no_children(
    start_nursery, claim, connecting, monkeypatch
):
    monkeypatch.setitem(connection.settings_dict, "CONN_MAX_AGE", None)
    fork, calls = os.fork, itertools.count(1)

    def fork_and_ask_the_database():
        pid = fork()
        if next(calls) == 1 and pid == 0:
            connection.ensure_connection()
        return pid

    monkeypatch.setattr(os, "fork", fork_and_ask_the_database)
    nursery = start_nursery(processes=2)
    nursery.fill()

    for child in heard(nursery):
        assert run(child, claim("run_sql", "SELECT 1")).outcome == "finished"

    assert {child.pid for child in nursery.children} <= set(connecting())


def test_an_idle_child_begins_with_no_connection_that_is_beyond_its_age(
    start_nursery, claim, connecting, monkeypatch
):
    monkeypatch.setitem(connection.settings_dict, "CONN_MAX_AGE", 1)
    nursery = start_nursery()
    nursery.fill()
    (child,) = heard(nursery)
    first, second = (claim("run_sql", "SELECT 1") for _ in range(2))
    run(child, first)
    idle_since = time.monotonic()

    wait_until(lambda: time.monotonic() > idle_since + 1.5)
    run(child, second)

    assert connecting().count(child.pid) == 2


def test_what_was_handed_to_a_child_that_begins_no_more_comes_back(
    start_nursery, claim, tmp_path, monkeypatch
):
    monkeypatch.setattr(loops, "GRACE_SECONDS", 0.1)
    nursery = start_nursery(async_concurrency=2)
    nursery.fill()
    (child,) = heard(nursery)
    stuck = claim("go_on_when_canceled", str(tmp_path / "release"), timeout_seconds=1)
    long, third = claim("sleep_asynchronously", 3600), claim("add", 1)
    assert run(child, stuck).outcome == "failed"  # It goes on, left behind.
    child.hand(long)
    wait_until(lambda: child.runs(long.job_id))
    child.hand(third)

    returned = wait_until(nursery.replace, timeout_seconds=30)

    assert [each.job_id for each in returned] == [third.job_id]
    assert set(child.handed) == {long.job_id}
    (other,) = nursery.staying()
    assert run(other, third).outcome == "finished"
