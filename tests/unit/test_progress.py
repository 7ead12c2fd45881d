"""Progress without a database: the numbers, and what happens outside a job."""

import pytest

from django_jobs import progress
from django_jobs.models import Job
from django_jobs.reporter import Reporter


@pytest.fixture
def reporter(monkeypatch):
    """A reporter that gathers and does not write."""
    monkeypatch.setattr(Reporter, "_wake", lambda self: None)
    reporter = Reporter(Job(task="t", queue="q"))
    with reporter.recording():
        yield reporter


def test_outside_a_job_progress_has_no_effect():
    progress.declare("a", "b")
    progress.update(50, stage="a", message="half")


@pytest.mark.parametrize("percent", [-1, 100.5, 101, float("nan"), float("inf")])
def test_a_percentage_outside_0_to_100_is_refused_in_a_job_and_outside(percent, reporter):
    with pytest.raises(ValueError, match="a number from 0 to 100"):
        progress.update(percent)

    assert reporter.fields()["progress"] == 0


@pytest.mark.parametrize(
    ("percent", "state"),
    [
        (0, {"status": "processing", "progress": 0}),
        (0.9, {"status": "processing", "progress": 0}),
        (50, {"status": "processing", "progress": 50}),
        (99.99, {"status": "processing", "progress": 99}),
        (100, {"status": "completed", "progress": 100}),
    ],
)
def test_a_stage_is_completed_at_100_and_not_before(reporter, percent, state):
    progress.update(percent, stage="a")

    assert reporter.fields()["stages"] == {"a": state}


def test_the_stages_have_the_shape_that_users_see(reporter):
    progress.declare("chunking", "vectorization", "storage", "kg_extraction")
    progress.update(100, stage="chunking")
    progress.update(50, stage="vectorization")

    assert reporter.fields()["stages"] == {
        "chunking": {"status": "completed", "progress": 100},
        "vectorization": {"status": "processing", "progress": 50},
        "storage": {"status": "pending", "progress": 0},
        "kg_extraction": {"status": "pending", "progress": 0},
    }


def test_progress_is_the_mean_of_the_stages(reporter):
    progress.declare("a", "b", "c", "d")
    progress.update(100, stage="a")
    progress.update(50, stage="b")

    assert (reporter.fields()["progress"], reporter.fields()["stage"]) == (37, "b")


def test_a_stage_that_was_not_announced_joins_the_others(reporter):
    progress.declare("a")
    progress.update(100, stage="a")
    progress.update(0, stage="b")

    assert reporter.fields()["progress"] == 50


def test_announcing_a_stage_again_does_not_set_it_back(reporter):
    progress.update(80, stage="a")
    progress.declare("a", "b")

    assert reporter.fields()["stages"]["a"] == {"status": "processing", "progress": 80}


def test_without_stages_progress_is_what_was_told(reporter):
    progress.update(42, message="so far")

    assert reporter.fields() == {
        "progress": 42,
        "progress_message": "so far",
        "stage": "",
        "stages": {},
        "stage_names": [],
    }


def test_a_message_stays_until_another_one(reporter):
    progress.update(10, message="first")
    progress.update(20)

    assert reporter.fields()["progress_message"] == "first"


def test_a_long_message_is_cut(reporter):
    progress.update(10, message="x" * 5000)

    assert len(reporter.fields()["progress_message"]) == 1000


def test_fields_once_told_do_not_change_any_more(reporter):
    progress.update(10, stage="a")
    told = reporter.fields()

    progress.update(20, stage="b")

    assert told["stages"] == {"a": {"status": "processing", "progress": 10}}
