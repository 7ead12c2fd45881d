import functools
import json
import os
import types

import pytest

from django_jobs import enqueue, registry, task
from django_jobs.exceptions import TaskNotAllowed, TaskNotFound
from tests import tasks


def at_the_top():
    pass


class Thing:
    def method(self):
        pass

    @staticmethod
    def static():
        pass


def make_local():
    def local():
        pass

    return local


@functools.wraps(json.dumps)
def pretender():
    pass


REFUSED = [
    (lambda: None, r"The lambda in .*test_registry has no name"),
    (make_local(), r"make_local\.<locals>\.local is defined inside another function"),
    (Thing().method, "is a method, not a function"),
    (Thing.method, r"Thing\.method belongs to a class"),
    (Thing.static, r"Thing\.static belongs to a class"),
    (Thing, "is a type, not a function"),
    (Thing(), "is a Thing, not a function"),
    (functools.partial(at_the_top), "is a partial, not a function"),
    (types.FunctionType(at_the_top.__code__, {"__name__": "__main__"}, "script"), "defined in the script"),
    (None, "is a NoneType, not a function"),
]
IDS = [
    "lambda",
    "local",
    "method",
    "unbound",
    "static",
    "class",
    "object",
    "partial",
    "script",
    "None",
]


@pytest.mark.parametrize(("function", "problem"), REFUSED, ids=IDS)
@pytest.mark.parametrize("way", [registry.path_of, enqueue, task])
def test_what_no_worker_can_import_is_refused_and_the_reason_named(way, function, problem):
    if way is task and function is None:
        return  # @task() is a decorator to be called.
    with pytest.raises(TypeError, match=f"{problem}.*at the top level of a module"):
        way(function)


def test_a_function_at_the_top_of_a_module_has_a_path():
    assert registry.path_of(tasks.undeclared) == "tests.tasks.undeclared"
    assert registry.path_of(json.dumps) == "json.dumps"


def test_a_name_that_is_gone_from_its_module_is_refused(forget_declared):
    namespace = {"__name__": "tests.tasks"}
    exec("def typed_in_a_shell(): pass", namespace)

    with pytest.raises(TypeError, match=r"There is no typed_in_a_shell in the module tests\.tasks"):
        task(namespace["typed_in_a_shell"]).using(queue="file_processing").enqueue()


@pytest.mark.parametrize(
    "path", ["json.dumps", "os.system", "subprocess.run", "builtins.eval", "tests_evil.tasks.x"]
)
def test_a_function_of_somebody_elses_may_not_run(path):
    with pytest.raises(TaskNotAllowed, match=rf'{path} may not run .* add "{path}" to DJANGO_JOBS'):
        registry.check_allowed(path)


@pytest.mark.parametrize(
    "path",
    [
        "tests.tasks.add",  # a task
        "tests.tasks.undeclared",  # ALLOWED_TASKS
        "testproject.anywhere.function",  # the project's own package
        "testproject.documents.tasks.function",  # an installed app
        "django.contrib.auth.hashers.make_password",
    ],
)
def test_tasks_the_projects_own_and_installed_apps_functions_may_run(path):
    assert tasks.add.name == "tests.tasks.add"

    registry.check_allowed(path)


def test_a_module_allows_what_is_below_it_and_not_what_is_beside_it(settings):
    settings.DJANGO_JOBS = {"ALLOWED_TASKS": ["json"]}

    registry.check_allowed("json.dumps")
    registry.check_allowed("json.decoder.scanstring")
    with pytest.raises(TaskNotAllowed):
        registry.check_allowed("jsonschema.validate")


def test_without_urls_and_settings_module_only_the_apps_are_the_projects_own(settings):
    del settings.ROOT_URLCONF

    with pytest.raises(TaskNotAllowed):
        registry.check_allowed("json.dumps")


def test_a_declared_function_may_run_wherever_it_lives(forget_declared):
    task(json.dumps)

    registry.check_allowed("json.dumps")


def test_a_task_is_loaded_as_the_function_it_decorates():
    assert registry.load("tests.tasks.add") is tasks.add.function


def test_an_undeclared_function_is_loaded_as_itself():
    assert registry.load("tests.tasks.undeclared") is tasks.undeclared


@pytest.mark.parametrize("path", ["tests.tasks.gone", "tests.gone.add", "gone", "", ".", "tests..add"])
def test_what_cannot_be_imported_is_told_with_its_path(path):
    with pytest.raises(TaskNotFound, match=r"cannot be imported .*removed by a deploy\? Bring it back"):
        registry.load(path)


@pytest.mark.parametrize("path", ["tests.tasks.os", "tests.tasks.logger", "tests.tasks.Unprintable"])
def test_what_is_not_a_function_is_not_loaded(path):
    with pytest.raises((TaskNotAllowed, TypeError)):
        registry.load(path)


def test_a_name_that_an_allowed_module_merely_imported_is_not_loaded(monkeypatch):
    monkeypatch.setattr(tasks, "system", os.system, raising=False)

    with pytest.raises(TaskNotAllowed, match=r"it is not a function defined in tests\.tasks"):
        registry.load("tests.tasks.system")


def test_a_function_in_the_clothes_of_another_is_not_loaded(monkeypatch):
    monkeypatch.setattr(tasks, "pretender", pretender, raising=False)

    with pytest.raises(TaskNotAllowed):
        registry.load("tests.tasks.pretender")
