"""The state of a job's progress, from updates to the row and back."""

from fractions import Fraction

import pytest

from django_jobs.models import Job
from django_jobs.stages import MESSAGE_LIMIT, STAGE_LIMIT, Stages, check_percent


def row(stages):
    return Job(task="t", queue="q", **stages.fields())


def updated(*updates, declared=()):
    stages = Stages()
    stages.declare(declared)
    for percent, message, stage in updates:
        stages.update(percent, message, stage)
    return stages


def test_nothing_told_is_nothing():
    assert Stages().fields() == {
        "progress": 0,
        "progress_message": "",
        "stage": "",
        "stages": {},
        "stage_names": [],
    }


def test_stages_keep_the_order_in_which_they_were_told():
    stages = updated((10, None, "z"), (20, None, "a"), declared=["m", "z"])

    assert stages.fields()["stage_names"] == ["m", "z", "a"]
    assert list(row(stages).ordered_stages) == ["m", "z", "a"]


@pytest.mark.parametrize(
    "stages",
    [
        Stages(),
        updated((40, "half", None)),
        updated((100, None, "a"), (50, "b begins", "b"), declared=["a", "b", "c"]),
        updated((0, None, "a"), declared=["b"]),
    ],
    ids=["nothing", "a percentage", "stages", "a stage at 0"],
)
def test_a_row_tells_what_was_written_to_it(stages):
    assert Stages.of(row(stages)).fields() == stages.fields()


def test_what_a_row_tells_can_be_continued():
    before = row(updated((100, None, "a"), (50, "b begins", "b"), declared=["a", "b", "c", "d"]))

    stages = Stages.of(before)
    stages.update(100, None, "b")

    assert stages.fields() == {
        "progress": 50,
        "progress_message": "b begins",
        "stage": "b",
        "stages": {
            "a": {"status": "completed", "progress": 100},
            "b": {"status": "completed", "progress": 100},
            "c": {"status": "pending", "progress": 0},
            "d": {"status": "pending", "progress": 0},
        },
        "stage_names": ["a", "b", "c", "d"],
    }


def test_the_mean_is_cut_and_not_rounded_so_that_100_means_all():
    almost = updated(*[(100, None, str(number)) for number in range(9)], (99.9, None, "last"))

    assert almost.fields()["progress"] == 99


def test_names_that_are_one_when_cut_are_one_stage():
    names = ["x" * STAGE_LIMIT + end for end in "ab"]

    fields = updated((100, None, names[0]), (50, None, names[1])).fields()

    assert len(fields["stages"]) == len(fields["stage_names"]) == 1
    assert len(fields["stage"]) == STAGE_LIMIT
    assert 0 <= fields["progress"] <= 100


@pytest.mark.parametrize("message", ["x" * 5000, "a\0\ud800", 42])
def test_a_message_is_text_that_a_row_takes(message):
    told = updated((1, message, None)).fields()["progress_message"]

    assert isinstance(told, str)
    assert len(told) <= MESSAGE_LIMIT
    assert "\0" not in told
    told.encode()


@pytest.mark.parametrize("percent", [0, 0.0, 1, 99.99, 100, Fraction(1, 3)])
def test_a_percentage_is_a_number_from_0_to_100(percent):
    check_percent(percent)
