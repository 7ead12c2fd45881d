"""What the pages share: rows that are only looked at, counts that end, and how values are shown."""

import json
from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.http import HttpRequest
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.timezone import localtime
from django.utils.translation import gettext_lazy

from ..models import Attempt, Job
from ..models.workers import MOST_COUNTED

NOTHING = "-"


class CappedPaginator(Paginator):
    """Counts no further than `MOST_COUNTED` rows: counting millions for a page number takes seconds."""

    @cached_property
    def count(self) -> int:
        return self.object_list[:MOST_COUNTED].count()  # type: ignore[attr-defined,no-any-return]


class LookOnly:
    """Rows that are looked at: not added, edited or deleted."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def call_text(job: Job) -> str:
    """The call in the space of a list's column, without the module."""
    return Truncator(job.call.removeprefix(f"{job.task.rpartition('.')[0]}.")).chars(60)


def error_text(row: Job | Attempt) -> str:
    return f"{row.error_type}: {row.error_message}" if row.error_type else NOTHING


def moment(field: str, *, precise: bool = True) -> Callable[[Any, Any], str]:
    """A time in the current time zone: to the millisecond and with the zone's name, or to the second."""

    @admin.display(description=gettext_lazy(field.replace("_", " ")), ordering=None)
    def text(self: Any, row: Any) -> str:
        value = getattr(row, field)
        if value is None:
            return NOTHING
        here = localtime(value)
        rest = f".{here.microsecond // 1000:03} {here:%Z}" if precise else ""
        return f"{here:%Y-%m-%d %H:%M:%S}{rest}"

    return text


def bar(percent: int) -> SafeString:
    return format_html(
        '<span class="jobs-progress"><progress max="100" value="{0}" aria-label="{0} %"></progress>'
        " {0} %</span>",
        percent,
    )


def preformatted(text: str) -> SafeString | str:
    return format_html("<pre>{}</pre>", text) if text else NOTHING


def pretty_json(value: Any) -> str:
    return "" if value is None else json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True)
