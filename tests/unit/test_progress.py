"""Progress without a database: the numbers, and what happens outside a job."""

import asyncio

import pytest

from django_jobs import progress, progress_callback
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


@pytest.mark.parametrize("percent", [-1, -0.1, 100.5, 101, float("nan"), float("inf"), "50", None, True])
def test_a_percentage_outside_0_to_100_is_refused_in_a_job_and_outside(percent, reporter):
    for tell in (progress.update, progress_callback):
        with pytest.raises(ValueError, match=r"Progress .*: give a percentage, a number from 0 to 100"):
            tell(percent)

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


def percent(reporter):
    return reporter.fields()["progress"]


def seen(reporter, iterator):
    """The items, each with the percentage that was told when it came."""
    return [(item, percent(reporter)) for item in iterator]


def test_tracking_a_list_tells_after_each_item_how_many_are_done(reporter):
    assert seen(reporter, progress.track(["a", "b", "c", "d"])) == [("a", 0), ("b", 25), ("c", 50), ("d", 75)]
    assert percent(reporter) == 100


def test_tracking_a_generator_takes_its_total(reporter):
    letters = (letter for letter in "abcd")

    assert seen(reporter, progress.track(letters, total=8)) == [("a", 0), ("b", 12), ("c", 25), ("d", 37)]
    assert percent(reporter) == 100


def test_a_total_goes_before_the_length(reporter):
    assert seen(reporter, progress.track(["a", "b"], total=4)) == [("a", 0), ("b", 25)]


def test_more_items_than_their_total_are_no_more_than_everything(reporter):
    assert seen(reporter, progress.track("abc", total=1)) == [("a", 0), ("b", 100), ("c", 100)]


def test_without_a_known_number_progress_is_told_at_the_end(reporter):
    assert seen(reporter, progress.track(iter("ab"))) == [("a", 0), ("b", 0)]
    assert percent(reporter) == 100


@pytest.mark.parametrize("nothing", [[], iter([])])
def test_nothing_to_iterate_is_done_at_once(reporter, nothing):
    assert seen(reporter, progress.track(nothing)) == []
    assert percent(reporter) == 100


def test_tracking_a_stage_tells_that_stage_with_a_message(reporter):
    progress.declare("reading", "writing")

    for _ in progress.track([1, 2], stage="reading", message="reads"):
        assert reporter.fields()["stages"]["writing"] == {"status": "pending", "progress": 0}

    assert reporter.fields() == {
        "progress": 50,
        "progress_message": "reads",
        "stage": "reading",
        "stages": {
            "reading": {"status": "completed", "progress": 100},
            "writing": {"status": "pending", "progress": 0},
        },
        "stage_names": ["reading", "writing"],
    }


def test_what_is_tracked_can_be_iterated_twice(reporter):
    tracked = progress.track([1, 2])

    assert seen(reporter, tracked) == seen(reporter, tracked) == [(1, 0), (2, 50)]


def test_tracking_that_ends_early_stays_where_it_is(reporter):
    for item in progress.track([1, 2, 3, 4]):
        if item == 3:
            break

    assert percent(reporter) == 50


def test_an_error_inside_is_raised_and_progress_stays(reporter):
    with pytest.raises(LookupError):
        for item in progress.track([1, 2]):
            if item == 2:
                raise LookupError

    assert percent(reporter) == 50


async def letters(*these):
    for letter in these:
        await asyncio.sleep(0)
        yield letter


@pytest.mark.parametrize(
    ("items", "told"),
    [
        (lambda: progress.track(["a", "b"]), [("a", 0), ("b", 50)]),
        (lambda: progress.track(letters("a", "b"), total=4), [("a", 0), ("b", 25)]),
        (lambda: progress.track(letters("a", "b")), [("a", 0), ("b", 0)]),
    ],
)
def test_asynchronous_iteration_is_tracked_as_well(reporter, items, told):
    async def iterate():
        return [(item, percent(reporter)) async for item in items()]

    assert asyncio.run(iterate()) == told
    assert percent(reporter) == 100


def test_what_is_asynchronous_is_not_iterated_otherwise(reporter):
    with pytest.raises(TypeError, match="is asynchronous; iterate with `async for`"):
        next(iter(progress.track(letters("a"))))


def test_outside_a_job_tracking_only_iterates():
    assert list(progress.track([1, 2], stage="a")) == [1, 2]
    progress_callback(50, "half")


def test_a_callback_tells_the_percentage_and_the_step(reporter):
    progress_callback(30, "reading page 3")
    assert (percent(reporter), reporter.fields()["progress_message"]) == (30, "reading page 3")

    progress_callback(40.7)

    assert (percent(reporter), reporter.fields()["progress_message"]) == (40, "reading page 3")


def test_a_percentage_that_was_told_goes_before_the_mean_until_a_stage_is_told(reporter):
    progress.update(50, stage="a")
    progress.update(70)
    assert percent(reporter) == 70

    progress.update(60, stage="a")

    assert percent(reporter) == 60


def test_jobs_one_after_the_other_know_nothing_of_each_other(monkeypatch):
    monkeypatch.setattr(Reporter, "_wake", lambda self: None)
    first, second = (Reporter(Job(task="t", queue="q")) for _ in range(2))

    with first.recording():
        progress.update(10)
        with second.recording():
            progress.update(20)
        progress.update(30)

    assert (percent(first), percent(second)) == (30, 20)
