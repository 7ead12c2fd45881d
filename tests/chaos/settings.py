"""Settings of the processes of a run: those of the tests' workers, and the tasks of this folder."""

import os
import select
import time

from tests.worker_settings import *  # noqa: F403
from tests.worker_settings import INSTALLED_APPS as OF_WORKERS

INSTALLED_APPS = [*OF_WORKERS, "tests.chaos.mutants.Chaos"]
DEBUG = False  # With it, Django keeps every statement of a process.

if "faketime" in os.environ.get("LD_PRELOAD", ""):
    # Its version 0.9.10 refuses the system call by which Python sleeps.
    time.sleep = lambda seconds: select.select([], [], [], max(0, seconds))
