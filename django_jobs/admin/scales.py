"""Axes of the charts: where a value stands, which values are marked, and how they are written."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils.formats import date_format, number_format
from django.utils.timezone import localtime
from django.utils.translation import gettext

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_DURATION_STEPS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30),
    *(_MINUTE, 2 * _MINUTE, 5 * _MINUTE, 10 * _MINUTE, 15 * _MINUTE, 30 * _MINUTE),
    *(_HOUR, 2 * _HOUR, 6 * _HOUR, 12 * _HOUR, _DAY, 2 * _DAY, 7 * _DAY, 30 * _DAY),
)
_DURATION_DECADES = (0.001, 0.01, 0.1, 1, 10, 60, 600, _HOUR, 6 * _HOUR, _DAY, 7 * _DAY, 70 * _DAY)
_TIME_STEPS = [
    timedelta(minutes=minutes)
    for minutes in (1, 2, 5, 10, 15, 30, 60, 120, 240, 360, 720, 1440, 2880, 10080, 40320)
]


@dataclass(frozen=True)
class Axis:
    """From the first mark at the foot to the last one at the top."""

    marks: tuple[float, ...]
    log: bool = False

    def height(self, value: float) -> float:
        """How far above the foot, in percent; what is beyond the ends stands at the end."""
        foot, top = self.marks[0], self.marks[-1]
        value = min(max(value, foot), top)
        if self.log:
            return 100 * math.log(value / foot) / math.log(top / foot)
        return 100 * (value - foot) / (top - foot)


def count_axis(most: int) -> Axis:
    """About four whole, round numbers from 0."""
    step = 10 ** max(0, math.floor(math.log10(max(most, 1) / 4))) if most > 4 else 1
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step * 4 >= most)
    return _from_zero(step, most)


def duration_axis(seconds: Iterable[float], *, log: bool = False) -> Axis:
    """Of the durations to show: from 0 in equal steps, or in steps of about ten times each."""
    shown = [value for value in seconds if value > 0] or [1.0]
    least, most = min(shown), max(shown)
    if not log:
        step = next((step for step in _DURATION_STEPS if step * 4 >= most), most / 4)
        return _from_zero(step, most)
    foot = max((mark for mark in _DURATION_DECADES[:-1] if mark <= least), default=_DURATION_DECADES[0])
    top = next((mark for mark in _DURATION_DECADES if mark >= most and mark > foot), most)
    return Axis((*(mark for mark in _DURATION_DECADES if foot <= mark < top), top), log=True)


def time_marks(moments: Sequence[datetime], *, most: int = 7) -> list[tuple[datetime, str]]:
    """The moments that begin a round stretch of local time, with their texts."""
    step = next((step for step in _TIME_STEPS if moments[-1] - moments[0] <= step * most), _TIME_STEPS[-1])
    form = "TIME_FORMAT" if step < timedelta(days=1) else "MONTH_DAY_FORMAT"
    stretches = [divmod(localtime(moment).replace(tzinfo=None) - _EPOCH, step) for moment in moments]
    marked = [
        moment
        for index, (moment, (stretch, rest)) in enumerate(zip(moments, stretches, strict=True))
        if (stretch != stretches[index - 1][0] if index else not rest)
    ]
    return [(moment, date_format(localtime(moment), form)) for moment in marked or moments[:1]]


_EPOCH = datetime(1970, 1, 4)  # noqa: DTZ001 - Local time; a Sunday, for steps of weeks.


def count_text(value: float) -> str:
    """In the width of an axis: 1200 is "1.2 k"."""
    if value >= 1_000_000:
        return gettext("{number} M").format(number=_number(value / 1_000_000))
    if value >= 1_000:
        return gettext("{number} k").format(number=_number(value / 1_000))
    return _number(value)


def duration_text(seconds: float) -> str:
    """In the largest unit that leaves at least one of it."""
    if seconds >= _DAY:
        return gettext("{number} d").format(number=_number(seconds / _DAY))
    if seconds >= _HOUR:
        return gettext("{number} h").format(number=_number(seconds / _HOUR))
    if seconds >= _MINUTE:
        return gettext("{number} min").format(number=_number(seconds / _MINUTE))
    if seconds >= 1 or not seconds:
        return gettext("{number} s").format(number=_number(seconds))
    return gettext("{number} ms").format(number=_number(seconds * 1000))


def moment_text(moment: datetime) -> str:
    """Local, to the second; Django's own formats end at minutes."""
    here = localtime(moment)
    return gettext("{date} {time}").format(
        date=date_format(here, "SHORT_DATE_FORMAT"), time=f"{here:%H:%M:%S}"
    )


def _from_zero(step: float, most: float) -> Axis:
    return Axis(tuple(step * index for index in range(max(1, math.ceil(most / step - 1e-9)) + 1)))


def _number(value: float) -> str:
    """At most one digit after the point, in the language's own writing."""
    rounded = round(value, 1)
    return number_format(int(rounded) if rounded == int(rounded) else rounded)
