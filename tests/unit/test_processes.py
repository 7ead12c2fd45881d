import errno
import os
import signal
import subprocess
import sys
from contextlib import nullcontext

import pytest

from django_jobs.processes import Footprint, KeptProcess, _children, identity
from tests.conftest import wait_until


def start(code="input()"):
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)


def test_a_process_keeps_its_identity_as_long_as_it_lives():
    assert identity(os.getpid()) == identity(os.getpid()) is not None


def test_a_process_that_ended_has_none():
    process = start()
    process.communicate()

    assert identity(process.pid) is None


def test_a_process_that_ended_and_whose_parent_has_not_asked_has_none():
    process = start("")
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    try:
        assert identity(process.pid) is None
    finally:
        process.communicate()


def test_another_users_process_has_one_too():
    assert identity(1)


def test_a_process_whose_name_holds_brackets_has_one(tmp_path):
    odd = tmp_path / "a) Z 1 ("
    odd.symlink_to("/bin/cat")
    process = subprocess.Popen([str(odd)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)

    try:
        assert identity(process.pid).isdigit()
    finally:
        process.communicate()


# What a process and those that it has started use

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="Other systems do not tell.")

HOLD_60_MB = "kept = b'x' * 60_000_000; input()"
START_ONE = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLD_60_MB!r}])"
COMPUTE = "while True: pass"


@on_linux
def test_memory_of_what_a_process_has_started_counts():
    process = start(START_ONE)

    try:
        wait_until(lambda: Footprint(process.pid).measure()[0] > 70_000_000)
    finally:
        process.communicate()


@on_linux
def test_the_first_look_tells_no_cpu_and_the_next_one_what_was_used_between():
    process = start(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {COMPUTE!r}])")
    footprint = Footprint(process.pid)

    try:
        wait_until(lambda: _children(process.pid))  # Else it would start later, and be left behind.
        assert footprint.measure()[1] is None
        wait_until(lambda: footprint.measure()[1] > 20)
    finally:
        for pid in _children(process.pid):
            os.kill(pid, 9)
        process.communicate()


@on_linux
def test_cpu_of_a_process_that_has_ended_still_counts():
    footprint = Footprint(os.getpid())
    footprint.measure()

    subprocess.run([sys.executable, "-c", "while __import__('time').process_time() < 0.3: pass"], check=True)

    assert footprint.measure()[1] > 5


def test_a_process_that_is_gone_uses_nothing_that_is_known():
    process = start()
    process.communicate()

    assert Footprint(process.pid).measure() == (None, None)


# A process that is kept


@pytest.fixture
def kept():
    process = KeptProcess("waiter", lambda parent_pid: signal.pause(), lock=nullcontext())
    yield process
    process.stop()


def test_a_process_that_is_kept_is_replaced_when_it_was_killed(kept):
    before = kept._pid
    os.kill(before, signal.SIGKILL)

    wait_until(lambda: kept.revive() or kept._pid != before)

    assert identity(kept._pid)


def test_one_that_cannot_be_forked_is_forked_at_the_next_call(kept, monkeypatch):
    os.kill(kept._pid, signal.SIGKILL)
    os.waitid(os.P_PID, kept._pid, os.WEXITED | os.WNOWAIT)

    def fail():
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fork", fail)
        kept.revive()
    assert kept._pid == 0  # It would be killed by this number, which may be another's.

    kept.revive()

    assert identity(kept._pid)


def test_one_that_somebody_else_has_waited_for_is_replaced(kept):
    before = kept._pid
    os.kill(before, signal.SIGKILL)
    os.waitpid(before, 0)

    kept.revive()

    assert identity(kept._pid)


def test_one_that_was_stopped_stays_so(kept):
    kept.stop()

    kept.revive()

    assert kept._pid == 0
