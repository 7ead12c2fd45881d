"""Python imports this first in each process of the suite: our worker class stands in the place of RQ's.

`RQ_SUITE_WORKER` is its dotted path. Who connects to localhost's port of Redis gets to the suite's server.
"""

import multiprocessing
import os
import socket
import sys
from functools import wraps
from pathlib import Path

WORKED_WITH = Path(os.environ["PROJECT_DATA"], "worked-with")
"""Each line is a test that made a worker of ours."""


def stand_in(path):
    import django

    django.setup()

    import rq.worker
    from django.utils.module_loading import import_string

    from django_jobs import observer

    ours = import_string(path)
    ours.observe = staticmethod(observer.record)  # As `manage.py rqworker` has it.
    ours.processes = 1  # RQ's tests of orders are about a worker that runs one job at a time.
    ours.__init__ = noting_the_test(ours.__init__)
    for module in (rq, rq.worker):
        module.Worker = module.SimpleWorker = ours
    for name in ("RandomWorker", "RoundRobinWorker"):
        setattr(rq.worker, name, type(name, (getattr(rq.worker, name), ours), {}))
    late = {"rq.cli", "rq.worker_pool"} & set(sys.modules)
    assert not late, f"{late} were imported too early and know RQ's own class."


def noting_the_test(init):
    @wraps(init)
    def noting(self, *args, **kwargs):
        with WORKED_WITH.open("a") as file:
            file.write(os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0] + "\n")
        init(self, *args, **kwargs)

    return noting


def lead_to_server():
    import redis.connection

    from django_jobs import embedded
    from testproject.settings import PROJECT_DATA

    path = embedded.url(PROJECT_DATA / "valkey").removeprefix("unix://")
    connect = redis.connection.Connection._connect

    def _connect(self):
        if (self.host, self.port) not in {("localhost", 6379), ("127.0.0.1", 6379)}:
            return connect(self)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(self.socket_connect_timeout)
        sock.connect(path)
        sock.settimeout(self.socket_timeout)
        return sock

    redis.connection.Connection._connect = _connect


if "RQ_SUITE_WORKER" in os.environ:
    multiprocessing.set_start_method("fork")  # The tests start functions of theirs as processes.
    lead_to_server()
    stand_in(os.environ["RQ_SUITE_WORKER"])
