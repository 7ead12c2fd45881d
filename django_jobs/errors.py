"""Groups of errors: what people decide about them, and how often each has come up lately.

Which failures belong to a group, and when it opens again, is in `grouping`.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.db.models.functions import Now
from django.utils import timezone

from .control.steering import check_permission
from .exceptions import NotPossible
from .models import ErrorCount, ErrorGroup
from .models.figures import start_of

_OPEN, _RESOLVED, _IGNORED = ErrorGroup.State.OPEN, ErrorGroup.State.RESOLVED, ErrorGroup.State.IGNORED


def resolve(group: ErrorGroup, by: Any = None) -> ErrorGroup:
    """Take the cause for mended: the group opens again when it comes up after this.

    Raises `NotPossible` when it is resolved already.
    """
    return _decide(group, by, "resolved", {_OPEN, _IGNORED}, state=_RESOLVED, ignored_until=None)


def ignore(group: ErrorGroup, by: Any = None, *, until: datetime | None) -> ErrorGroup:
    """Leave the group out of what is to be looked at, until then; None for ever. One that is ignored already
    is ignored until then from now on.

    Raises `NotPossible` when it is resolved, and `ValueError` for a time that is over or has no time zone.
    """
    if until is not None and (timezone.is_naive(until) or until <= timezone.now()):
        raise ValueError(
            f"until={until!r}: give a time to come, with its time zone, or None to ignore it for ever."
        )
    return _decide(group, by, "ignored", {_OPEN, _IGNORED}, state=_IGNORED, ignored_until=until)


def reopen(group: ErrorGroup, by: Any = None) -> ErrorGroup:
    """Have the group looked at again. Raises `NotPossible` when it is open already."""
    return _decide(group, by, "reopened", {_RESOLVED, _IGNORED}, state=_OPEN, ignored_until=None)


def sparklines(groups: Iterable[ErrorGroup], hours: int = 24) -> dict[str, list[int]]:
    """How often each group came up in each of the last hours, {fingerprint: counts}; the present one is the
    last. One query."""
    last = start_of("hour", timezone.now())
    first = last - timedelta(hours=hours - 1)
    lines = {group.pk: [0] * hours for group in groups}
    counts = ErrorCount.objects.filter(group__in=[*lines], start__gte=first, start__lte=last)
    for fingerprint, start, count in counts.values_list("group", "start", "count"):
        lines[fingerprint][(start - first) // timedelta(hours=1)] = count
    return lines


def _decide(group: ErrorGroup, by: Any, word: str, states: set[str], **values: Any) -> ErrorGroup:
    check_permission(by, "resolve_errorgroup")
    rows = ErrorGroup.objects.filter(pk=group.pk, state__in=states)
    changed = rows.update(**values, reopened_at=None, changed_by=by, changed_at=Now())
    try:
        group.refresh_from_db()
    except ErrorGroup.DoesNotExist:
        raise NotPossible(f"There is no group {group} any more; it was deleted.", "deleted already") from None
    if not changed:
        allowed = " or ".join(sorted(states))
        raise NotPossible(
            f"{group} is {group.state}; only {allowed} groups can be {word}.", f"is {group.state}"
        )
    return group
