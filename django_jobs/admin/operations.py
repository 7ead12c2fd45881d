"""Operations: what was asked to be done to many jobs, how far that is, and what it changed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponseNotAllowed, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.formats import number_format
from django.utils.safestring import SafeString
from django.utils.text import Truncator, capfirst
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from .. import operations
from ..models import Operation
from ..models.workers import MOST_COUNTED
from ..redaction import redact_text
from ..verdict import capped
from . import strip
from .badges import badge, passing
from .base import JobsPage, LookOnly
from .buttons import check_action, done, may, note, url
from .charts import meter
from .live import partial
from .refusals import reason_text
from .scales import duration_text
from .seeing import shown_search

PAGE = 50
WHILE_RUNNING_SECONDS = 2
"""How often a page is renewed that shows an operation going on."""

STATES = {
    Operation.State.WAITING: ("queued", _("waiting")),
    Operation.State.RUNNING: ("running", _("running")),
    Operation.State.DONE: ("finished", _("done")),
    Operation.State.ABORTED: ("canceled", _("aborted")),
    Operation.State.FAILED: ("failed", _("failed")),
}


@dataclass(frozen=True, slots=True)
class OperationRow:
    id: UUID
    url: str
    verb: str
    options: str
    search: str
    search_url: str
    by: str
    state: SafeString
    note: str
    is_going_on: bool
    progress: SafeString | str
    done: str
    refused: str
    refusals: list[tuple[str, str]]
    matched: str
    error: str
    created: SafeString
    started: SafeString | str
    finished: SafeString | str


@admin.register(Operation)
class OperationAdmin(JobsPage, LookOnly, admin.ModelAdmin):
    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("region/", view(self.list_region, cacheable=True), name="django_jobs_operations_region"),
            path(
                "<uuid:key>/region/", view(self.region, cacheable=True), name="django_jobs_operation_region"
            ),
            path("<uuid:key>/abort/", view(self.abort_view), name="django_jobs_operation_abort"),
            *super().get_urls(),
        ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Operation]:
        return operations.seen_by(request.user).select_related("by")

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        self._check_view(request)
        listed = self._listed(request)
        region = url(self.admin_site, "operations_region")
        before = _before(request)
        context = {
            **listed,
            "region_url": f"{region}?{urlencode({'before': before})}" if before else region,
            "interval": self._interval(request, any(row.is_going_on for row in listed["rows"])),
        }
        return self.page(request, "admin/django_jobs/operations.html", context, title=gettext("Operations"))

    def list_region(self, request: HttpRequest) -> HttpResponseBase:
        self._check_view(request)
        return partial(request, "admin/django_jobs/_operations.html", self._listed(request))

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        self._check_view(request)
        told = self._told(request, self._operation(request, object_id))
        row = told["row"]
        context = {
            **told,
            "region_url": url(self.admin_site, "operation_region", row.id),
            "interval": self._interval(request, row.is_going_on),
        }
        title = gettext("{verb}: {search}").format(verb=capfirst(row.verb), search=row.search)
        return self.page(request, "admin/django_jobs/operation.html", context, title=title)

    def region(self, request: HttpRequest, key: UUID) -> HttpResponseBase:
        self._check_view(request)
        return partial(
            request, "admin/django_jobs/_operation.html", self._told(request, self._operation(request, key))
        )

    def abort_view(self, request: HttpRequest, key: UUID) -> HttpResponseBase:
        self._check_view(request)
        operation = self._operation(request, key)
        check_action(request, *operations.permissions_to_abort(operation, request.user))
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])

        def abort() -> str:
            if not operations.abort(operation, by=request.user):
                return gettext("It has ended already, or was asked to.")
            told = gettext("It ends after the jobs in hand.")
            note(request, operation, gettext("Aborted."))
            return told

        done(request, abort)
        return HttpResponseRedirect(url(self.admin_site, "operation_change", operation.pk))

    def _check_view(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied

    def _operation(self, request: HttpRequest, key: Any) -> Operation:
        try:
            found = self.get_queryset(request).filter(pk=UUID(str(key))).first()
        except ValueError:
            found = None
        if found is None:
            raise Http404("There is no such operation; it may have been deleted.")
        return found

    def _interval(self, request: HttpRequest, is_going_on: bool) -> int:
        """Never, if that was chosen."""
        chosen = strip.refresh_seconds(request)
        return min(chosen, WHILE_RUNNING_SECONDS) if is_going_on else chosen

    def _listed(self, request: HttpRequest) -> dict[str, Any]:
        """The context of `_operations.html`."""
        chosen = self.get_queryset(request).order_by("-id")
        before = _before(request)
        if before:
            chosen = chosen.filter(pk__lt=UUID(before))
        found = list(chosen[: PAGE + 1])
        here = url(self.admin_site, "operation_changelist")
        return {
            "rows": [self._row(request, each) for each in found[:PAGE]],
            "older_url": f"{here}?{urlencode({'before': found[PAGE - 1].pk})}" if len(found) > PAGE else "",
            "newest_url": here if before else "",
        }

    def _told(self, request: HttpRequest, operation: Operation) -> dict[str, Any]:
        """The context of `_operation.html`."""
        row = self._row(request, operation)
        needed = operations.permissions_to_abort(operation, request.user)
        may_abort = row.is_going_on and not operation.abort_requested_at and may(request.user, *needed)
        abort_url = url(self.admin_site, "operation_abort", operation.pk) if may_abort else ""
        seconds = operations.remaining_seconds(operation) if row.is_going_on else None
        remaining = (
            ""
            if seconds is None
            else gettext("about {duration}").format(duration=duration_text(round(seconds)))
        )
        progress = row.progress or _progress_by_time(operation, seconds, row.verb)
        return {"row": row, "abort_url": abort_url, "progress": progress, "remaining": remaining}

    def _row(self, request: HttpRequest, operation: Operation) -> OperationRow:
        name, word = STATES.get(operation.state, ("queued", operation.state))  # type: ignore[call-overload]
        refused = {str(reason): int(count) for reason, count in dict(operation.refused or {}).items()}
        going_on = operation.finished_at is None
        verb = operation.get_verb_display()
        is_own = operation.by_id == request.user.pk
        search = operation.search if is_own else shown_search(operation.search, request.user)
        is_whole = search == operation.search
        return OperationRow(
            id=operation.pk,
            url=url(self.admin_site, "operation_change", operation.pk),
            verb=str(verb),
            options=", ".join(_options(operation)),
            search=search,
            search_url=strip.jobs_url(search, request, self.admin_site) if is_whole else "",
            by=_by(operation),
            state=badge(name, str(word)),
            note=_note(operation),
            is_going_on=going_on,
            progress=_progress(operation, sum(refused.values()), verb),
            done=number_format(operation.done, force_grouping=True),
            refused=number_format(sum(refused.values()), force_grouping=True),
            refusals=[
                (reason_text(reason), number_format(count, force_grouping=True))
                for reason, count in sorted(refused.items(), key=lambda each: (-each[1], each[0]))
            ],
            matched="" if operation.matched is None else capped(min(operation.matched, MOST_COUNTED)),
            error=redact_text(operation.error),
            created=passing(operation.created_at),
            started=passing(operation.started_at) if operation.started_at else "",
            finished=passing(operation.finished_at) if operation.finished_at else "",
        )


def _before(request: HttpRequest) -> str:
    """Before which operation the page begins; empty for the first page, and for what is no id."""
    try:
        return str(UUID(request.GET.get("before", "")))
    except ValueError:
        return ""


def _by(operation: Operation) -> str:
    """Who started it: the row of that user may be gone."""
    return str(operation.by or operation.options.get("by") or gettext("code"))


def _options(operation: Operation) -> Iterator[str]:
    for name, value in operation.options.items():
        if name == "queue":
            yield gettext("to the queue {queue}").format(queue=value)
        elif name == "reason" and value:
            yield gettext("as: {reason}").format(reason=redact_text(value))


def _note(operation: Operation) -> str:
    if operation.finished_at is None and operation.abort_requested_at:
        return gettext("ends after the jobs in hand")
    if operation.state == Operation.State.WAITING:
        return gettext("the maintainer begins within seconds")
    if operation.state == Operation.State.FAILED:
        return Truncator(redact_text(operation.error)).chars(120)
    return ""


def _progress(operation: Operation, refused: int, verb: Any) -> SafeString | str:
    """A bar, where it is known of how many."""
    label = gettext("{verb}: progress").format(verb=verb)
    if operation.state == Operation.State.DONE:
        return meter(100, label)
    if operation.matched is None or operation.matched > MOST_COUNTED:
        return ""
    handled = operation.done + refused
    return meter(min(99, 100 * handled // operation.matched) if operation.matched else 0, label)


def _progress_by_time(operation: Operation, seconds: float | None, verb: str) -> SafeString | str:
    """A bar where it is known how long it still takes, although not of how many jobs."""
    if seconds is None or operation.started_at is None:
        return ""
    elapsed = max(0.0, (timezone.now() - operation.started_at).total_seconds())
    percent = 100 * elapsed / (elapsed + seconds) if elapsed + seconds else 0
    return meter(min(99, int(percent)), gettext("{verb}: progress").format(verb=verb))
