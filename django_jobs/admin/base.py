"""What the pages share: rows that are only looked at, counts that end, and how values are shown."""

import json
from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.timezone import localtime

from .. import registry
from ..models import Attempt, Job
from ..models.workers import MOST_COUNTED
from ..redaction import redact_call, redact_text
from . import strip

NOTHING = "-"
COLUMN = 60
"""How many characters of a call a list shows."""


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


class JobsPage:
    """A ModelAdmin whose pages stand in our frame.

    Its templates extend `admin/django_jobs/base.html`. Where it has none of its own, Django's are taken, with
    the strip above.
    """

    admin_site: admin.AdminSite

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        if not self.has_view_or_change_permission(request):  # type: ignore[attr-defined]
            raise PermissionDenied
        if redirect := strip.chosen(request):
            return redirect
        context = strip.frame(request, self.admin_site) | (extra_context or {})
        return super().changelist_view(request, context)  # type: ignore[misc]

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        """Django's own asks for the permission for this very object."""
        if not (self.has_view_or_change_permission(request) or self.has_add_permission(request)):  # type: ignore[attr-defined]
            raise PermissionDenied
        if redirect := strip.chosen(request):
            return redirect
        context = strip.frame(request, self.admin_site) | (extra_context or {})
        return super().changeform_view(request, object_id, form_url, context)  # type: ignore[misc]

    def page(
        self, request: HttpRequest, template: str, context: dict[str, Any], *, title: str
    ) -> HttpResponseBase:
        """Another page of this ModelAdmin. Whoever calls it has asked for the permission."""
        model = {"opts": self.opts}  # type: ignore[attr-defined]
        return page(request, self.admin_site, template, {**model, **context}, title=title)


def page(
    request: HttpRequest, site: admin.AdminSite, template: str, context: dict[str, Any], *, title: str
) -> HttpResponseBase:
    """A page in our frame: `template` extends `admin/django_jobs/base.html`.

    Whoever calls it has asked for the permission.
    """
    if redirect := strip.chosen(request):
        return redirect
    request.current_app = site.name
    frame = {**site.each_context(request), **strip.frame(request, site), "title": title}
    return TemplateResponse(request, template, {**frame, **context})


Parameters = Callable[[str], list[str] | None]
"""Tells the names of a task's positional parameters, None if they cannot be had."""


def redacted_call(
    job: Job, most: int, parameters: Parameters = registry.parameters, *, with_module: bool = True
) -> str:
    """The call as Python code with its secrets masked, in `most` characters."""
    task = job.task if with_module else job.task.rpartition(".")[2]
    read = vars(job)
    args, kwargs = (read.get(name, read.get(f"short_{name}")) for name in ("args", "kwargs"))
    if job.observed_id or args is None or kwargs is None:  # Not known, or too long for a list.
        return Truncator(f"{task}(…)").chars(most)
    return redact_call(task, args, kwargs, parameters(job.task) if args else None, most=most)


def call_text(job: Job, parameters: Parameters = registry.parameters) -> str:
    """The call in the space of a list's column, without the module."""
    return redacted_call(job, COLUMN, parameters, with_module=False)


def error_text(row: Job | Attempt) -> str:
    if not row.error_type:
        return NOTHING
    return f"{row.error_type}: {redact_text(row.error_message)}" if row.error_message else row.error_type


def moment(field: str, heading: Any, *, precise: bool = True) -> Callable[[Any, Any], str]:
    """A time in the current time zone: to the millisecond and with the zone's name, or to the second."""

    @admin.display(description=heading, ordering=None)
    def text(self: Any, row: Any) -> str:
        value = getattr(row, field)
        if value is None:
            return NOTHING
        here = localtime(value)
        rest = f".{here.microsecond // 1000:03} {here:%Z}" if precise else ""
        return f"{here:%Y-%m-%d %H:%M:%S}{rest}"

    return text


def preformatted(text: str) -> SafeString | str:
    return format_html("<pre>{}</pre>", text) if text else NOTHING


def redacted_text(text: str) -> SafeString | str:
    """A log or a traceback with its secrets masked."""
    return preformatted(redact_text(text))


def pretty_json(value: Any) -> str:
    return "" if value is None else json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True)
