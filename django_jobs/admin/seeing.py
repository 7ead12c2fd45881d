"""What a user may see of jobs: the values they were called with and made, and what may hold such values."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from django.db.models import Case, QuerySet, TextField, When
from django.db.models.functions import Cast, Length
from django.db.models.lookups import LessThanOrEqual
from django.utils.formats import number_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext

from .. import registry, searching
from ..exceptions import SearchError
from ..fingerprints import project_frames
from ..models import Job
from ..models.workers import MOST_COUNTED
from ..redaction import MASK, redact, redact_text
from ..searching import Search
from .base import Parameters, call_text, redacted_call
from .permissions import holds

LONGEST_LISTED = 10_000
"""Of how many characters, as JSON, arguments are read for a list at most, which shows few of them."""
LONGEST_CALL = 500
"""How many characters of a call stand on top of its page; all of its arguments stand below."""
FOLDED_CHARACTERS = 2_000
"""Longer values are folded."""
MOST_SHOWN = 100_000
"""Of longer values this is the begin, in characters: megabytes stop a browser."""


@dataclass(frozen=True)
class Shown:
    """A JSON value as text."""

    name: str
    whole: str

    @property
    def text(self) -> str:
        return cut(self.whole)

    @property
    def is_big(self) -> bool:
        return len(self.whole) > FOLDED_CHARACTERS

    @property
    def size(self) -> str:
        count = len(self.whole)
        said = ngettext("{count} character", "{count} characters", count)
        return said.format(count=number_format(count, force_grouping=True))


def may_see_values(user: Any) -> bool:
    """Whether a user may see arguments, results, tracebacks and logs."""
    return bool(user.has_perm("django_jobs.view_job_arguments"))


def may_see_workers(user: Any) -> bool:
    """Whether a user may see which worker runs or ran a job."""
    return holds(user, "view_worker")


def long_call(job: Job, user: Any) -> str:
    """The call as code, masked, with arguments only for who may see them."""
    return redacted_call(job, LONGEST_CALL) if may_see_values(user) else f"{job.task}(…)"


def short_call(job: Job, user: Any, parameters: Parameters = registry.parameters) -> str:
    """The same in the space of a list's column, without the module."""
    return call_text(job, parameters) if may_see_values(user) else f"{job.task.rpartition('.')[2]}(…)"


def parsed(text: str, user: Any) -> Search:
    """The search of this user; raises `SearchError`, also where it asks for what the user may not see."""
    search = searching.parse(text)
    if search.asks_for("args.") and not may_see_values(user):
        raise SearchError(gettext("Searching for arguments takes the permission to see them."))
    if search.asks_for("worker") and not may_see_workers(user):
        raise SearchError(gettext("Searching for workers takes the permission to see them."))
    return search


def shown_search(text: str, user: Any) -> str:
    """The search of somebody else: the values of arguments are for those who may see them, secrets for
    nobody."""
    try:
        return redact_text(text if may_see_values(user) else searching.without_arguments(text))
    except SearchError:  # Not understood any more, as after a change of settings.
        return MASK


def total_text(*counts: int) -> str:
    """The sum of what `searching.counts` tells; it has counted to `MOST_COUNTED`, and knows other totals."""
    number = number_format(sum(counts), force_grouping=True)
    return gettext("{number}+").format(number=number) if MOST_COUNTED in counts else number


def listed(jobs: QuerySet[Job], user: Any) -> QuerySet[Job]:
    """These jobs with what `short_call` needs: no arguments that are long, or that the user may not see."""
    jobs = jobs.defer("args", "kwargs")
    if not may_see_values(user):
        return jobs
    size = Length(Cast("args", TextField())) + Length(Cast("kwargs", TextField()))
    is_short = LessThanOrEqual(size, LONGEST_LISTED)
    return jobs.annotate(**{f"short_{name}": Case(When(is_short, then=name)) for name in ("args", "kwargs")})


def named_arguments(task: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The arguments with the names of their parameters, as far as these are known; else with their places."""
    names = (registry.parameters(task) if args else None) or []
    named = [(names[place] if place < len(names) else str(place), value) for place, value in enumerate(args)]
    return [*named, *kwargs.items()]


def masked(name: str, value: Any) -> Any:
    """A JSON value with its secrets masked; all of it if that is what goes by such a name."""
    return redact({name: value})[name]


def cut(text: str) -> str:
    """The beginning of a text; of a long one it says so."""
    if len(text) <= MOST_SHOWN:
        return text
    shown, count = (number_format(number, force_grouping=True) for number in (MOST_SHOWN, len(text)))
    said = gettext("… These are the first {shown} of {count} characters.").format(shown=shown, count=count)
    return f"{text[:MOST_SHOWN]}\n{said}"


def marked_traceback(text: str) -> SafeString:
    """A traceback with its secrets masked and the frames of the project marked."""
    parts = groupby(project_frames(redact_text(text).rstrip("\n")), lambda line: line[1])
    return format_html_join(
        "",
        "{}",
        (
            (
                format_html('<span class="jobs-own">{}</span>', _joined(lines))
                if is_own
                else f"{_joined(lines)}\n",
            )
            for is_own, lines in parts
        ),
    )


def _joined(lines: Iterable[tuple[str, bool]]) -> str:
    return "\n".join(line for line, _ in lines)


def json_text(value: Any) -> str:
    """Pretty, and null for None, in the order in which it is stored."""
    return json.dumps(value, indent=2, ensure_ascii=False)
