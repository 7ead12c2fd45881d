"""What the documentation shows is run, and what it promises to list is there."""

import ast
import asyncio
import inspect
import re
import sys
import types
from pathlib import Path

import django_rq.management.commands
import pytest
import rq.cli.workers
from asgiref.sync import sync_to_async
from django.core.management import load_command_class
from django.db import connections
from rq import Queue as RQQueue
from rq.decorators import job as rq_decorator

from django_jobs import registry, testing
from tests.conftest import ROOT

DOCS = ROOT / "docs"
HOW_TOS = sorted(path.name for path in (DOCS / "howto").glob("*.md") if path.name != "testing.md")


def code_of(page):
    """The Python blocks of a page and the checks hidden in its comments, in their order."""
    blocks = re.findall(r"^```python\n(.*?)^```|^<!-- (.*?) -->", page.read_text(), re.DOTALL | re.MULTILINE)
    return [shown or hidden for shown, hidden in blocks]


async def awaited(coroutine):
    try:
        return await coroutine
    finally:
        await sync_to_async(connections.close_all)()  # Those of the thread that asgiref has for this loop.


@pytest.fixture
def run_page(transactional_db, settings, monkeypatch, forget_declared):
    queue = settings.RQ_QUEUES["file_processing"]
    settings.RQ_QUEUES = {**settings.RQ_QUEUES, "default": queue}

    def run(page):
        module = types.ModuleType(f"page_{re.sub(r'[^a-z]', '_', page.stem)}")
        module.run_jobs = lambda: testing.run_jobs(raise_errors=False)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        for source in code_of(page):
            code = compile(source, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            told = eval(code, vars(module))
            if inspect.iscoroutine(told):
                asyncio.run(awaited(told))

    with testing.relay.withheld():
        yield run


@pytest.mark.parametrize("name", HOW_TOS)
def test_the_examples_of_a_how_to_do_what_it_says(run_page, name):
    run_page(DOCS / "howto" / name)


def test_every_how_to_has_examples_and_a_check_would_be_noticed():
    assert len(HOW_TOS) >= 9
    assert all(code_of(DOCS / "howto" / name) for name in HOW_TOS)


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")) + sorted(DOCS.rglob("*.md")), ids=str)
def test_links_between_pages_lead_somewhere(page):
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\((?!https?:)([^)#]+)", prose)

    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_index_lists_every_page():
    index = (DOCS / "index.md").read_text()

    pages = [str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if page.name != "index.md"]
    assert [page for page in pages if f"({page})" not in index] == []


def test_every_permission_of_ours_is_told_where_steering_is():
    page = (DOCS / "howto" / "steering.md").read_text()
    named = set(
        re.findall(r"`([a-z]+(?:_[a-z]+)*_(?:job|job_arguments|queue|worker|errorgroup|operation))`", page)
    )

    from django_jobs.models import ErrorGroup, Job, Operation, Queue, Worker

    defined = {
        codename
        for model in (ErrorGroup, Job, Operation, Queue, Worker)
        for codename, _ in model._meta.permissions
    }
    looking = {f"view_{name}" for name in ("job", "queue", "worker", "errorgroup", "operation")}
    assert named - {"quiet_worker", "unquiet_worker", "stop_worker"} == {*defined, *looking, "delete_job"}


COMING = DOCS / "coming-from-django-rq.md"


def options_of_enqueue():
    source = inspect.getsource(RQQueue.parse_args)
    parsed = set(re.findall(r"kwargs\.pop\('(\w+)'", source))
    methods = (RQQueue.enqueue_call, RQQueue.enqueue_many, RQQueue.prepare_data, rq_decorator.__init__)
    declared = {name for method in methods for name in inspect.signature(method).parameters}
    return parsed | declared - {"self", "func", "job_datas"}


def options_of_django_rqs(command):
    parser = load_command_class("django_rq", command).create_parser("manage.py", command)
    own = {option for action in parser._actions for option in action.option_strings if len(option) > 2}
    everywhere = "--help --version --verbosity --settings --pythonpath --traceback --no-color --force-color"
    return own - {*everywhere.split(), "--skip-checks"}


def options_of_rqs_worker():
    options = {option for param in rq.cli.workers.worker.params for option in param.opts}
    return {option for option in options if option.startswith("--")}


def test_every_option_of_rqs_enqueue_is_answered():
    page = COMING.read_text()

    assert [name for name in sorted(options_of_enqueue()) if f"`{name}`" not in page] == []


@pytest.mark.parametrize("command", ["rqworker", "rqstats", "rqenqueue"])
def test_every_option_of_django_rqs_commands_is_answered(command):
    page = COMING.read_text()

    assert [name for name in sorted(options_of_django_rqs(command)) if f"`{name}`" not in page] == []


def test_every_option_of_rqs_worker_is_answered():
    page = COMING.read_text()

    assert [name for name in sorted(options_of_rqs_worker() - {"--help"}) if f"`{name}`" not in page] == []


def test_every_command_of_django_rq_is_answered():
    page = COMING.read_text()
    folder = Path(django_rq.management.commands.__path__[0])
    commands = [path.stem for path in folder.glob("rq*.py")]

    assert len(commands) >= 7
    assert [name for name in commands if f"`{name}" not in page] == []


def test_a_module_of_examples_leaves_no_task_behind():
    assert not [name for name in registry._declared if name.startswith("page_")]
