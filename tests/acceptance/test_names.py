"""Names of tasks that outlive a move of their code, from enqueueing to a real worker."""

import importlib
import sys

import pytest

from django_jobs import enqueue
from django_jobs.states import FAILED, FINISHED
from tests import tasks
from tests.conftest import fresh

SETTINGS = """
from tests.worker_settings import *
INSTALLED_APPS = [*INSTALLED_APPS, "shelf"]
"""
BEFORE = """
from django_jobs import task

@task(name="count-the-stock", queue="file_processing")
def count(shelves):
    return ["before", shelves]

@task(queue="file_processing")
def sell(number):
    return number
"""
AFTER = """
from django_jobs import task

@task(name="count-the-stock", queue="file_processing")
def take_stock(shelves):
    return ["after", shelves]

@task(name="shelf.tasks.sell", queue="file_processing")
def sell_now(number):
    return number
"""

OF_THE_NEXT_RELEASE = """
from django_jobs import task

@task(queue="file_processing")
def sell(number, discount=0):
    return [number, discount]

@task(queue="file_processing")
def give_back(number):
    return -number
"""


@pytest.fixture
def shelf(tmp_path, monkeypatch, forget_declared):
    """A project with one more app, whose tasks are in its module `tasks`."""
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "__init__.py").touch()
    (tmp_path / "shelf" / "tasks.py").write_text(BEFORE)
    (tmp_path / "shelf_settings.py").write_text(SETTINGS)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield tmp_path / "shelf"
    for module in ("shelf", "shelf.tasks"):
        sys.modules.pop(module, None)


def test_jobs_enqueued_before_a_deploy_run_the_code_after_it(start_worker, shelf, tmp_path):
    importlib.import_module("shelf.tasks")
    named, by_path = enqueue("count-the-stock", 3), enqueue("shelf.tasks.sell", 4)
    assert (named.task, by_path.task) == ("count-the-stock", "shelf.tasks.sell")

    # The deploy: the functions are in another module, under other names.
    (shelf / "stock.py").write_text(AFTER)
    (shelf / "tasks.py").write_text("from .stock import sell_now, take_stock\n")
    start_worker("file_processing", DJANGO_SETTINGS_MODULE="shelf_settings", PYTHONPATH=str(tmp_path))

    assert (named.wait(timeout=60).status, named.result) == (FINISHED, ["after", 3])
    assert (by_path.wait(timeout=60).status, by_path.result) == (FINISHED, 4)


def test_a_job_whose_code_is_gone_fails_and_runs_once_it_is_back(start_worker, shelf, tmp_path):
    importlib.import_module("shelf.tasks")
    job = enqueue("count-the-stock", 3)
    (shelf / "tasks.py").write_text(BEFORE.replace("count-the-stock", "count-the-stocks"))
    environment = {"DJANGO_SETTINGS_MODULE": "shelf_settings", "PYTHONPATH": str(tmp_path)}
    worker = start_worker("file_processing", **environment)
    assert job.wait(timeout=60).status == FAILED
    assert job.error_type == "django_jobs.exceptions.TaskNotFound"
    assert 'Did you mean "count-the-stocks"?' in job.error_message
    worker.stop()

    (shelf / "tasks.py").write_text(BEFORE)
    start_worker("file_processing", **environment)
    job.requeue()

    assert (job.wait(timeout=60).status, job.result) == (FINISHED, ["before", 3])


def test_while_a_deploy_lasts_workers_of_both_releases_run_what_both_enqueue(
    start_worker, shelf, tmp_path, job_factory
):
    """What the old release cannot run fails there with the reason, and runs once the deploy is over."""
    release = tmp_path / "release"
    (release / "shelf").mkdir(parents=True)
    (release / "shelf" / "__init__.py").touch()
    (release / "shelf" / "tasks.py").write_text(OF_THE_NEXT_RELEASE)
    (release / "shelf_settings.py").write_text(SETTINGS)
    of_old = {"DJANGO_SETTINGS_MODULE": "shelf_settings", "PYTHONPATH": str(tmp_path)}
    of_new = {**of_old, "PYTHONPATH": str(release)}
    on_old, on_new = {"queue": "file_processing"}, {"queue": "vectorization"}
    both = [job_factory(task="shelf.tasks.sell", args=[4], **queue) for queue in (on_old, on_new)]
    changed = {"task": "shelf.tasks.sell", "args": [4], "kwargs": {"discount": 1}}
    added = {"task": "shelf.tasks.give_back", "args": [4]}
    too_new = [job_factory(**call, **on_old) for call in (changed, added)]
    fitting = [job_factory(**call, **on_new) for call in (changed, added)]

    old, new = start_worker("file_processing", **of_old), start_worker("vectorization", **of_new)

    assert [(job.wait(timeout=60).status, job.result) for job in both] == [(FINISHED, 4), (FINISHED, [4, 0])]
    assert [(job.wait(timeout=60).status, job.result) for job in fitting] == [
        (FINISHED, [4, 1]),
        (FINISHED, -4),
    ]
    assert [(job.wait(timeout=60).status, job.error_type) for job in too_new] == [
        (FAILED, "TypeError"),
        (FAILED, "django_jobs.exceptions.TaskNotFound"),
    ]
    assert (old.process.poll(), new.process.poll()) == (None, None)

    old.stop()
    start_worker("file_processing", **of_new)
    for job in too_new:
        job.requeue()
    assert [(job.wait(timeout=60).status, job.result) for job in too_new] == [
        (FINISHED, [4, 1]),
        (FINISHED, -4),
    ]


def test_a_task_with_a_name_of_its_own_runs_under_it_and_under_its_path(start_worker, job_factory):
    named = tasks.named_otherwise.enqueue(1)
    from_before = job_factory(task="tests.tasks.named_otherwise", args=[2])
    start_worker("file_processing")

    assert (named.wait(timeout=60).result, from_before.wait(timeout=60).result) == (1, 2)
    assert fresh(named).task == "tests.tasks.name_before_it_was_changed"
