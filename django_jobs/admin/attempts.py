"""Attempts: their list, their page, and their part of a job's page."""

from django.contrib import admin
from django.urls import reverse
from django.utils.html import format_html
from django.utils.text import Truncator
from django.utils.translation import gettext_lazy as _

from ..models import Attempt
from .base import CappedPaginator, LookOnly, call_text, error_text, moment, preformatted


class AttemptDisplay(LookOnly):
    """What is told of an attempt, wherever it is shown."""

    started = moment("started_at")
    finished = moment("finished_at")

    @admin.display(description=_("ran for"))
    def ran(self, attempt: Attempt) -> str:
        return f"{attempt.duration.total_seconds():.2f} s"

    @admin.display(description=_("error"))
    def error(self, attempt: Attempt) -> str:
        return error_text(attempt)

    @admin.display(description=_("traceback"))
    def traceback_text(self, attempt: Attempt) -> str:
        return preformatted(attempt.traceback)

    @admin.display(description=_("log"))
    def log_text(self, attempt: Attempt) -> str:
        return preformatted(attempt.log)


_TOLD = ("outcome", "worker_name", "started", "finished", "ran", "error", "traceback_text", "log_text")


class AttemptInline(AttemptDisplay, admin.StackedInline):
    model = Attempt
    extra = 0
    fields = readonly_fields = _TOLD
    ordering = ("-number",)
    show_change_link = True


@admin.register(Attempt)
class AttemptAdmin(AttemptDisplay, admin.ModelAdmin):
    list_display = ("short_call", "number", "outcome", "worker_name", "since", "ran", "short_error")
    list_filter = ("outcome",)
    list_select_related = ("job",)
    list_per_page = 50
    ordering = ("-id",)
    sortable_by = ()
    paginator = CappedPaginator
    show_full_result_count = False
    fields = readonly_fields = ("job_link", "number", *_TOLD)

    class Media:
        css = {"all": ["django_jobs/admin.css"]}

    since = moment("started_at", precise=False)

    @admin.display(description=_("call"))
    def short_call(self, attempt: Attempt) -> str:
        return call_text(attempt.job)

    @admin.display(description=_("error"))
    def short_error(self, attempt: Attempt) -> str:
        return Truncator(error_text(attempt)).chars(100)

    @admin.display(description=_("job"))
    def job_link(self, attempt: Attempt) -> str:
        page = reverse(f"{self.admin_site.name}:django_jobs_job_change", args=[attempt.job_id])
        return format_html('<a href="{}">{}</a>', page, attempt.job)
