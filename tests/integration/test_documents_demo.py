"""The demo's errors; that it works is an acceptance test."""

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from rich.console import Console

from django_jobs.models import Job
from testproject.documents.corpus import Source
from testproject.documents.display import Display
from testproject.documents.feeding import Feeding
from testproject.documents.management.commands import demo
from testproject.documents.processes import Processes


@pytest.fixture
def waiting(tmp_path, monkeypatch):
    """Wait as the demo does for the jobs of one document, but with little patience and no processes."""
    monkeypatch.setattr(demo, "STALL", timedelta(seconds=0.1))
    monkeypatch.setattr(demo, "LOOK_INTERVAL_SECONDS", 0.02)
    command = demo.Command()
    command.logs = tmp_path
    command.processes = Processes(tmp_path)
    command.display = Display(Console(file=StringIO()), demo.QUEUES)
    feeding = Feeding()
    feeding.process([Source("rq", "RQ requires Redis.")])
    return lambda: command.wait(feeding)


@pytest.mark.django_db
def test_the_demo_gives_up_when_nothing_moves_and_says_where_to_look(waiting, tmp_path):
    with pytest.raises(CommandError, match=rf"unfinished jobs: 1\. Look at .* logs in {tmp_path}"):
        waiting()


@pytest.mark.django_db
def test_the_demo_goes_on_when_all_jobs_have_ended(waiting):
    Job.objects.update(status="finished")

    waiting()


def test_a_missing_path_ends_the_demo_before_anything_is_started(tmp_path):
    with pytest.raises(CommandError, match="nowhere does not exist"):
        call_command("demo", str(tmp_path / "nowhere"))
