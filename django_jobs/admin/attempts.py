"""Attempts: their list and their page."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import OuterRef, Prefetch, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.formats import number_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from ..models import Attempt, Job
from ..searching import MOST_LOOKED_THROUGH
from ..searching.conditions import any_row
from ..visibility import sees_all, visible
from .base import (
    NOTHING,
    CappedPaginator,
    JobsPage,
    LookOnly,
    call_text,
    error_text,
    moment,
    preformatted,
    redacted_text,
)
from .permissions import holds
from .seeing import listed, marked_traceback, may_see_values, may_see_workers

_OF_VALUES = {"short_call": "task_name", "traceback_text": None, "log_text": None}
"""What shows values of a job, and what is shown instead to who may not see them."""

_OF_JOB = "job__id__exact"


class NewestFirst(ChangeList):
    """In no other order: ?o= sorts by columns that offer none as well, and may so sort millions of rows."""

    has_more = False
    """True if there are others, older ones, that are not looked through."""

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        return ["-pk"]

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        attempts = super().get_queryset(request, exclude_parameters).defer("traceback", "log")
        if _OF_JOB in request.GET:  # They are few, and an index has them.
            return attempts
        newest = Attempt.objects.order_by("-pk").values_list("pk", flat=True)
        for edge in newest[MOST_LOOKED_THROUGH : MOST_LOOKED_THROUGH + 1]:
            self.has_more = True
            attempts = attempts.filter(pk__gt=edge)
        return attempts


@admin.register(Attempt)
class AttemptAdmin(JobsPage, LookOnly, admin.ModelAdmin):
    list_display = ("short_call", "number", "outcome", "worker_name", "since", "ran", "short_error")
    list_per_page = 50
    ordering = ("-id",)
    sortable_by = ()
    paginator = CappedPaginator
    show_full_result_count = False
    fields = readonly_fields = (
        *("job_link", "number", "outcome", "worker_name", "started", "finished", "ran", "error"),
        *("traceback_text", "log_text"),
    )

    since = moment("started_at", _("started at"), precise=False)
    started = moment("started_at", _("started at"))
    finished = moment("finished_at", _("finished at"))

    def get_queryset(self, request: HttpRequest) -> QuerySet[Attempt]:
        jobs = listed(Job.objects.only("task", "observed_id"), request.user)
        attempts: QuerySet[Attempt] = super().get_queryset(request).prefetch_related(Prefetch("job", jobs))
        if sees_all(request.user):
            return attempts
        return attempts.filter(any_row(visible(request.user, Job.objects.all()).filter(pk=OuterRef("job"))))

    def has_view_permission(self, request: HttpRequest, obj: Attempt | None = None) -> bool:
        """They tell tasks and errors, which are the jobs'."""
        return super().has_view_permission(request, obj) and holds(request.user, "view_job")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return NewestFirst

    def get_list_display(self, request: HttpRequest) -> Any:
        return _shown(self.list_display, request)

    def get_fields(self, request: HttpRequest, obj: Attempt | None = None) -> Any:
        return _shown(self.fields, request)

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """No others: ?log__contains=… would tell what a log holds to who may not see it."""
        return lookup == _OF_JOB

    @admin.display(description=_("call"))
    def short_call(self, attempt: Attempt) -> str:
        return call_text(attempt.job)

    @admin.display(description=_("task"))
    def task_name(self, attempt: Attempt) -> str:
        return attempt.job.task

    @admin.display(description=_("job"))
    def job_link(self, attempt: Attempt) -> str:
        page = reverse(
            "admin:django_jobs_job_change", args=[attempt.job_id], current_app=self.admin_site.name
        )
        return format_html('<a href="{}">{}</a>', page, attempt.job)

    @admin.display(description=_("ran for"))
    def ran(self, attempt: Attempt) -> str:
        seconds = attempt.duration.total_seconds()
        return gettext("{number} s").format(number=number_format(seconds, 2))

    @admin.display(description=_("error"))
    def error(self, attempt: Attempt) -> str:
        return error_text(attempt)

    @admin.display(description=_("error"))
    def short_error(self, attempt: Attempt) -> str:
        return Truncator(error_text(attempt)).chars(100)

    @admin.display(description=_("traceback"))
    def traceback_text(self, attempt: Attempt) -> SafeString | str:
        return preformatted(marked_traceback(attempt.traceback)) if attempt.traceback else NOTHING

    @admin.display(description=_("log"))
    def log_text(self, attempt: Attempt) -> SafeString | str:
        return redacted_text(attempt.log)


def _shown(names: Any, request: HttpRequest) -> list[str]:
    if not may_see_workers(request.user):
        names = [name for name in names if name != "worker_name"]
    if may_see_values(request.user):
        return list(names)
    return [shown for name in names if (shown := _OF_VALUES.get(name, name))]
