"""docs/commands.md: every example in it runs, and prints what it says."""

import re
import shlex
from datetime import timedelta
from io import StringIO

import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command, get_commands, load_command_class
from django.db.models.functions import Now

from django_jobs import embedded, relay
from django_jobs.environment import default_rq_queues, embedded_directory
from django_jobs.models.tallies import tally
from django_jobs.states import FAILED, FINISHED, STARTED
from tests.conftest import ROOT, make_worker

COMMANDS = [
    *("jobs_status", "list_queues", "list_workers", "list_failed", "requeue_failed"),
    *("jobs_cancel", "jobs_pause", "jobs_resume", "jobs_prune"),
]


def section(command):
    text = (ROOT / "docs" / "commands.md").read_text()
    return re.split(r"^## ", text.partition(f"\n## {command}\n")[2], flags=re.MULTILINE)[0]


def examples(command):
    """[(command line, what it prints)]"""
    blocks = re.findall(r"^```console\n(.*?)^```", section(command), flags=re.MULTILINE | re.DOTALL)
    return [
        (line, told) for block in blocks for line, told in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block)
    ]


def printed(line):
    """What this command line prints, with its errors."""
    assert line.startswith("python manage.py ")
    out = StringIO()
    try:
        call_command(*shlex.split(line)[2:], stdout=out, stderr=out)
    except CommandError as error:
        out.write(f"CommandError: {error}\n")
    return out.getvalue()


def general(text):
    """The text without what differs from one run to the next, and without the widths of columns."""
    for what, pattern in {
        "ID": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
        "WHEN": r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \w+",
        "URL": r"\w+://\S*[^\s.]",
        "FOLDER": r"/\S+/\.django_jobs",
        "(pid)": r"\(pid \d+\)",
    }.items():
        text = re.sub(pattern, what, text)
    return [" ".join(line.split()) for line in text.splitlines()]


@pytest.fixture
def shop(job_factory, valkey_server, valkey, monkeypatch):
    """The project that the page tells of."""
    queues = {name: {"URL": valkey_server.url} for name in ("default", "mail")}
    monkeypatch.setattr(django_settings, "RQ_QUEUES", queues)
    worker = make_worker(
        name="w1",
        state="busy",
        queues=["default", "mail"],
        hostname="web1",
        pid=4711,
        finished_count=310,
        failed_count=2,
    )
    job_factory(queue="default", status=STARTED, worker=worker, unique_key="invoice:7")
    invoice = {"queue": "mail", "task": "shop.tasks.send_invoice", "status": FAILED}
    job_factory(
        **invoice,
        error_type="ValueError",
        error_message="no address",
        unique_key="invoice:7",
        finished_at=Now() - timedelta(days=1),
    )
    job_factory(
        **invoice,
        error_type="TimeoutError",
        error_message="timed out",
        attempt=3,
        finished_at=Now() - timedelta(hours=1),
    )
    for _ in range(12):
        job_factory(queue="mail", task="shop.tasks.send_reminder")
    tally({("mail", FAILED): 2, ("mail", FINISHED): 10, ("default", FINISHED): 300})
    relay.run_once()


@pytest.mark.parametrize("command", COMMANDS)
def test_an_example_prints_what_the_page_says(shop, command):
    assert examples(command)
    for line, told in examples(command):
        assert general(printed(line)) == general(told), line


def test_the_examples_of_the_embedded_server_print_what_the_page_says(settings, monkeypatch, tmp_path):
    for name in ("REDIS_URL", "REDIS_HOST"):
        monkeypatch.delenv(name, raising=False)
    settings.BASE_DIR, settings.DJANGO_JOBS = tmp_path, {}
    settings.RQ_QUEUES = default_rq_queues()

    try:
        for line, told in examples("jobs_redis"):
            assert general(printed(line)) == general(told), line
    finally:
        embedded.stop(embedded_directory())


@pytest.mark.parametrize("command", [*COMMANDS, "jobs_redis"])
def test_a_section_names_every_option_of_its_command(command):
    parser = load_command_class(get_commands()[command], command).create_parser("manage.py", command)
    of_django = {"--help", "--version", "--verbosity", "--settings", "--pythonpath", "--traceback"}
    of_django |= {"--no-color", "--force-color", "--skip-checks", "--json"}
    options = {option for action in parser._actions for option in action.option_strings[-1:]} - of_django

    text = section(command) + (section("list_failed") if command == "requeue_failed" else "")
    assert {option for option in options if option not in text} == set()
