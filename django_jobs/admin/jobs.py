"""Jobs: their list, their page, and what can be done with them."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from .. import control
from ..engines import all_engines
from ..exceptions import JobsError
from ..models import Job, JobEvent
from ..states import STARTED
from .attempts import AttemptInline
from .base import (
    NOTHING,
    CappedPaginator,
    LookOnly,
    bar,
    call_text,
    error_text,
    moment,
    preformatted,
    pretty_json,
)


class QueueFilter(admin.SimpleListFilter):
    """The declared queues; the distinct ones of all rows would be read from all rows."""

    title = _("queue")
    parameter_name = "queue"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        names = {name for engine in all_engines() for name in engine.queue_names()}
        return [(name, name) for name in sorted(names)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        return queryset.filter(queue=self.value()) if self.value() else queryset


class JobEventInline(LookOnly, admin.TabularInline):
    model = JobEvent
    verbose_name_plural = _("events")
    extra = 0
    fields = readonly_fields = ("when", "kind", "attempt", "by", "message")
    when = moment("at")


@admin.register(Job)
class JobAdmin(LookOnly, admin.ModelAdmin):
    list_display = ["short_call", "status", "progress_bar", "queue", "attempt_of", "since", "ran", "subject"]
    list_filter = ["status", QueueFilter, "engine"]
    list_per_page = 50
    ordering = ["-id"]
    sortable_by = ()
    paginator = CappedPaginator
    show_full_result_count = False
    search_fields = ["subject"]  # What is searched is said in get_search_results.
    search_help_text = _("A job's id, a subject such as file:42, or part of a task's name.")
    actions = ["requeue", "cancel"]
    inlines = [AttemptInline, JobEventInline]
    since = moment("created_at", precise=False)
    created = moment("created_at")
    scheduled = moment("scheduled_for")
    queued = moment("queued_at")
    delivered = moment("delivered_at")
    started = moment("started_at")
    finished = moment("finished_at")
    _result = ("id", "call_code", "status_text", "error", "traceback_text", "result_text")
    _progress = ("progress_bar", "progress_message", "stages_text")
    _times = ("created", "scheduled", "queued", "delivered", "started", "finished", "ran")
    _options = (
        *("queue", "engine", "owner", "subject", "tags_text", "meta_text", "timeout_seconds", "idempotent"),
        *("attempt_of", "retry_intervals", "retry_jitter", "losses", "unique_key", "requeued_from"),
        *("at_front", "description", "keep_result_seconds", "observed_id"),
    )
    fieldsets = [
        (None, {"fields": _result}),
        (_("Progress"), {"fields": _progress}),
        (_("Times"), {"fields": _times}),
        (_("Options"), {"fields": _options}),
    ]
    readonly_fields = (*_result, *_progress, *_times, *_options)

    class Media:
        css = {"all": ["django_jobs/admin.css"]}

    def has_requeue_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("django_jobs.requeue_job")

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("django_jobs.cancel_job")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Job], search_term: str
    ) -> tuple[QuerySet[Job], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        try:
            return queryset.filter(pk=UUID(term)), False
        except ValueError:
            return queryset.filter(Q(subject=term) | Q(task__icontains=term)), False

    @admin.action(description=_("Requeue selected jobs"), permissions=["requeue"])
    def requeue(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        self._steer(request, queryset, lambda job: bool(control.requeue(job, by=request.user)), _requeued)

    @admin.action(description=_("Cancel selected jobs"), permissions=["cancel"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        self._steer(request, queryset, lambda job: control.cancel(job, by=request.user), _canceled)

    def _steer(
        self,
        request: HttpRequest,
        jobs: QuerySet[Job],
        verb: Callable[[Job], bool],
        told: Callable[[int], str],
    ) -> None:
        done, ended, refused = 0, 0, []
        for job in jobs:
            try:
                if verb(job):
                    done += 1
                else:
                    ended += 1
            except (JobsError, PermissionDenied) as error:
                refused.append(str(error))
        self.message_user(request, told(done), messages.SUCCESS if done else messages.WARNING)
        for reason in refused[:5]:
            self.message_user(request, reason, messages.WARNING)
        if len(refused) > 5:
            self.message_user(request, _("And %d more.") % (len(refused) - 5), messages.WARNING)
        if ended:
            self.message_user(request, _("%d had ended already.") % ended, messages.WARNING)

    @admin.display(description=_("call"))
    def short_call(self, job: Job) -> str:
        return call_text(job)

    @admin.display(description=_("call"))
    def call_code(self, job: Job) -> str:
        return format_html("<code>{}</code>", job.call)

    @admin.display(description=_("status"))
    def status_text(self, job: Job) -> str:
        if job.is_canceling:
            return gettext("started, canceling: its worker was asked to stop it")
        if job.status == STARTED and job.elsewhere_until:
            return gettext(
                "started, goes on elsewhere until {time:%Y-%m-%d %H:%M:%S %Z} at the latest"
            ).format(time=job.elsewhere_until)
        if job.is_interrupted:
            return gettext("failed: interrupted, its worker was lost")
        if job.will_retry_at:
            return gettext("scheduled: will retry at {time:%Y-%m-%d %H:%M:%S %Z}").format(
                time=job.will_retry_at
            )
        return job.get_status_display()

    @admin.display(description=_("progress"))
    def progress_bar(self, job: Job) -> str:
        return bar(job.progress)

    @admin.display(description=_("stages"))
    def stages_text(self, job: Job) -> SafeString | str:
        rows = ((name, bar(stage["progress"]), stage["status"]) for name, stage in job.ordered_stages.items())
        items = format_html_join("", "<li>{} {} {}</li>", rows)
        return format_html('<ul class="jobs-stages">{}</ul>', items) if items else NOTHING

    @admin.display(description=_("attempt"))
    def attempt_of(self, job: Job) -> str:
        return gettext("{attempt} of {most}").format(
            attempt=job.attempt, most=max(job.max_attempts, job.attempt)
        )

    @admin.display(description=_("ran for"))
    def ran(self, job: Job) -> str:
        return NOTHING if job.duration is None else f"{job.duration.total_seconds():.2f} s"

    @admin.display(description=_("error"))
    def error(self, job: Job) -> str:
        return error_text(job)

    @admin.display(description=_("traceback"))
    def traceback_text(self, job: Job) -> str:
        return preformatted(job.traceback)

    @admin.display(description=_("result"))
    def result_text(self, job: Job) -> str:
        return job.result_error or preformatted(pretty_json(job.result))

    @admin.display(description=_("tags"))
    def tags_text(self, job: Job) -> str:
        return ", ".join(job.tags) or NOTHING

    @admin.display(description=_("meta"))
    def meta_text(self, job: Job) -> str:
        return preformatted(pretty_json(job.meta or None))


def _requeued(done: int) -> str:
    return ngettext("%d job requeued.", "%d jobs requeued.", done) % done


def _canceled(done: int) -> str:
    return ngettext("%d job canceled.", "%d jobs canceled.", done) % done
