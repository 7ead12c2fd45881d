"""In pytest: what is listed has to fail, or is tried again, and each test finds signals as they were."""

import os
import signal
import tomllib
from multiprocessing import active_children
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol
from sitecustomize import WORKED_WITH

LIST = Path(__file__).parent.parent / "listed.toml"
TRIES = pytest.StashKey[int]()


@pytest.hookimpl(tryfirst=True)  # Before -k leaves any out.
def pytest_collection_modifyitems(config, items):
    groups = tomllib.loads(LIST.read_text())["group"]
    worker = os.environ["RQ_SUITE_WORKER"].rpartition(".")[2]
    listed = {
        test: group for group in groups if group.get("worker", worker) == worker for test in group["tests"]
    }
    for item in items:
        group = listed.pop(item.nodeid.removeprefix("tests/"), {})
        item.stash[TRIES] = group.get("tries", 1)
        if group and item.stash[TRIES] == 1:
            is_run = group.get("run", True)
            item.add_marker(pytest.mark.xfail(reason=group["reason"], strict=True, run=is_run))
    modules = {item.path.name for item in items}
    unknown = [test for test in listed if test.partition("::")[0] in modules]
    if unknown and not any("::" in argument for argument in config.args):
        raise pytest.UsageError(f"{LIST.name} names tests that RQ does not have: {', '.join(unknown)}")


def pytest_runtest_protocol(item, nextitem):
    """As pytest's own; but what may be tried again is reported as it ended the last time."""
    if item.stash[TRIES] == 1:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for _ in range(item.stash[TRIES]):
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        if not any(report.failed for report in reports):
            break
        for process in active_children():  # Or they take what the next try enqueues.
            process.kill()
            process.join()
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.fixture(autouse=True)
def _signals_as_they_were():
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def pytest_terminal_summary(terminalreporter):
    worked_with = set(WORKED_WITH.read_text().splitlines()) if WORKED_WITH.exists() else set()
    passed = {report.nodeid for report in terminalreporter.stats.get("passed", [])}
    terminalreporter.write_line(
        f"{len(worked_with & passed)} of the tests that passed made a worker: {os.environ['RQ_SUITE_WORKER']}"
    )
