"""Charts as SVG, made on the server: no script, no style attribute, no id; classes give the colours.

Positions are percentages, so a chart fills its column and its text keeps its size. Beside each of the large
ones, here and in `timeline_chart`, stands the same as a table, for those who do not see it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext

from .scales import Axis, count_axis, count_text, duration_axis, duration_text, moment_text, time_marks

LEAST_PERCENT = 1.5
"""How high a bar of anything is at least: one failure among thousands must be seen."""


@dataclass(frozen=True)
class Point:
    """One bucket: the attempts that ended in it, and how long they had waited; None where none did."""

    at: datetime
    finished: int
    failed: int
    wait_p50_seconds: float | None = None
    wait_p95_seconds: float | None = None


def sparkline(
    values: Sequence[float | None], label: str, text: Callable[[float], str] = count_text
) -> SafeString:
    """The course of one figure in a word's height, from 0; None is a gap. `text` writes a value."""
    known = [value for value in values if value is not None]
    if not known:
        return format_html('<span class="jobs-no-data">{}</span>', gettext("no data"))
    most = max(*known, 0) or 1
    places = [
        (100 * index / max(len(values) - 1, 1), None if value is None else 100 - 100 * max(value, 0) / most)
        for index, value in enumerate(values)
    ]
    told = gettext("lowest {lowest}, highest {highest}, last {last}").format(
        lowest=text(min(known)), highest=text(max(known)), last=text(known[-1])
    )
    areas = format_html_join(
        "",
        '<path class="jobs-spark-area" d="M{} 100{}L{} 100Z"/>',
        ((place(run[0][0]), _path(run, "L"), place(run[-1][0])) for run in _runs(places)),
    )
    return format_html(
        '<svg class="jobs-spark" role="img" width="100%" height="28" viewBox="0 0 100 100"'
        ' preserveAspectRatio="none" overflow="visible"><title>{}</title><desc>{}</desc>{}{}</svg>',
        *(label, told, areas, _line(places, "jobs-spark-line")),
    )


def meter(percent: int, label: str) -> SafeString:
    """Progress; `label` names what makes it."""
    return format_html(
        '<span class="jobs-progress"><progress max="100" value="{0}" aria-label="{1}"></progress>'
        " {0} %</span>",
        *(percent, label),
    )


def throughput(points: Sequence[Point], *, bucket: timedelta, now: datetime, log: bool = False) -> SafeString:
    """What ended, as stacked bars, and how long it had waited, as lines on an axis of their own.

    `points` are in order of time, one a `bucket`. The last one is dashed as long as its bucket lasts.
    `log` is about the waits only.
    """
    if not any(point.finished or point.failed for point in points):
        said = gettext("Nothing ended in this time.") if points else gettext("No data.")
        return format_html('<p class="jobs-no-data">{}</p>', said)
    counts = count_axis(max(point.finished + point.failed for point in points))
    waits = [
        seconds
        for point in points
        for seconds in (point.wait_p50_seconds, point.wait_p95_seconds)
        if seconds is not None
    ]
    wait_axis = duration_axis(waits, log=log) if waits else None
    is_partial = points[-1].at + bucket > now
    span = points[-1].at + bucket - points[0].at

    def percent(moment: datetime) -> float:
        return 100 * ((moment - points[0].at) / span)

    texts = [_texts(point) for point in points]
    svg = format_html(
        '<svg class="jobs-throughput" role="img" width="100%" height="200" direction="ltr"'
        ' overflow="visible"><title>{}</title><desc>{}</desc>{}{}{}{}{}</svg>',
        gettext("Finished and failed attempts, and how long they had waited"),
        _sum_text(points),
        _count_marks(counts),
        _wait_marks(wait_axis) if wait_axis else "",
        _bars(points, texts, counts, 100 * (bucket / span), percent, is_partial),
        _wait_lines(points, wait_axis, bucket, percent, is_partial) if wait_axis else "",
        _time_texts(points, bucket, percent),
    )
    names = [
        ("finished", gettext("Finished"), any(point.finished for point in points)),
        ("failed", gettext("Failed"), any(point.failed for point in points)),
        ("p50", gettext("Wait, median (right)"), bool(waits)),
        ("p95", gettext("Wait, 95th percentile (right)"), bool(waits)),
    ]
    headings = [gettext("Time"), *(text for _, text, _ in names)]
    return figure(svg, [(name, text) for name, text, is_drawn in names if is_drawn], headings, texts)


def figure(
    svg: SafeString,
    legend: Iterable[tuple[str, str]],
    headings: Iterable[str],
    rows: Iterable[Sequence[str]],
) -> SafeString:
    """A large chart with its legend, pairs of class and text, and the table beside it."""
    return format_html(
        '<figure class="jobs-chart"><ul class="jobs-legend" aria-hidden="true">{}</ul>'
        '<div class="jobs-plot">{}</div><div class="jobs-visually-hidden">'
        "<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div></figure>",
        format_html_join("", '<li class="jobs-legend-{}">{}</li>', legend),
        svg,
        format_html_join("", '<th scope="col">{}</th>', ((heading,) for heading in headings)),
        format_html_join(
            "",
            "<tr>{}</tr>",
            ((format_html_join("", "<td>{}</td>", ((cell,) for cell in row)),) for row in rows),
        ),
    )


def _sum_text(points: Sequence[Point]) -> str:
    return gettext("{finished} finished and {failed} failed from {start} to {end}").format(
        finished=sum(point.finished for point in points),
        failed=sum(point.failed for point in points),
        start=moment_text(points[0].at),
        end=moment_text(points[-1].at),
    )


def _count_marks(axis: Axis) -> SafeString:
    return format_html_join(
        "",
        '<line class="jobs-grid" x1="0" x2="100%" y1="{0}%" y2="{0}%"/>'
        '<text class="jobs-tick" x="0" dx="-6" y="{0}%" dy="0.32em" text-anchor="end">{1}</text>',
        ((place(100 - axis.height(mark)), count_text(mark)) for mark in axis.marks),
    )


def _wait_marks(axis: Axis) -> SafeString:
    return format_html_join(
        "",
        '<text class="jobs-tick" x="100%" dx="6" y="{}%" dy="0.32em">{}</text>',
        ((place(100 - axis.height(mark)), duration_text(mark)) for mark in axis.marks),
    )


def _bars(
    points: Sequence[Point],
    texts: Sequence[tuple[str, ...]],
    axis: Axis,
    width: float,
    percent: Callable[[datetime], float],
    is_partial: bool,
) -> SafeString:
    """Failures at the foot, where their heights compare. The first, unseen rectangle takes the pointer."""
    rows = []
    known = gettext("{at}: {finished} finished, {failed} failed; median wait {p50}, 95th percentile {p95}")
    unknown = gettext("{at}: {finished} finished, {failed} failed")
    for point, told in zip(points, texts, strict=True):
        text = unknown if point.wait_p50_seconds is None else known
        text = text.format(**dict(zip(("at", "finished", "failed", "p50", "p95"), told, strict=True)))
        failed = _bar_height(axis, point.failed)
        finished = min(_bar_height(axis, point.finished), 100 - failed)
        x = percent(point.at)
        mark = " jobs-partial" if is_partial and point is points[-1] else ""
        across = (x, width, x + width * 0.1, width * 0.8)
        down = (100 - failed, failed, 100 - failed - finished, finished)
        rows.append((mark, text, *map(place, (*across, *down))))
    return format_html_join(
        "",
        '<g class="jobs-bar{0}"><title>{1}</title>'
        '<rect class="jobs-hover" x="{2}%" width="{3}%" height="100%" fill="none"/>'
        '<rect class="jobs-bar-failed" x="{4}%" width="{5}%" y="{6}%" height="{7}%"/>'
        '<rect class="jobs-bar-finished" x="{4}%" width="{5}%" y="{8}%" height="{9}%"/></g>',
        rows,
    )


def _bar_height(axis: Axis, count: int) -> float:
    return max(axis.height(count), LEAST_PERCENT) if count else 0


def _texts(point: Point) -> tuple[str, ...]:
    """When, how many finished and failed, and how long they had waited."""
    return (
        *(moment_text(point.at), str(point.finished), str(point.failed)),
        *(_wait_text(point.wait_p50_seconds), _wait_text(point.wait_p95_seconds)),
    )


def _wait_text(seconds: float | None) -> str:
    return "" if seconds is None else duration_text(seconds)


def _wait_lines(
    points: Sequence[Point],
    axis: Axis,
    bucket: timedelta,
    percent: Callable[[datetime], float],
    is_partial: bool,
) -> SafeString:
    def places(waits: Iterable[float | None]) -> list[tuple[float, float | None]]:
        return [
            (percent(point.at + bucket / 2), None if wait is None else 100 - axis.height(wait))
            for point, wait in zip(points, waits, strict=True)
        ]

    p50 = places(point.wait_p50_seconds for point in points)
    p95 = places(point.wait_p95_seconds for point in points)
    return format_html(
        '<svg width="100%" height="100%" viewBox="0 0 100 100" preserveAspectRatio="none"'
        ' overflow="visible" pointer-events="none">{}{}</svg>',
        _line(p95, "jobs-line-p95", is_partial=is_partial),
        _line(p50, "jobs-line-p50", is_partial=is_partial),
    )


def _time_texts(
    points: Sequence[Point], bucket: timedelta, percent: Callable[[datetime], float]
) -> SafeString:
    """On a narrow screen every second one is left out, by its class."""
    return format_html_join(
        "",
        '<text class="jobs-tick{}" x="{}%" y="100%" dy="18" text-anchor="middle">{}</text>',
        (
            (" jobs-wide" if index % 2 else "", place(percent(moment + bucket / 2)), text)
            for index, (moment, text) in enumerate(time_marks([point.at for point in points]))
        ),
    )


def _line(places: Sequence[tuple[float, float | None]], name: str, *, is_partial: bool = False) -> SafeString:
    """Through what is known; its last stretch is dashed if the last place may still move."""
    solid = places[:-1] if is_partial and len(places) > 1 else places
    drawn = [("", run) for run in _runs(solid)]
    if solid is not places:
        last = [place for place in places[-2:] if place[1] is not None]
        if last and places[-1][1] is not None:
            drawn.append((' stroke-dasharray="4 3"', [(x, y) for x, y in last if y is not None]))
    return format_html_join(
        "",
        '<path class="jobs-line {}" fill="none" stroke-linecap="round" stroke-linejoin="round"'
        ' vector-effect="non-scaling-stroke"{} d="{}"/>',
        ((name, SafeString(dashes), _path(run)) for dashes, run in drawn),
    )


def _runs(places: Sequence[tuple[float, float | None]]) -> Iterator[list[tuple[float, float]]]:
    for known, run in groupby(places, lambda place: place[1] is not None):
        if known:
            yield [(x, y) for x, y in run if y is not None]


def _path(run: Sequence[tuple[float, float]], first: str = "M") -> str:
    """A single place is a line of no length, of which the round ends make a dot."""
    text = first + "L".join(f"{place(x)} {place(y)}" for x, y in run)
    return f"{text}h0" if len(run) == 1 else text


def place(percent: float) -> str:
    """As SVG reads numbers, whatever the reader's language."""
    return f"{percent:.2f}"
