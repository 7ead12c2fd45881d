"""The jobs of a search in pages, and how many there are, at a bounded cost."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import chain, product
from typing import Any
from uuid import UUID

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import (
    BooleanField,
    Case,
    F,
    Func,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Value,
    When,
)
from django.db.models.sql.compiler import SQLCompiler

from ..models import Job
from ..models.counting import IdsOf, bounded_counts, selected
from ..models.querysets import literally
from ..models.tallies import totals
from ..models.workers import MOST_COUNTED
from ..states import FAILED, TERMINAL, Status
from .conditions import WORD, Condition, any_row, holds, id_span, owners, tasks
from .language import HIGHEST, LOWEST, Search

MOST_LOOKED_THROUGH = 10_000
"""Rows that one page looks through at most when no index answers all of its search; of a queue or a task as
many in each state, of which mostly one has nearly all."""

MOST_LISTED = 200

_MOST_STRANDS = 30
_NOT_LISTED = (
    *("result", "result_error", "traceback", "live_log", "meta", "stages", "stage_names"),
    *("retry_intervals", "unique_key", "delivered_epoch"),
)
_COUNTABLE = frozenset({"queue", "task", "subject", "owner", "id", "status", "fingerprint"})


@dataclass(frozen=True, slots=True)
class Page:
    """Some jobs of a search, newest first.

    `older` and `newer` are the `before` and `after` of the pages beside it; None where there are none.
    `looked_until` is set where the page ended before it was full: the moment to which was looked so far.
    """

    jobs: list[Job]
    older: UUID | None
    newer: UUID | None
    looked_until: datetime | None


def page(
    jobs: QuerySet[Job],
    search: Search,
    *,
    before: UUID | None = None,
    after: UUID | None = None,
    size: int = 50,
) -> Page:
    """The newest of these jobs that are meant, or the newest `before` this id, or the oldest `after` it.

    The queryset tells which jobs may be seen, and what else is read of them. No index helps with what it
    filters, as it does with `search.where("owner", …)`.
    """
    if before is not None and after is not None:
        raise ValueError("Both before= and after= are given; a page has one of them.")
    if type(size) is not int or not 1 <= size <= MOST_LISTED:
        raise ValueError(f"size is {size!r}; allowed is a whole number from 1 to {MOST_LISTED}.")
    lower, upper = search.span
    if before is not None:
        upper = min(upper, _beside(before, -1))
    if after is not None:
        lower = max(lower, _beside(after, 1))
    newest_first = after is None
    way, edge = _best(_ways(jobs, search, _owners(search, jobs.db)), jobs.db, lower, upper, newest_first)
    if edge is not None:
        lower, upper = (edge, upper) if newest_first else (lower, edge)
    strands = enumerate(way.rows(jobs.db, lower, upper, newest_first))
    found = selected({number: IdsOf(rows[: size + 1]) for number, rows in strands}, jobs.db)
    ids = sorted({UUID(each) for listed in found.values() for each in listed or ()}, reverse=newest_first)
    onward = ids[size - 1] if len(ids) > size else edge
    looked_until = moment_of(edge) if edge is not None and len(ids) <= size else None
    listed = list(jobs.filter(pk__in=ids[:size]).defer(*_NOT_LISTED).order_by("-pk"))
    if after is not None:
        return Page(listed, ids[0] if ids else _beside(after, 1), onward, looked_until)
    if before is not None:
        return Page(listed, onward, ids[0] if ids else _beside(before, -1), looked_until)
    return Page(listed, onward, None, looked_until)


def strands(
    jobs: QuerySet[Job], search: Search, after: UUID | None = None, to: UUID | None = None
) -> list[QuerySet[Job]] | None:
    """All of these jobs that are meant, oldest first in each of these querysets, which are ranges of one
    index; None where no index answers the whole search."""
    if any(each.qualifier == WORD for each in search.conditions):  # One job may be in several.
        return None
    lower, upper = search.span
    lower, upper = max(lower, _beside(after, 1) if after else lower), min(upper, to or upper)
    ways = (way for way in _ways(jobs, search, _owners(search, jobs.db)) if not way.rest)
    return next((list(way.rows(jobs.db, lower, upper, newest_first=False)) for way in ways), None)


def counts(jobs: QuerySet[Job], search: Search) -> dict[str, int] | None:
    """How many jobs in each state are meant, up to `MOST_COUNTED`; the states in the search do not matter.

    States whose jobs cannot be counted at a bounded cost are left out, for example the finished ones of an
    owner who has many; where no index helps the answer is None. Those that have ended are told exactly,
    and not counted, if a queue is all that is asked for, or nothing.
    """
    conditions = tuple(each for each in search.conditions if each.qualifier != "status")
    search = replace(search, conditions=conditions)
    if jobs.query.has_filters() or any(
        each.negated or each.qualifier not in _COUNTABLE for each in conditions
    ):
        return None
    told = _tallied(search)
    owners = _owners(search, jobs.db)
    lower, upper = search.span
    if not told:
        first, *_ = _ways(jobs, search, owners)
        if first.has_mixed_states and first.edge(_edges([first], jobs.db, lower, upper)) is None:
            return _counted(first, jobs.db, lower, upper)
    asked = [status for status in Status.values if status not in told]
    ways = {status: _ways(jobs, search.where("status", status), owners) for status in asked}
    unsure = [each for each in ways.values() if all(way.rest for way in each)]
    edges = _edges(chain.from_iterable(unsure), jobs.db, lower, upper)
    querysets: dict[tuple[str, int], QuerySet[Job]] = {}
    for status, each in ways.items():
        way = next((way for way in each if not way.rest), None)
        way = way or next((way for way in each if way.edge(edges) is None), None)
        if way is not None:
            rows = way.rows(jobs.db, lower, upper)
            querysets |= {(status, number): strand for number, strand in enumerate(rows)}
            told[status] = 0
    for (status, _), count in bounded_counts(querysets).items():
        told[status] = min(told[status] + count, MOST_COUNTED)
    return {status: told[status] for status in Status.values if status in told}


def moment_of(job_id: UUID) -> datetime:
    """When the job of this id was enqueued: the beginning of the id."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=job_id.int >> 80)


def _counted(way: "_Way", alias: str, lower: UUID, upper: UUID) -> dict[str, int]:
    """How many jobs of a way stand in each state, if they are so few that all may be looked at."""
    found: Counter[str] = Counter()
    for rows in way.rows(alias, lower, upper):
        found.update(rows.values_list("status", flat=True)[: way.share])
    return {status: min(found[status], MOST_COUNTED) for status in Status.values}


@dataclass(frozen=True, slots=True)
class _Strand:
    """The jobs with these values in the first columns of an index, which goes on with the id."""

    columns: tuple[str, ...] = ()
    values: tuple[Any, ...] = ()
    lower: UUID = LOWEST
    upper: UUID = HIGHEST

    def rows(self, alias: str, lower: UUID, upper: UUID, newest_first: bool = True) -> QuerySet[Job]:
        """Those of them from `lower` to `upper`, in the order of their ids."""
        # Ordered by what is the same in all of them, too: only this index has that order. The order of the
        # id alone has the primary key as well, and PostgreSQL takes it where it believes that the next failed
        # job is not far, as they are not on average; but there may have been none for a week.
        same = dict(zip(self.columns, self.values, strict=True))
        order = [*self.columns[:1], "pk"]
        leading = [_Is(F(column), Value(same.pop(column))) for column in self.columns[:1]]
        jobs = Job.objects.using(alias).filter(
            *leading,
            *(_PARTIAL[column] for column in self.columns if column in _PARTIAL),
            **same,
            pk__gte=max(lower, self.lower),
            pk__lte=min(upper, self.upper),
        )
        return jobs.order_by(*(f"-{column}" if newest_first else column for column in order))


# What these indexes leave out.
_PARTIAL = {
    "subject": ~Q(subject=""),
    "owner": Q(owner__isnull=False),
    "fingerprint": Q(status=literally(FAILED)),
}


@dataclass(frozen=True, slots=True)
class _Way:
    """A way to find the jobs of a search: the strands they are in, and what else they must meet."""

    strands: tuple[_Strand, ...]
    rest: tuple[Any, ...]

    @property
    def has_mixed_states(self) -> bool:
        """True if its strands are all that is asked for, and do not tell the states apart."""
        return not self.rest and not any("status" in strand.columns for strand in self.strands)

    @property
    def share(self) -> int:
        """How many rows of each strand may be looked through."""
        return MOST_LOOKED_THROUGH // max(1, len({strand.values[:1] for strand in self.strands}))

    def rows(
        self, alias: str, lower: UUID, upper: UUID, newest_first: bool = True
    ) -> Iterator[QuerySet[Job]]:
        for strand in self.strands:
            yield strand.rows(alias, lower, upper, newest_first).filter(*self.rest)

    def edge(
        self, edges: Mapping[tuple[_Strand, int], UUID | None], newest_first: bool = True
    ) -> UUID | None:
        """The last id to which may be looked; None if all may be."""
        left = [edge for strand in self.strands if (edge := edges[strand, self.share]) is not None]
        if not left:
            return None
        return _beside(max(left), 1) if newest_first else _beside(min(left), -1)


def _best(
    ways: list[_Way], alias: str, lower: UUID, upper: UUID, newest_first: bool
) -> tuple[_Way, UUID | None]:
    """One without a rest, else the one that reaches furthest; and how far that is."""
    for way in ways:
        if not way.rest:
            return way, None
    edges = _edges(ways, alias, lower, upper, newest_first)
    best, *others = [(way, way.edge(edges, newest_first)) for way in ways]
    for way, edge in others:
        if best[1] is not None and (edge is None or (edge < best[1]) == newest_first):
            best = way, edge
    return best


def _owners(search: Search, alias: str) -> dict[str, list[Any]]:
    """Whom the names in a search mean."""
    names = {each.value for each in search.conditions if each.qualifier == "owner"}
    return {name: list(owners(name, alias)) for name in names}


def _ways(jobs: QuerySet[Job], search: Search, owners: Mapping[str, list[Any]]) -> list[_Way]:
    tests = {condition: holds(condition, jobs.db) for condition in search.conditions}
    limits: list[Any] = []
    if jobs.query.has_filters():
        seen = any_row(jobs.filter(pk=OuterRef("pk")))
        limits = [Case(When(seen, then=True), default=False, output_field=BooleanField())]
    ranges = {each for each in search.conditions if each.qualifier == "id" and not each.negated}
    return [
        _Way(
            tuple(strands),
            (*limits, *(test for condition, test in tests.items() if condition not in met | ranges)),
        )
        for met, strands in _strands(search, owners)
        if len(strands) <= _MOST_STRANDS
    ]


def _strands(
    search: Search, owners: Mapping[str, list[Any]]
) -> Iterator[tuple[set[Condition], list[_Strand]]]:
    """Conditions that are met by all jobs of some strands, and only by them."""
    of_states = {each for each in search.conditions if each.qualifier == "status"}
    states = [
        status
        for status in Status.values
        if all((each.value == status) != each.negated for each in of_states)
    ]
    for condition in search.conditions:
        value = condition.value
        if condition.negated:
            continue
        if condition.qualifier == "subject":
            yield {condition}, [_Strand(("subject",), (value,))]
        elif condition.qualifier == "owner":
            yield {condition}, [_Strand(("owner",), (owner,)) for owner in owners[value]]
        elif condition.qualifier == "fingerprint":
            met = {condition, *of_states} if FAILED in states else {condition}
            yield met, [_Strand(("fingerprint",), (value,))]
        elif condition.qualifier == "task" and (names := tasks(value)):
            yield {condition, *of_states}, _of_tasks(names, states)
        elif condition.qualifier == "queue":
            yield (
                {condition, *of_states},
                [_Strand(("queue", "status"), (value, status)) for status in states],
            )
        elif condition.qualifier == WORD and (names := tasks(value)):
            strands = [
                _Strand(("subject",), (value,)),
                *_of_tasks(names, states),
            ]
            if span := id_span(value):
                strands.append(_Strand(lower=span[0], upper=span[1]))
            yield {condition}, strands
    if of_states:
        yield of_states, [_Strand(("status",), (status,)) for status in states]
    yield set(), [_Strand()]


def _of_tasks(names: Iterable[str], states: Iterable[str]) -> list[_Strand]:
    return [_Strand(("task", "status"), each) for each in product(names, states)]


def _edges(
    ways: Iterable[_Way], alias: str, lower: UUID, upper: UUID, newest_first: bool = True
) -> dict[tuple[_Strand, int], UUID | None]:
    """The first row of each strand that is not looked through any more; None if all are."""
    asked = list(dict.fromkeys((strand, way.share) for way in ways for strand in way.strands))
    subqueries = [
        Subquery(strand.rows(alias, lower, upper, newest_first).values("pk")[most : most + 1])
        for strand, most in asked
    ]
    # Selected beside any one job: where there is none, there is nothing to look through.
    answer = Job.objects.using(alias).values_list(*subqueries).first() if asked else None
    return dict(zip(asked, answer or [None] * len(asked), strict=True))


def _tallied(search: Search) -> dict[str, int]:
    """How many jobs ended how, where tallies tell it."""
    if search.since or search.until or any(each.qualifier != "queue" for each in search.conditions):
        return {}
    queues = {each.value for each in search.conditions}
    if len(queues) > 1:
        return {}
    told: dict[str, int] = dict.fromkeys(sorted(TERMINAL), 0)
    for (_, status), total in totals(*queues).items():
        told[status] += total
    return told


def _beside(job_id: UUID, step: int) -> UUID:
    return UUID(int=min(max(job_id.int + step, LOWEST.int), HIGHEST.int))


class _Is(Func):
    """True where a column has this value."""

    template = "%(expressions)s"
    arg_joiner = " = "
    output_field = BooleanField()

    def as_postgresql(
        self, compiler: SQLCompiler, connection: BaseDatabaseWrapper
    ) -> tuple[str, Sequence[Any]]:
        # After col = 'x' PostgreSQL knows that col is the same in all rows, and forgets to order by it.
        return super().as_sql(compiler, connection, template="%(expressions)s])", arg_joiner=" = ANY(ARRAY[")
