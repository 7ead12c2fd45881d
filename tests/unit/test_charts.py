"""The charts of the admin: what they draw, and that what they are told cannot break out of them."""

import re
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import pytest
from django.utils import timezone, translation

from django_jobs.admin.charts import Point, meter, sparkline, throughput
from django_jobs.admin.scales import count_axis, count_text, duration_axis, duration_text, time_marks
from django_jobs.admin.timeline_chart import Segment, timeline

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOSTILE = """<script>alert(1)</script>"'&{0}%s"""


def minutes(*counts, waits=(0.5, 2.0)):
    """One point a minute from noon, of what finished and failed in it."""
    return [Point(NOON + MINUTE * index, *pair, *waits) for index, pair in enumerate(counts)]


def drawn(svg):
    """As XML, which no text within may break; with it what no chart may have is refused."""
    assert not re.search(r"\s(style|id|on\w+)=", svg)
    return ElementTree.fromstring(f"<root>{svg}</root>")


def having(root, name):
    return [element for element in root.iter() if name in element.get("class", "").split()]


CHARTS = {
    "sparkline": sparkline([1, None, 3], HOSTILE),
    "meter": meter(40, HOSTILE),
    "throughput": throughput(minutes((3, 1), (5, 0)), bucket=MINUTE, now=NOON + MINUTE),
    "timeline": timeline(
        [Segment("running", NOON, None, HOSTILE), Segment("upcoming", NOON + 9 * MINUTE, None, HOSTILE)],
        NOON + MINUTE,
    ),
}


@pytest.mark.parametrize("name", ["sparkline", "meter", "timeline"])
def test_a_hostile_label_stays_text(name):
    root = drawn(CHARTS[name])

    assert not list(root.iter("script"))
    shown = [*root.itertext(), *(value for element in root.iter() for value in element.attrib.values())]
    assert any(HOSTILE in text for text in shown)


def test_a_hostile_outcome_stays_an_attribute():
    root = drawn(timeline([Segment("running", NOON, None, "", outcome=HOSTILE)], NOON + MINUTE))

    assert not list(root.iter("script"))


@pytest.mark.parametrize("name", ["sparkline", "throughput", "timeline"])
def test_a_drawing_is_an_image_with_a_title_and_a_description(name):
    svg = drawn(CHARTS[name]).find(".//svg")

    assert svg.get("role") == "img"
    assert [child.tag for child in svg[:2]] == ["title", "desc"]
    assert all(child.text for child in svg[:2])


@pytest.mark.parametrize(("name", "rows"), [("throughput", 2), ("timeline", 2)])
def test_beside_a_large_chart_stands_a_table_of_the_same(name, rows):
    (table,) = drawn(CHARTS[name]).iter("table")

    assert len(table.findall("tbody/tr")) == rows
    assert {len(row) for row in table.iter("tr")} == {5}


@pytest.mark.parametrize(
    "chart",
    [
        sparkline([], "Failed"),
        sparkline([None, None], "Failed"),
        throughput([], bucket=MINUTE, now=NOON),
        throughput(minutes((0, 0), (0, 0)), bucket=MINUTE, now=NOON),
        timeline([], NOON),
    ],
)
def test_where_there_is_nothing_it_is_said_and_no_line_drawn(chart):
    root = drawn(chart)

    assert having(root, "jobs-no-data")
    assert not list(root.iter("svg"))


def test_a_sparkline_of_zeros_is_a_line_at_the_foot_and_a_gap_is_none():
    root = drawn(sparkline([0, 0, None, 0], "Failed"))

    assert [line.get("d") for line in having(root, "jobs-spark-line")] == [
        "M0.00 100.00L33.33 100.00",
        "M100.00 100.00h0",
    ]


def test_bars_stack_on_the_failures_and_a_single_failure_is_seen():
    root = drawn(throughput(minutes((10_000, 1)), bucket=MINUTE, now=NOON + MINUTE))

    (failed,), (finished,) = having(root, "jobs-bar-failed"), having(root, "jobs-bar-finished")
    assert (failed.get("y"), failed.get("height")) == ("98.50%", "1.50%")
    assert float(finished.get("y")[:-1]) + float(finished.get("height")[:-1]) == pytest.approx(98.5)


@pytest.mark.parametrize(
    ("now", "partial"), [(NOON + 1.5 * MINUTE, [False, True]), (NOON + 2 * MINUTE, [False, False])]
)
def test_the_last_bucket_is_dashed_while_it_lasts(now, partial):
    root = drawn(throughput(minutes((3, 0), (1, 0)), bucket=MINUTE, now=now))

    assert ["jobs-partial" in bar.get("class") for bar in having(root, "jobs-bar")] == partial
    assert any(line.get("stroke-dasharray") for line in having(root, "jobs-line-p50")) == partial[-1]


def test_without_known_waits_there_is_neither_line_nor_axis_for_them():
    root = drawn(throughput(minutes((3, 1), waits=(None, None)), bucket=MINUTE, now=NOON + MINUTE))

    assert not having(root, "jobs-line")
    assert not having(root, "jobs-legend-p50")


def test_the_legend_names_what_is_drawn_alone():
    root = drawn(throughput(minutes((0, 1), waits=(None, None)), bucket=MINUTE, now=NOON + MINUTE))

    assert [item.text for item in root.iter("li")] == ["Failed"]


def test_a_sparkline_tells_its_values_as_it_is_told_to():
    [told] = drawn(sparkline([0.2, 60], "Wait", duration_text)).iter("desc")

    assert told.text == "lowest 200 ms, highest 1 min, last 1 min"


def test_times_are_local_and_numbers_in_a_drawing_are_not():
    with timezone.override("Asia/Tokyo"), translation.override("de"):
        svg = throughput(minutes((3, 1), (2, 0), (1, 0)), bucket=MINUTE, now=NOON + 9 * MINUTE)
        texts = "".join(drawn(svg).itertext())

    assert "21:00" in texts
    assert not re.search(r'"\d+,\d+%?"', svg)


def test_the_phases_of_a_job_fill_the_width_one_after_the_other():
    segments = [
        Segment("waiting", NOON, NOON + 60 * MINUTE, "queued"),
        Segment("running", NOON + 60 * MINUTE, NOON + 60 * MINUTE, "attempt 1", outcome="failed"),
        Segment("backing_off", NOON + 60 * MINUTE, NOON + 61 * MINUTE, "1 min"),
        Segment("upcoming", NOON + 61 * MINUTE, None, "attempt 2"),
    ]

    root = drawn(timeline(segments, NOON + 60.5 * MINUTE))

    boxes = [segment.find("rect") for segment in having(root, "jobs-segment")]
    places = [(float(box.get("x")[:-1]), float(box.get("width")[:-1])) for box in boxes]
    assert places[0][0] == 0
    assert sum(places[-1]) == pytest.approx(100)
    assert all(width >= 4 for _, width in places)
    assert len(having(root, "jobs-now")) == 1
    assert having(root, "jobs-segment-upcoming")
    assert having(root, "jobs-segment-failed")


def test_a_job_that_has_ended_is_drawn_to_its_end_not_to_now():
    segments = [Segment("running", NOON, NOON + MINUTE, "attempt 1", outcome="finished")]

    root = drawn(timeline(segments, NOON + timedelta(days=30)))

    assert not having(root, "jobs-now")
    assert having(root, "jobs-segment")[0].find("rect").get("width") == "100.00%"


def test_many_attempts_have_a_place_each():
    segments = [
        Segment("running", NOON + MINUTE * index, NOON + MINUTE * (index + 1), f"attempt {index}")
        for index in range(300)
    ]

    root = drawn(timeline(segments, NOON))
    widths = [segment.find("rect").get("width") for segment in having(root, "jobs-segment")]

    assert all(float(width[:-1]) > 0.3 for width in widths)


@pytest.mark.parametrize(
    ("most", "marks"),
    [
        (1, (0, 1)),
        (3, (0, 1, 2, 3)),
        (7, (0, 2, 4, 6, 8)),
        (40, (0, 10, 20, 30, 40)),
        (41, (0, 20, 40, 60)),
        (1_000_000, (0, 500_000, 1_000_000)),
    ],
)
def test_counts_are_marked_at_round_whole_numbers(most, marks):
    assert count_axis(most).marks == marks


@pytest.mark.parametrize("most", [*range(1, 200), 999, 1001, 10**9])
def test_an_axis_of_counts_holds_the_most_with_few_marks(most):
    axis = count_axis(most)

    assert 0 < axis.height(most) <= 100
    assert 2 <= len(axis.marks) <= 6


@pytest.mark.parametrize(
    ("seconds", "log", "marks"),
    [
        ([90], False, (0, 30, 60, 90)),
        ([0], False, (0, 0.5, 1)),
        ([0.02, 45], True, (0.01, 0.1, 1, 10, 60)),
        ([5, 5], True, (1, 10)),
        ([10**9], True, (604800, 6048000, 10**9)),
    ],
)
def test_waits_are_marked_in_seconds_minutes_and_hours(seconds, log, marks):
    axis = duration_axis(seconds, log=log)

    assert axis.marks == marks or list(axis.marks) == pytest.approx(marks)
    assert axis.height(marks[0]) == 0
    assert axis.height(marks[-1]) == 100
    assert 0 <= axis.height(0) <= axis.height(max(seconds)) <= 100


def test_times_are_marked_at_round_local_hours_even_half_an_hour_apart_from_utc():
    moments = [NOON + timedelta(hours=index) for index in range(24)]

    with timezone.override("Asia/Kolkata"):
        marks = time_marks(moments)

    assert len(marks) == 6
    assert marks[0][1] == "8:30 p.m."


def test_numbers_are_short_and_in_the_language_of_the_reader():
    assert [count_text(value) for value in (0, 950, 1_200, 3_000_000)] == ["0", "950", "1.2 k", "3 M"]
    assert [duration_text(value) for value in (0, 0.25, 1.5, 120, 5400, 86400)] == [
        *("0 s", "250 ms", "1.5 s", "2 min", "1.5 h", "1 d")
    ]
    with translation.override("de"):
        assert duration_text(1.5) == "1,5 s"
