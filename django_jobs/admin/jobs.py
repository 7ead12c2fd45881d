"""Jobs: their list, found by a search and steered a row or a whole search at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from functools import partial as bound
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from .. import registry, searching
from ..engines import all_engines
from ..exceptions import SearchError
from ..models import Job, Worker
from ..states import STARTED, Status
from ..visibility import sees_all, visible
from .acting import with_query
from .badges import WORDS, Standing, passing, standing
from .base import JobsPage, LookOnly
from .charts import meter
from .job import ShowsJob
from .live import partial
from .scales import duration_text
from .seeing import listed, may_see_values, may_see_workers, parsed, short_call, total_text
from .urls import extra_urls

PAGE_SIZE = 50
MOST_SUGGESTED = 200

FILTERED = ("queue", "task", "worker", "tag", "owner", "engine", "since", "until")
"""The qualifiers that have a field in the form which composes a search."""

_TIMES = ("15m", "1h", "6h", "24h", "7d")
_EXAMPLES = {
    "file:42": _("an id or the beginning of one, a subject, or a task"),
    "args.file_id:42": _("an argument; args.0:42 is the first one by position"),
    "status:failed error:Timeout": _("failed jobs with that in their error"),
    "task:documents.tasks.* -queue:mail": _("tasks that begin so, not on that queue"),
    'error:"could not connect" since:2h': _("text with spaces, enqueued in the last two hours"),
    "attempt:>1 until:2026-01-31T18:00": _("retried at least once, enqueued before that time"),
    "tag:import owner:alice worker:w1 engine:rq": _("further qualifiers"),
}


@dataclass(frozen=True)
class Row:
    """A job in the list."""

    id: UUID
    call: str
    choose: str
    """What ticking it is called."""
    url: str
    standing: Standing
    note: str
    error: str
    """The class of its error, without its module."""
    progress: SafeString | str
    queue: str
    queue_url: str
    enqueued: SafeString
    timing: SafeString | str
    attempt: str
    worker: str
    subject: str
    subject_url: str


@dataclass(frozen=True)
class Chip:
    """A state one can choose."""

    word: Any
    url: str
    count: str
    is_current: bool


@dataclass(frozen=True)
class Filter:
    """A field of the form that composes a search."""

    name: str
    label: Any
    value: str
    choices: list[str]
    """All that may be chosen, or what is suggested."""
    is_open: bool
    """True if other values may be written."""


@admin.register(Job)
class JobAdmin(ShowsJob, JobsPage, LookOnly, admin.ModelAdmin):
    def get_urls(self) -> list[URLPattern]:
        wrap = self.admin_site.admin_view
        region = bound(wrap, cacheable=True)
        return [
            *extra_urls(self.admin_site),
            path("rows/", region(self.rows_view), name="django_jobs_job_rows"),
            path("act/", wrap(self.act_view), name="django_jobs_job_act"),
            path("<uuid:job_id>/head/", region(self.head_view), name="django_jobs_job_head"),
            path("<uuid:job_id>/past/", region(self.past_view), name="django_jobs_job_past"),
            path("<uuid:job_id>/edit/", wrap(self.edit_view), name="django_jobs_job_edit"),
            *super().get_urls(),
        ]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        if not self.has_view_permission(request):
            raise PermissionDenied
        text = request.GET.get("q", "")
        given = {name: request.GET[name].strip() for name in FILTERED if name in request.GET}
        try:
            if given:
                return HttpResponseRedirect(self.list_url(q=searching.replaced(text, given)))
            asked = searching.asked_for(text)
        except SearchError:  # Told beside the rows.
            asked = given
        context = {
            **self._found(request),
            "list_url": self.list_url(),
            "examples": _EXAMPLES,
            "filters": list(_filters(asked, request.user)),
            "verbs": self.offered(request),
            "may_act_on_all": request.user.has_perm("django_jobs.bulk_job"),
            "act_url": self.own_url("act"),
            "rows_url": self._rows_url(request),
        }
        return self.page(
            request, "admin/django_jobs/job_list.html", context | (extra_context or {}), title=gettext("Jobs")
        )

    def rows_view(self, request: HttpRequest) -> HttpResponseBase:
        """The region of the list that is renewed."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        context = self._found(request) | {"verbs": self.offered(request)}
        return partial(request, "admin/django_jobs/_rows.html", context)

    def _found(self, request: HttpRequest) -> dict[str, Any]:
        """What the region shows: states with their counts, rows, and where it goes on."""
        text = request.GET.get("q", "").strip()
        try:
            search = parsed(text, request.user)
        except SearchError as error:
            return {"q": text, "problem": str(error), "chips": list(self._chips("", {}))}
        jobs = visible(request.user, Job.objects.all())
        before, after = _id(request.GET.get("before")), _id(request.GET.get("after"))
        page = searching.page(
            _listed(jobs, request.user),
            search,
            before=before,
            after=None if before else after,
            size=PAGE_SIZE,
        )
        counts = searching.counts(jobs, search) or {}
        hint = searching.among_arguments(text) if may_see_values(request.user) and not page.jobs else ""
        return {
            "q": text,
            "before": before,
            "after": after,
            "hint": hint,
            "hint_url": self.list_url(q=hint),
            "is_searched": bool(search),
            "chips": list(self._chips(text, counts)),
            "rows": list(self._rows(page.jobs, text, request.user)),
            "newest_url": self.list_url(q=text) if before or after else "",
            "newer_url": self.list_url(q=text, after=str(page.newer)) if page.newer else "",
            "older_url": self.list_url(q=text, before=str(page.older)) if page.older else "",
            "looked_until": page.looked_until,
            "is_looking_back": not after or bool(before),
        }

    def _chips(self, text: str, counts: Mapping[str, int]) -> Iterator[Chip]:
        chosen = searching.asked_for(text).get("status", "")
        is_known = counts.keys() == set(Status.values)
        everything = total_text(*counts.values()) if is_known else ""
        yield Chip(_("all"), self._searched(text, status=""), everything, not chosen)
        for status in Status.values:
            count = total_text(counts[status]) if status in counts else ""
            yield Chip(WORDS[status], self._searched(text, status=status), count, chosen == status)

    def _rows(self, jobs: Sequence[Job], text: str, user: Any) -> Iterator[Row]:
        # Once for a page what would take longer than all else of a row.
        any_id, parameters, choose = UUID(int=0), cache(registry.parameters), gettext("Choose {call}")
        job_url, list_url = self.job_url(any_id), self.list_url()
        queue_url = cache(lambda queue: self._searched(text, queue=queue))
        workers = may_see_workers(user)
        for job in jobs:
            told, call = standing(job), short_call(job, user, parameters)
            is_moving = job.status == STARTED or 0 < job.progress < 100
            subject = searching.replaced("", {"subject": job.subject}) if job.subject else ""
            yield Row(
                id=job.pk,
                call=call,
                choose=choose.format(call=call),
                url=job_url.replace(str(any_id), str(job.pk)),
                standing=told,
                note=gettext("observed only") if job.observed_id else "",
                error="" if job.is_interrupted else job.error_type.rpartition(".")[2],
                progress=meter(job.progress, gettext("Progress of {job}").format(job=job.pk))
                if is_moving
                else "",
                queue=job.queue,
                queue_url=queue_url(job.queue),
                enqueued=passing(job.created_at),
                timing=_timing(job, told),
                attempt=attempt_text(job),
                worker=job.worker.name if workers and job.worker else "",
                subject=job.subject,
                subject_url=with_query(list_url, q=subject) if subject else "",
            )

    def _rows_url(self, request: HttpRequest) -> str:
        return f"{self.own_url('rows')}?{request.GET.urlencode()}"

    def _searched(self, text: str, **values: str) -> str:
        return self.list_url(q=searching.replaced(text, values))


def attempt_text(job: Job) -> str:
    return gettext("{attempt} of {most}").format(attempt=job.attempt, most=max(job.max_attempts, job.attempt))


def _listed(jobs: QuerySet[Job], user: Any) -> QuerySet[Job]:
    """What else is read of the listed ones: who runs them."""
    jobs = listed(jobs, user).defer("progress_message", "error_message", "description", "tags")
    return jobs.select_related("worker") if may_see_workers(user) else jobs


def _timing(job: Job, told: Standing) -> SafeString | str:
    """When it started, when it is due, or how long it ran."""
    if job.status == STARTED and job.started_at:
        return format_html(gettext("started {time}"), time=passing(job.started_at))
    if told.at and not job.has_ended:
        return format_html(gettext("due {time}"), time=passing(told.at))
    if job.duration is None:
        return ""
    return gettext("ran {duration}").format(duration=duration_text(job.duration.total_seconds()))


def _filters(asked: Mapping[str, str], user: Any) -> Iterator[Filter]:
    """To those who may see some jobs only, no names are suggested that others' jobs may have."""
    sees_names = sees_all(user)
    queues = sorted({name for engine in all_engines() for name in engine.queue_names()})

    def field(name: str, label: Any, choices: list[str], *, is_open: bool = True) -> Filter:
        value = asked.get(name, "")
        if not is_open and value and value not in choices:
            choices = [*choices, value]
        return Filter(name, label, value, choices, is_open)

    yield field("queue", _("Queue"), queues if sees_names else [], is_open=not sees_names)
    yield field("task", _("Task"), registry.names()[:MOST_SUGGESTED] if sees_names else [])
    if may_see_workers(user):
        workers = Worker.objects.order_by("-id").values_list("name", flat=True)[:MOST_SUGGESTED]
        yield field("worker", _("Worker"), sorted(set(workers)))
    yield field("tag", _("Tag"), [])
    yield field("owner", _("Owner"), [])
    yield field("engine", _("Engine"), sorted(engine.name for engine in all_engines()), is_open=False)
    yield field("since", _("Enqueued since"), [*_TIMES])
    yield field("until", _("Enqueued before"), [*_TIMES])


def _id(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        return None
