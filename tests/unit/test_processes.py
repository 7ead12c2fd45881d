import os
import subprocess
import sys

from django_jobs.processes import identity


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
