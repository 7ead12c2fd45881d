"""Facts about processes of this machine that the standard library does not tell."""

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def die_with_parent(parent_pid: int) -> None:
    """Have this process killed as soon as `parent_pid`, which forked it, is gone, however that died.

    On Linux the kernel does it when the thread that forked ends, so fork from the main thread;
    elsewhere a thread of this process looks once a second.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=[parent_pid], daemon=True).start()
    if os.getppid() != parent_pid:  # It died before we asked.
        os.kill(os.getpid(), signal.SIGKILL)


def identity(pid: int) -> str | None:
    """What tells the process with this pid from every other one that has or had it; None if it has ended.

    Where the system does not tell when a process started, all that is alive under this pid counts as it.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # It lives, as another user's.
    try:
        # Fields 3 and 22 of proc_pid_stat(5); field 2 is a name in brackets, which may hold anything.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "unknown"
    return None if state in "ZX" else fields[18]


def _watch(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)
