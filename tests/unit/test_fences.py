"""The fence: what a worker runs ends before others may count it as lost."""

import os
import signal
import time

import pytest

from django_jobs.fences import LOOK_EVERY_SECONDS, Fence, grace_seconds
from django_jobs.processes import boot_clock, identity
from tests.conftest import wait_until


@pytest.fixture
def fence(settings):
    settings.DJANGO_JOBS = {"LEASE_SECONDS": 15}
    return Fence()


@pytest.fixture
def fork():
    """Fork a child that does something, as the leader of a group of its own; its pid."""
    pids = []

    def start(work):
        if pid := os.fork():
            pids.append(pid)
            return pid
        os.setpgrp()
        try:
            work()
        finally:
            os._exit(0)

    yield start
    for pid in pids:
        if identity(pid):
            os.kill(pid, signal.SIGKILL)


def how_it_ended(pid):
    _, status = os.waitpid(pid, 0)
    return (
        signal.Signals(os.WTERMSIG(status)) if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)
    )


def test_a_fence_is_open_until_the_first_sign_of_life_has_grown_old(fence):
    assert not fence.has_closed()

    fence.put_off(boot_clock())

    assert not fence.has_closed()


def test_it_closes_a_second_before_the_lease_of_fifteen_is_over(fence):
    fence.put_off(boot_clock() - 13.5)
    assert not fence.has_closed()

    later = Fence()
    later.put_off(boot_clock() - 14.1)

    assert later.has_closed()


@pytest.mark.parametrize("lease", [1, 2, 5, 60, 3600])
def test_with_any_lease_there_is_time_to_look_and_to_wait_before_it_is_over(settings, lease):
    settings.DJANGO_JOBS = {"LEASE_SECONDS": lease}
    fence = Fence()

    fence.put_off(boot_clock() - lease + LOOK_EVERY_SECONDS + grace_seconds())

    assert fence.has_closed()


def test_a_sign_of_life_that_was_sent_earlier_and_arrived_later_does_not_bring_it_forward(fence):
    fence.put_off(boot_clock())
    fence.put_off(boot_clock() - 60)

    assert not fence.has_closed()


def test_a_child_ends_when_it_closes_with_all_that_it_has_started(fence, fork, tmp_path):
    fence.put_off(boot_clock())
    started = tmp_path / "started"

    def work():
        with fence.guarding():
            if os.fork() == 0:
                started.write_text(str(os.getpid()))
                time.sleep(60)
            time.sleep(60)

    pid = fork(work)
    grandchild = int(wait_until(lambda: started.exists() and started.read_text()))
    fence._closes.set(boot_clock() - 1)

    assert how_it_ended(pid) == signal.SIGKILL
    wait_until(lambda: identity(grandchild) is None)


def test_a_child_that_was_stopped_meanwhile_ends_when_it_goes_on(fence, fork, tmp_path):
    fence.put_off(boot_clock())
    effects = tmp_path / "effects"

    def work():
        with fence.guarding():
            effects.write_text("begun")
            time.sleep(60)

    pid = fork(work)
    wait_until(effects.exists)
    os.kill(pid, signal.SIGSTOP)
    fence._closes.set(boot_clock() - 1)
    os.kill(pid, signal.SIGCONT)

    assert how_it_ended(pid) == signal.SIGKILL


def test_behind_a_closed_fence_nothing_begins(fence, fork, tmp_path):
    fence.put_off(boot_clock() - 60)
    effects = tmp_path / "effects"

    def work():
        with fence.guarding():
            effects.write_text("begun")

    assert how_it_ended(fork(work)) == signal.SIGKILL
    assert not effects.exists()


def test_what_has_ended_is_not_touched_when_it_closes(fence, fork):
    fence.put_off(boot_clock())

    def work():
        with fence.guarding():
            pass
        fence._closes.set(boot_clock() - 1)
        time.sleep(3 * LOOK_EVERY_SECONDS)

    assert how_it_ended(fork(work)) == 0


def test_a_fence_that_is_opened_again_at_once_ends_nothing(fence, fork, tmp_path):
    """As after a sleep of the whole machine."""
    fence.put_off(boot_clock())
    looked = tmp_path / "looked"

    def work():
        with fence.guarding():
            fence._closes.set(boot_clock() - 1)
            time.sleep(LOOK_EVERY_SECONDS)
            fence.put_off(boot_clock())
            time.sleep(LOOK_EVERY_SECONDS + 2 * grace_seconds())
        looked.touch()

    assert how_it_ended(fork(work)) == 0
    assert looked.exists()
