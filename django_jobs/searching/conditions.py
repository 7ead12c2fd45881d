"""What a condition of a search means, as a filter."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib.auth import get_user_model
from django.db import connections
from django.db.models import BooleanField, Case, F, Func, OuterRef, Q, QuerySet, Subquery, Value, When
from django.db.models.fields.json import JSONField, KeyTransform, KeyTransformExact
from django.db.models.lookups import IsNull
from django.utils.translation import gettext

from .. import registry, sql
from ..exceptions import SearchError
from ..models import Attempt, Worker
from ..redaction import is_secret
from ..states import FAILED
from ..values import json_error, short

WORD = ""
"""The qualifier of a word that has none: an id or the beginning of one, a subject, a task."""

DEEPEST_ARGUMENT = 10
MOST_TASKS = 1_000
"""Of more tasks than these no arguments are found by their place: nobody has looked which are secret."""
ATTEMPT = re.compile(r"(>=|<=|>|<|=|)(\d{1,9})", re.ASCII)

_COMPARED = {">": "attempt__gt", ">=": "attempt__gte", "<": "attempt__lt", "<=": "attempt__lte"}
_NONE = Q(pk__in=[])
_ID = re.compile(r"[0-9a-f]{8,32}")
_POSITION = re.compile(r"\d{1,4}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Condition:
    """One word of a search: `-queue:mail` has the qualifier `queue`, the value `mail` and is negated.

    A quoted value is text: `args.file_id:42` finds the number and the text, `args.file_id:"42"` the text.
    """

    qualifier: str
    value: str
    negated: bool = False
    quoted: bool = False


def id_span(value: str) -> tuple[UUID, UUID] | None:
    """The ids that begin so; None for what is neither an id nor the beginning of one."""
    digits = value.lower().replace("-", "")
    if not _ID.fullmatch(digits):
        return None
    return UUID(hex=digits.ljust(32, "0")), UUID(hex=digits.ljust(32, "f"))


def path(qualifier: str) -> list[str]:
    """The keys that lead to an argument: `args.user.name` → user, name."""
    keys = qualifier.removeprefix("args.").split(".")
    if len(keys) > DEEPEST_ARGUMENT:
        raise SearchError(
            gettext("{name} has {count} levels; at most {most} are searched.").format(
                name=short(qualifier, 50), count=len(keys), most=DEEPEST_ARGUMENT
            )
        )
    for key in keys:
        if not key or "\\" in key or (_is_number(key) and not _POSITION.fullmatch(key)):
            raise SearchError(
                gettext(
                    '{name} contains "{key}"; allowed are names and positions up to 9999, with dots between '
                    "them, for example args.file_id:42, args.0:42 or args.user.name:x."
                ).format(name=short(qualifier, 50), key=short(key, 50))
            )
    return keys


def _is_number(key: str) -> bool:
    """True for what the databases would take for a position."""
    with suppress(ValueError):
        int(key)
        return True
    return False


def holds(condition: Condition, alias: str) -> Any:
    """The condition as an expression from which no database can tell that it would have an index.

    It would choose that one by its statistics, which know averages: where the jobs of a task have stopped a
    week ago, it reads all that came since to find one. A NULL holds no condition, and each negated one.
    """
    holds = When(_meaning(condition, alias), then=not condition.negated)
    return Case(holds, default=condition.negated, output_field=BooleanField())


def _meaning(condition: Condition, alias: str) -> Q:
    qualifier, value = condition.qualifier, condition.value
    if qualifier.startswith("args."):
        return _argument(condition, alias)
    return _MEANINGS[qualifier](value, alias)


def _argument(condition: Condition, alias: str) -> Q:
    """A keyword argument, or the positional one of that name where the signature of the task is known."""
    keys, values = path(condition.qualifier), json_values(condition)
    if _POSITION.fullmatch(keys[0]):
        return _any(Q(_at("args", keys, value)) for value in values) & _is_shown(int(keys[0]), alias)
    named = _any(Q(_at("kwargs", keys, value)) for value in values)
    for position, names in _positions(keys[0]).items():
        place = [str(position), *keys[1:]]
        named |= Q(task__in=names) & _any(Q(_at("args", place, value)) for value in values)
    return named


def _is_shown(position: int, alias: str) -> Q:
    """Without jobs of tasks of which the argument in this place is masked by its name: searches could guess
    it."""
    tasks = sql.tasks(alias, MOST_TASKS)
    named = ((task, (registry.parameters(task) or [])[position : position + 1]) for task in tasks)
    hidden = [task for task, names in named if any(map(is_secret, names))]
    shown = ~Q(task__in=hidden) if hidden else Q()
    return shown & Q(task__lte=tasks[-1]) if len(tasks) == MOST_TASKS else shown


def json_values(condition: Condition) -> list[Any]:
    """What may be meant: 42 is the number and the text, "42" in quotes the text alone."""
    value = condition.value
    if not condition.quoted:
        with suppress(ValueError, RecursionError):
            read = json.loads(value)
            if not isinstance(read, str) and json_error(read) is None:
                return [read, value]
    return [value]


def _at(column: str, keys: Sequence[str], value: Any) -> KeyTransformExact:
    place: Any = F(column)
    for key in keys:
        place = KeyTransform(key, place, output_field=JSONField())
    return KeyTransformExact(place, value)


def _positions(name: str) -> dict[int, list[str]]:
    """Where the tasks stand that have a parameter of this name."""
    found: dict[int, list[str]] = {}
    for task in registry.names():
        parameters = registry.parameters(task) or []
        if name in parameters:
            found.setdefault(parameters.index(name), []).append(task)
    return found


def _attempt(value: str, alias: str) -> Q:
    compared = ATTEMPT.fullmatch(value)
    return Q(**{_COMPARED.get(compared[1], "attempt"): int(compared[2])}) if compared else _NONE


def _error(value: str, alias: str) -> Q:
    return Q(error_type__icontains=value) | Q(error_message__icontains=value)


def _id(value: str, alias: str) -> Q:
    span = id_span(value)
    return Q(pk__range=span) if span else _NONE


def _owner(value: str, alias: str) -> Q:
    return Q(owner__in=owners(value, alias))


def owners(name: str, alias: str) -> QuerySet[Any, Any]:
    """The key of the user of this name."""
    user = get_user_model()
    found = user._base_manager.using(alias).filter(**{user.USERNAME_FIELD: name})
    return found.order_by().values_list("pk", flat=True)


def _tag(value: str, alias: str) -> Q:
    if connections[alias].features.supports_json_field_contains:
        return Q(tags__contains=[value])
    return Q(_HasItem(F("tags"), Value(value)))


def _task(value: str, alias: str) -> Q:
    if names := tasks(value):
        return Q(task__in=names)
    part = value.strip("*")
    if value.startswith("*"):
        return Q(task__contains=part) if value.endswith("*") else Q(task__endswith=part)
    return Q(task__startswith=part)


def tasks(value: str) -> list[str]:
    """The tasks that are meant. With * the known ones; none if none is known."""
    known, part = registry.names(), value.strip("*")
    if value.startswith("*") and value.endswith("*"):
        return [name for name in known if part in name]
    if value.startswith("*"):
        return [name for name in known if name.endswith(part)]
    if value.endswith("*"):
        return [name for name in known if name.startswith(part)]
    return [value, *(name for name in known if name.endswith(f".{value}"))]


def _word(value: str, alias: str) -> Q:
    return Q(subject=value) | _task(value, alias) | _id(value, alias)


def _worker(value: str, alias: str) -> Q:
    rows = Worker.objects.using(alias).filter(name=value).order_by().values("pk")
    ran = Attempt.objects.using(alias).filter(job=OuterRef("pk"), worker_name=value)
    return Q(worker__in=rows) | any_row(ran)


_MEANINGS: Mapping[str, Callable[[str, str], Q]] = {
    "attempt": _attempt,
    "engine": lambda value, alias: Q(engine=value),
    "error": _error,
    "fingerprint": lambda value, alias: Q(status=FAILED, fingerprint=value),
    "id": _id,
    "owner": _owner,
    "queue": lambda value, alias: Q(queue=value),
    "status": lambda value, alias: Q(status=value),
    "subject": lambda value, alias: Q(subject=value),
    "tag": _tag,
    "task": _task,
    "worker": _worker,
    WORD: _word,
}


def _any(conditions: Iterable[Q]) -> Q:
    united = Q()
    for condition in conditions:
        united |= condition
    return united


def any_row(rows: QuerySet[Any]) -> Q:
    """True where there is any of these rows of another row."""
    # Not EXISTS, for which PostgreSQL may read all rows of the other table.
    return Q(IsNull(Subquery(rows.order_by().values("pk")[:1]), False))


class _HasItem(Func):
    """True if a JSON list holds a text, for SQLite."""

    template = "EXISTS (SELECT 1 FROM json_each(%(expressions)s)"
    arg_joiner = ") WHERE value = "
    output_field = BooleanField()
