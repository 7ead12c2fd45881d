"""The life of one job as a chart; see `charts`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext, pgettext

from .charts import figure, place
from .scales import duration_text, moment_text

_MARKS = {"finished": "✓", "failed": "✕", "lost": "✕", "canceled": "■"}

Kind = Literal["waiting", "running", "backing_off", "upcoming"]


@dataclass(frozen=True)
class Segment:
    """A stretch of a job's life; without an end it goes on, or is upcoming. `outcome` is an attempt's."""

    kind: Kind
    start: datetime
    end: datetime | None
    label: str
    outcome: str = ""


def timeline(segments: Sequence[Segment], now: datetime) -> SafeString:
    """The life of one job: waiting, running, backing off, and dashed what is still to come.

    Longer is wider, but not in proportion: a run of a second between waits of hours must be seen too.
    """
    if not segments:
        return format_html('<p class="jobs-no-data">{}</p>', gettext("No data."))
    stretches = _stretches(segments, now)
    goes_on = any(end >= now for _, _, end in stretches)
    places = _places([*(m for _, *ends in stretches for m in ends), *([now] if goes_on else [])])
    names = _names()
    phases = {_phase(segment) for segment in segments}
    legend = [(phase, name) for phase, name in names.items() if phase in phases]
    svg = format_html(
        '<svg class="jobs-timeline" role="img" width="100%" height="84" direction="ltr"'
        ' overflow="visible"><title>{}</title><desc>{}</desc>{}{}{}</svg>',
        gettext("Timeline of the job"),
        gettext("From {start} to {end}").format(start=moment_text(min(places)), end=moment_text(max(places))),
        format_html_join("", "{}", ((_drawn(*stretch, places, names),) for stretch in stretches)),
        _now_mark(places[now]) if goes_on else "",
        format_html(
            '<text class="jobs-tick" x="0" y="80">{}</text>'
            '<text class="jobs-tick" x="100%" y="80" text-anchor="end">{}</text>',
            *(moment_text(min(places)), moment_text(max(places))),
        ),
    )
    headings = [
        gettext("Phase"),
        gettext("What"),
        pgettext("when", "From"),
        pgettext("when", "To"),
        gettext("Lasted"),
    ]
    rows = (
        (
            names.get(_phase(segment), segment.outcome),
            segment.label,
            moment_text(segment.start),
            moment_text(segment.end) if segment.end else "",
            duration_text((segment.end - segment.start).total_seconds()) if segment.end else "",
        )
        for segment in segments
    )
    return figure(svg, legend, headings, rows)


def _phase(segment: Segment) -> str:
    return segment.outcome or segment.kind


def _names() -> dict[str, str]:
    return {
        "waiting": gettext("Waiting"),
        "backing_off": gettext("Backing off"),
        "running": gettext("Running"),
        "finished": gettext("Finished"),
        "failed": gettext("Failed"),
        "lost": gettext("Lost"),
        "canceled": gettext("Canceled"),
        "retried": gettext("Retried"),
        "elsewhere": gettext("Goes on elsewhere"),
        "upcoming": gettext("Upcoming"),
    }


_Stretch = tuple[Segment, datetime, datetime]


def _stretches(segments: Sequence[Segment], now: datetime) -> list[_Stretch]:
    """Each with the end it is drawn to, so that every one has some width."""
    known = [moment for segment in segments for moment in (segment.start, segment.end) if moment]
    guess = (max(*known, now) - min(known)) / 20
    stretches = []
    for segment in segments:
        end = segment.end or (segment.start + guess if segment.kind == "upcoming" else now)
        stretches.append((segment, segment.start, max(end, segment.start + timedelta(microseconds=1))))
    return stretches


def _places(moments: Iterable[datetime]) -> dict[datetime, float]:
    """Where moments stand, in percent: half by time, and each step between two has a share besides."""
    ordered = sorted(set(moments))
    share = min(4.0, 50 / (len(ordered) - 1))
    by_time = 100 - share * (len(ordered) - 1)
    span = ordered[-1] - ordered[0]
    return {
        moment: share * index + by_time * ((moment - ordered[0]) / span)
        for index, moment in enumerate(ordered)
    }


def _drawn(
    segment: Segment, start: datetime, end: datetime, places: dict[datetime, float], names: dict[str, str]
) -> SafeString:
    """The label is a drawing inside the drawing, which cuts off what is wider than the segment."""
    x, width = places[start], places[end] - places[start]
    seconds = (segment.end - segment.start).total_seconds() if segment.end else None
    known = gettext("{phase}: {label}, {duration}") if seconds is not None else gettext("{phase}: {label}")
    is_flat = segment.kind in ("waiting", "backing_off")
    y, height, baseline = (36, 4, 14) if is_flat else (17, 42, 26)
    mark = _MARKS.get(segment.outcome, "")
    # A character takes about 0.65 percent of a wide screen, and two of a narrow one.
    has_room, has_room_when_narrow = ((len(segment.label) + 2) * percent < width for percent in (0.65, 2))
    label = format_html(
        '<text{} x="{}" y="{}">{}</text>',
        SafeString("" if has_room_when_narrow else ' class="jobs-wide"'),
        *(20 if mark else 8, baseline, segment.label),
    )
    return format_html(
        '<g class="jobs-segment jobs-segment-{0}"><title>{1}</title>'
        '<rect x="{2}%" width="{3}%" y="{4}" height="{5}" rx="2"/>'
        '<svg x="{2}%" width="{3}%" y="16" height="44"><text x="4" y="{6}">{7}</text>{8}</svg></g>',
        _phase(segment),
        known.format(
            phase=names.get(_phase(segment), segment.outcome),
            label=segment.label,
            duration="" if seconds is None else duration_text(seconds),
        ),
        *(place(x), place(width), y, height, baseline, mark, label if has_room else ""),
    )


def _now_mark(percent: float) -> SafeString:
    return format_html(
        '<line class="jobs-now" x1="{0}%" x2="{0}%" y1="14" y2="64"/>'
        '<text class="jobs-tick" x="{0}%" y="10" text-anchor="{1}">{2}</text>',
        *(place(percent), "end" if percent > 90 else "start" if percent < 10 else "middle", gettext("now")),
    )
