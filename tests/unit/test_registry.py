import functools
import importlib
import json
import os
import sys
import types

import pytest

from django_jobs import enqueue, registry, task
from django_jobs import tasks as declaring
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


@pytest.mark.parametrize(
    "path",
    ["tests.tasks.gone", "tests.gone.add", "gone", "", ".", "tests..add", ".tests.tasks.add", "..", "a:b.c"],
)
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


@pytest.fixture
def new_app(forget_declared, monkeypatch, settings, tmp_path):
    """Install an app of this name whose module `tasks` has this text."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_discovered", False)
    installed = []

    def install(name, text):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        (tmp_path / name / "tasks.py").write_text(text)
        importlib.invalidate_caches()
        installed.append(name)
        settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, name]
        return tmp_path / name

    yield install
    for module in [each for each in sys.modules if each.partition(".")[0] in installed]:
        del sys.modules[module]


def test_a_task_is_named_after_its_path_or_as_it_is_told(forget_declared):
    assert task(at_the_top).name == registry.path_of(at_the_top)
    assert task(name="stock.count")(at_the_top).name == "stock.count"
    assert repr(task(name="stock.count")(at_the_top)) == "<Task stock.count>"


@pytest.mark.parametrize("name", ["a", "a.b:c-d_e", "größe.9", "x" * 255])
def test_a_name_is_letters_digits_and_a_few_marks(forget_declared, name):
    assert registry.load(task(name=name)(at_the_top).name) is at_the_top


@pytest.mark.parametrize("name", ["", " ", "a b", "a/b", "a\n", "x" * 256, 5, "a\0"])
def test_any_other_name_is_refused(forget_declared, name):
    with pytest.raises(ValueError, match=r"name=.* of task .*at_the_top: a name is 1 to 255 letters"):
        task(name=name)(at_the_top)


def test_two_functions_of_one_name_are_refused_and_both_told(forget_declared):
    task(name="stock.count")(tasks.undeclared)

    with pytest.raises(
        ValueError,
        match=r'named "stock\.count": tests\.tasks\.undeclared and .*at_the_top\. Give one another name\.',
    ):
        task(name="stock.count")(at_the_top)

    assert registry.load("stock.count") is tasks.undeclared


def test_a_name_that_is_the_path_of_another_task_is_refused(forget_declared):
    assert tasks.add.name == "tests.tasks.add"

    with pytest.raises(ValueError, match=r'Two tasks are named "tests\.tasks\.add"'):
        task(name="tests.tasks.add")(at_the_top)


def test_a_function_whose_module_is_imported_anew_takes_its_own_place(forget_declared):
    again = types.FunctionType(at_the_top.__code__, globals(), "at_the_top")
    task(name="stock.count")(at_the_top)

    task(name="stock.count")(again)

    assert registry.load("stock.count") is again


def test_a_row_from_before_a_task_was_given_a_name_still_finds_it():
    assert registry.load("tests.tasks.named_otherwise") is tasks.named_otherwise.function
    assert registry.load(tasks.named_otherwise.name) is tasks.named_otherwise.function


def test_a_task_that_moved_is_found_by_its_old_name_even_where_a_module_of_that_path_remains(forget_declared):
    moved = task(name="tests.tasks.used_to_be_here")(at_the_top)

    assert registry.load("tests.tasks.used_to_be_here") is at_the_top
    assert declaring.task_of("tests.tasks.used_to_be_here") is moved


def test_tasks_of_installed_apps_are_found_by_names_that_tell_no_module(new_app):
    new_app("shelf", "from django_jobs import task\n\n@task(name='count')\ndef old():\n    return 7\n")

    assert "count" in registry.names()
    assert registry.load("count")() == 7


def test_a_task_that_moved_between_apps_is_found_without_anybody_importing_it(new_app):
    new_app("attic", "")
    new_app(
        "shelf", "from django_jobs import task\n\n@task(name='attic.tasks.count')\ndef new():\n    return 7\n"
    )

    assert registry.load("attic.tasks.count")() == 7


def test_tasks_of_installed_apps_are_imported_once(new_app, tmp_path):
    new_app("shelf", f"with open({str(tmp_path / 'imported')!r}, 'a') as file:\n    file.write('x')\n")

    registry.discover()
    del sys.modules["shelf.tasks"]
    registry.discover()

    assert (tmp_path / "imported").read_text() == "x"


def test_an_error_in_the_tasks_of_an_app_is_raised_until_it_is_corrected(new_app):
    folder = new_app("shelf", "import there_is_no_such_module\n")

    for _ in range(2):
        with pytest.raises(ImportError, match="there_is_no_such_module"):
            registry.names()
    (folder / "tasks.py").write_text("from django_jobs import task\n\n@task(name='count')\ndef f(): pass\n")
    importlib.invalidate_caches()

    assert "count" in registry.names()


def test_apps_without_tasks_are_no_error(settings, monkeypatch):
    monkeypatch.setattr(registry, "_discovered", False)

    registry.discover()

    assert registry._discovered


@pytest.mark.parametrize(
    ("name", "meant"),
    [("tests.tasks.ad", "tests.tasks.add"), ("test.task.fail_untill", "tests.tasks.fail_until")],
)
def test_a_name_that_is_not_found_is_answered_with_the_one_that_was_meant(name, meant):
    with pytest.raises(
        TaskNotFound, match=rf'{name} cannot be imported .*Did you mean "{meant}"\? Was it moved'
    ):
        registry.load(name)


def test_a_name_like_no_other_is_answered_with_what_can_be_done():
    with pytest.raises(
        TaskNotFound, match=r"\)\. Was it moved, .* with @task\(name=…\), and requeue the job"
    ):
        registry.load("entirely.unlike")


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("tests.tasks.add", ["left", "right"]),
        ("tests.tasks.echo", []),
        ("tests.tasks.undeclared", ["number"]),
        ("tests.tasks.gone", None),
        ("os.system", None),
        ("", None),
    ],
)
def test_the_positional_parameters_of_a_task_have_names(name, names):
    assert registry.parameters(name) == names


def test_a_task_that_was_asked_for_before_it_was_declared_is_known(forget_declared):
    assert registry.parameters("declared.later") is None

    registry.declare(tasks.undeclared, "declared.later")

    assert registry.parameters("declared.later") == ["number"]
