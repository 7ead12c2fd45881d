"""The language of searches: qualifiers, quotations, times."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from uuid import UUID

from django.db.models import QuerySet
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime
from django.utils.formats import number_format
from django.utils.translation import gettext

from ..exceptions import SearchError
from ..models import Job
from ..redaction import MASK, is_secret, redact
from ..states import Status
from ..values import is_storable, short
from .conditions import ATTEMPT, WORD, Condition, holds, id_span, json_values, path

MOST_CHARACTERS = 1_000
MOST_CONDITIONS = 20

QUALIFIERS = {
    "args.": "args.file_id:42",
    "attempt": "attempt:>1",
    "engine": "engine:rq",
    "error": "error:Timeout",
    "fingerprint": "fingerprint:0123456789abcdef0123456789abcdef",
    "id": "id:019a3c5e",
    "owner": "owner:alice",
    "queue": "queue:mail",
    "since": "since:2h",
    "status": "status:failed",
    "subject": "subject:file:42",
    "tag": "tag:import",
    "task": "task:documents.tasks.*",
    "until": "until:2026-01-31T18:00",
    "worker": "worker:w1",
}
"""What may stand before a colon, each with an example."""

_NAMES = [name for name in QUALIFIERS if name != "args."]
_TOKEN = re.compile(
    r"""
    (?P<minus>-?)
    (?:(?P<qualifier>[^\s:"]+):)?
    (?:"(?P<quotation>(?:[^"\\]|\\.)*)"(?=\s|\Z)|(?P<plain>[^\s"]\S*))?
    """,
    re.DOTALL | re.VERBOSE,
)
_AGO = re.compile(r"(\d{1,6})([smhdw])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_1970 = datetime(1970, 1, 1, tzinfo=UTC)
LOWEST, HIGHEST = UUID(int=0), UUID(int=2**128 - 1)


@dataclass(frozen=True, slots=True)
class Search:
    """What to search for: jobs that meet all conditions, enqueued from `since` on and before `until`."""

    conditions: tuple[Condition, ...] = ()
    since: datetime | None = None
    until: datetime | None = None

    def __bool__(self) -> bool:
        return bool(self.conditions or self.since or self.until)

    def asks_for(self, qualifier: str) -> bool:
        """Whether the qualifier of any condition begins so: `args.` for arguments, `worker` for workers."""
        return any(each.qualifier.startswith(qualifier) for each in self.conditions)

    def where(self, qualifier: str, value: str) -> "Search":
        """This search with one condition more. The value is taken as text, whatever it contains."""
        return replace(self, conditions=(*self.conditions, Condition(qualifier, value, quoted=True)))

    def apply(self, jobs: QuerySet[Job]) -> QuerySet[Job]:
        """Those of these jobs that are meant. Not bounded: `monitor.in_pages` takes it, a page does not."""
        lower, upper = self.span
        jobs = jobs.filter(pk__gte=lower, pk__lte=upper)
        for condition in self.conditions:
            jobs = jobs.filter(holds(condition, jobs.db))
        return jobs

    @property
    def span(self) -> tuple[UUID, UUID]:
        """The lowest and the highest id that may be meant: an id begins with the time of its enqueue."""
        lower, upper = LOWEST, HIGHEST
        if self.since:
            lower = _first_id(self.since)
        if self.until:
            upper = UUID(int=max(0, _first_id(self.until).int - 1))
        for condition in self.conditions:
            if condition.qualifier == "id" and not condition.negated:
                span = id_span(condition.value)
                lower, upper = (max(lower, span[0]), min(upper, span[1])) if span else (HIGHEST, LOWEST)
        return lower, upper


def parse(text: str) -> Search:
    """Understand a search; raises `SearchError`. Times without a zone are in the current one."""
    if not is_storable(text):
        raise SearchError(
            gettext("The search contains a NUL character or half a surrogate pair, which no job does.")
        )
    conditions: list[Condition] = []
    since = until = None
    for condition in _conditions(text):
        _check(condition)
        if condition.qualifier == "since":
            since = max(filter(None, (since, _moment(condition))))
        elif condition.qualifier == "until":
            until = min(filter(None, (until, _moment(condition))))
        else:
            conditions.append(condition)
    if len(conditions) > MOST_CONDITIONS:
        raise SearchError(
            gettext("The search has {count} conditions; at most {most} are allowed.").format(
                count=len(conditions), most=MOST_CONDITIONS
            )
        )
    return Search(tuple(conditions), since, until)


def asked_for(text: str) -> dict[str, str]:
    """The value of each qualifier as it is written in a search, without the negated ones."""
    return {each.qualifier: each.value for each in _conditions(text) if not each.negated}


def replaced(text: str, values: Mapping[str, str]) -> str:
    """A search with other values for these qualifiers, an empty one for none. The negated ones stay."""
    kept = [each for each in _conditions(text) if each.negated or each.qualifier not in values]
    new = [Condition(qualifier, value) for qualifier, value in values.items() if value]
    return " ".join(map(_written, [*kept, *new]))


def without_arguments(text: str) -> str:
    """A search with the values masked that it looks for in arguments."""
    return " ".join(
        _written(replace(each, value=MASK) if each.qualifier.startswith("args.") else each)
        for each in _conditions(text)
    )


def among_arguments(text: str) -> str:
    """This search with its last bare word looked for in the arguments, without the others; or with what it
    looks for in the argument of a name looked for in the first one; or nothing."""
    conditions = list(_conditions(text))
    words = [each for each in conditions if each.qualifier == WORD and not each.negated]
    if words:
        name, colon, value = words[-1].value.partition(":")
        is_named = colon and value and re.fullmatch(r"[A-Za-z_]\w*", name)
        meant = Condition(f"args.{name}", value) if is_named else Condition("args.0", words[-1].value)
    else:
        words = [each for each in conditions if re.fullmatch(r"args\.[A-Za-z_]\w*", each.qualifier)][-1:]
        if not words or words[0].negated:
            return ""
        meant = replace(words[0], qualifier="args.0")
    return " ".join(map(_written, [*(each for each in conditions if each not in words), meant]))


def _written(condition: Condition) -> str:
    qualifier, value = condition.qualifier, condition.value
    minus = "-" if condition.negated else ""
    is_misread = not (minus or qualifier) and value.startswith("-")
    if condition.quoted or is_misread or not re.fullmatch(r'[^\s"]\S*', value):
        escaped = re.sub(r'(["\\])', r"\\\1", value)
        value = f'"{escaped}"'
    return f"{minus}{qualifier and f'{qualifier}:'}{value}"


def _conditions(text: str) -> Iterator[Condition]:
    if len(text) > MOST_CHARACTERS:
        raise SearchError(
            gettext("The search has {count} characters; at most {most} are allowed.").format(
                count=number_format(len(text), force_grouping=True),
                most=number_format(MOST_CHARACTERS, force_grouping=True),
            )
        )
    text = text.strip()
    while text and (found := _TOKEN.match(text)):
        rest = text[found.end() :]
        quotation, plain = found["quotation"], found["plain"]
        if rest.startswith('"'):
            raise SearchError(
                gettext("A quotation is not closed, or text follows it at once: {text}").format(
                    text=short(text, 50)
                )
            )
        if quotation is None and plain is None:
            if found["qualifier"] is None:
                raise SearchError(
                    gettext('"{text}" has nothing to search for; quote what begins with a - or :.').format(
                        text=short(text, 50)
                    )
                )
            raise _without_value(short(found[0], 50), found["qualifier"])
        yield _condition(found)
        text = rest.lstrip()


def _condition(found: re.Match[str]) -> Condition:
    qualifier, quotation, plain = found["qualifier"], found["quotation"], found["plain"]
    value = plain if quotation is None else re.sub(r"\\(.)", r"\1", quotation, flags=re.DOTALL)
    if qualifier and qualifier not in _NAMES and not qualifier.startswith("args."):
        # A subject, such as file:42; but a misspelled qualifier would find nothing, and not say why.
        if meant := get_close_matches(qualifier, _NAMES, n=1, cutoff=0.7):
            raise SearchError(
                gettext(
                    'Unknown qualifier "{found}"; did you mean "{meant}"? '
                    "For a subject write subject:{subject}."
                ).format(
                    found=short(qualifier, 50),
                    meant=meant[0],
                    subject=short(found[0].removeprefix("-"), 50),
                )
            )
        qualifier, value = WORD, f"{qualifier}:{value}"
    return Condition(qualifier or WORD, value, bool(found["minus"]), quotation is not None)


def _without_value(text: str, qualifier: str) -> SearchError:
    known = "args." if qualifier.startswith("args.") else qualifier
    return SearchError(
        gettext("{text} has no value; for example {example}.").format(
            text=text, example=QUALIFIERS.get(known, "subject:file:42")
        )
    )


def _check(condition: Condition) -> None:
    """Raise `SearchError` for a value that its qualifier does not know."""
    qualifier, value = condition.qualifier, short(condition.value, 50)
    if not value:
        raise _without_value(f'{qualifier and qualifier + ":"}""', qualifier)
    if qualifier == "status" and value not in Status.values:
        raise SearchError(_unknown_status(value))
    if qualifier == "attempt" and not ATTEMPT.fullmatch(value):
        text = gettext("attempt:{value} is no number; write attempt:2, attempt:>1 or attempt:<=3.")
        raise SearchError(text.format(value=value))
    if qualifier == "id" and id_span(value) is None:
        text = gettext("id:{value} is no id; write all of it or its first characters, 8 or more.")
        raise SearchError(text.format(value=value))
    if qualifier == "task" and "*" in condition.value.strip("*"):
        text = gettext("task:{value} has a * in its middle; allowed is one at the begin and at the end.")
        raise SearchError(text.format(value=value))
    if qualifier == "task" and not condition.value.strip("*"):
        raise SearchError(gettext("task:{value} means every task; leave it out.").format(value=value))
    if qualifier in ("since", "until") and condition.negated:
        other = "until" if qualifier == "since" else "since"
        text = gettext("-{qualifier}:{value} cannot be; write {other}:{value}.")
        raise SearchError(text.format(qualifier=qualifier, value=value, other=other))
    if qualifier.startswith("args."):
        _check_shown(condition)


def _check_shown(condition: Condition) -> None:
    """Raise `SearchError` for an argument that is masked wherever it is shown: searches could guess it."""
    for key in filter(is_secret, path(condition.qualifier)):
        text = gettext("{name} is the name of a secret; it is masked, and not searched for.")
        raise SearchError(text.format(name=short(key, 50)))
    if any(redact(value) != value for value in json_values(condition)):
        text = gettext("The value of {name} holds a secret; it is masked, and not searched for.")
        raise SearchError(text.format(name=short(condition.qualifier, 50)))


def _unknown_status(value: str) -> str:
    if meant := get_close_matches(value, Status.values, n=1):
        return gettext('Unknown status "{found}"; did you mean "{meant}"?').format(
            found=value, meant=meant[0]
        )
    known = ", ".join(Status.values)
    return gettext('Unknown status "{found}"; known are: {known}.').format(found=value, known=known)


def _moment(condition: Condition) -> datetime:
    name, value = condition.qualifier, condition.value
    try:
        if ago := _AGO.fullmatch(value):
            return timezone.now() - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        if day := parse_date(value):
            # A last day is meant as a whole.
            moment: datetime | None = datetime(day.year, day.month, day.day) + timedelta(days=name == "until")  # noqa: DTZ001
        else:
            moment = parse_datetime(value)
        if moment:
            return (timezone.make_aware(moment) if timezone.is_naive(moment) else moment).astimezone(UTC)
    except (ValueError, OverflowError):
        pass  # Told as what is no time at all.
    raise SearchError(
        gettext(
            "{name}:{value} is no time; write {name}:90s, {name}:15m, {name}:2h, {name}:3d, {name}:1w, "
            "{name}:2026-01-31 or {name}:2026-01-31T18:00."
        ).format(name=name, value=short(value, 50))
    )


def _first_id(moment: datetime) -> UUID:
    """The lowest id that a job enqueued at this moment may have."""
    milliseconds = (moment - _1970) // timedelta(milliseconds=1)
    return UUID(int=max(0, milliseconds) << 80)
