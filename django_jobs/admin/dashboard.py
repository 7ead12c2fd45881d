"""The first page: is it all right, why not, what has run and failed lately."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib import admin
from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied
from django.db.models import OuterRef
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.formats import number_format
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext, gettext_lazy, ngettext

from .. import figures, searching
from ..engines import all_engines
from ..figures import Figures
from ..models import Census, Dashboard, Job, Worker
from ..models.workers import MOST_COUNTED, MOST_WORKERS
from ..searching import MOST_LOOKED_THROUGH, Search
from ..searching.conditions import any_row
from ..verdict import MOST_TOLD, Verdict, capped, percentage, quoted
from ..visibility import visible
from .base import LookOnly, call_text, error_text, page
from .charts import Point, sparkline, throughput
from .live import partial
from .permissions import holds
from .scales import count_text, duration_text
from .seeing import listed, may_see_values
from .strip import Link, Strip, jobs_url, place, strip

MOST_LISTED = 5
LATELY = timedelta(days=1)
"""How far back the tasks that fail most are looked for."""
_MINUTE = timedelta(minutes=1)
_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Range:
    """How much of the past the chart shows, and how much of it in one bar."""

    title: Any
    heading: Any
    span: timedelta
    bucket: timedelta
    period: figures.Period


RANGES = {
    "1h": Range(
        gettext_lazy("1 h"), gettext_lazy("Finished and failed per minute"), _HOUR, _MINUTE, "minute"
    ),
    "6h": Range(
        gettext_lazy("6 h"),
        gettext_lazy("Finished and failed per 5 minutes"),
        6 * _HOUR,
        5 * _MINUTE,
        "minute",
    ),
    "24h": Range(
        gettext_lazy("24 h"),
        gettext_lazy("Finished and failed per 15 minutes"),
        24 * _HOUR,
        15 * _MINUTE,
        "minute",
    ),
    "7d": Range(
        gettext_lazy("7 d"),
        gettext_lazy("Finished and failed per 2 hours"),
        timedelta(days=7),
        2 * _HOUR,
        "hour",
    ),
}
USUAL_RANGE = "1h"
TROUBLES = {
    "undeclared": gettext_lazy("not declared"),
    "untaken": gettext_lazy("no live worker"),
    "stuck": gettext_lazy("stuck, though workers are idle"),
    "undelivered": gettext_lazy("not delivered"),
    "paused": gettext_lazy("paused"),
}


@dataclass(frozen=True, slots=True)
class Card:
    """One figure, its course, and a word about it."""

    name: Any
    value: str
    url: str = ""
    note: str = ""
    course: SafeString | str = ""
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """A job that failed lately."""

    call: str
    url: str
    error: str
    queue: str
    at: datetime | None


@admin.register(Dashboard)
class DashboardAdmin(LookOnly, admin.ModelAdmin):
    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("", view(self.changelist_view), name="django_jobs_dashboard_changelist"),
            path("region/", view(self.region_view, cacheable=True), name="django_jobs_dashboard_region"),
        ]

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.has_perm("django_jobs.view_job"))

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        if not self.has_view_permission(request):
            raise PermissionDenied
        region_url = reverse("admin:django_jobs_dashboard_region", current_app=self.admin_site.name)
        context = {
            **_context(request, self.admin_site),
            "region_url": f"{region_url}?range={_range_name(request)}",
        }
        title = gettext("Dashboard")
        return page(request, self.admin_site, "admin/django_jobs/dashboard.html", context, title=title)

    def region_view(self, request: HttpRequest) -> HttpResponseBase:
        if not self.has_view_permission(request):
            raise PermissionDenied
        return partial(request, "admin/django_jobs/_dashboard.html", _context(request, self.admin_site))


def _context(request: HttpRequest, site: AdminSite) -> dict[str, Any]:
    """The context of `_dashboard.html`: to those who may see some jobs only, it tells of these alone."""
    state = strip(request, site)
    shown = {
        "strip": state,
        "is_empty": _is_empty(request),
        "has_workers": state.verdict is None or state.verdict.workers > 0,
        "enqueue_url": place("enqueue", request, site),
        **_failures(request, site),
        "failures_url": jobs_url("status:failed", request, site),
    }
    return shown | _of_all(state, state.verdict, request, site) if state.verdict else shown


def _of_all(state: Strip, verdict: Verdict, request: HttpRequest, site: AdminSite) -> dict[str, Any]:
    """What is told of all jobs."""
    now = timezone.now()
    hour = figures.series("minute", now - _HOUR + _MINUTE, now)
    censuses = figures.censuses(now - _HOUR + _MINUTE, now)
    name = _range_name(request)
    url = reverse("admin:django_jobs_dashboard_changelist", current_app=site.name)
    silent = Worker.objects.silent() if holds(request.user, "view_worker") else Worker.objects.none()
    return {
        "cards": list(_cards(hour, censuses, state, verdict, request, site)),
        "lacks_figures": verdict.failed_last_hour is None,
        "lacks": [lack.reason for engine in all_engines() if (lack := engine.lack_of("plain_jobs"))],
        "ranges": [
            Link(each.title, f"{url}?range={key}", is_current=key == name) for key, each in RANGES.items()
        ],
        "chart_heading": RANGES[name].heading,
        "chart": _chart(RANGES[name], hour, now),
        "queues": list(_queues(hour, verdict, request, site)),
        "tasks": list(_tasks(request, site)),
        "silent": list(silent.order_by("-seen_at")[:MOST_LISTED]),
        "workers_url": place("workers", request, site),
    }


def _range_name(request: HttpRequest) -> str:
    name = request.GET.get("range", "")
    return name if name in RANGES else USUAL_RANGE


def _cards(
    hour: Sequence[Figures],
    censuses: Sequence[Census | None],
    state: Strip,
    verdict: Verdict,
    request: HttpRequest,
    site: AdminSite,
) -> Iterator[Card]:
    running, waiting, failed, *_ = state.figures
    yield Card(
        *(running.name, running.value, running.url),
        course=_course(censuses, "running", verdict.running, gettext("Running in each minute")),
    )
    oldest = verdict.oldest_waiting_seconds
    note = "" if oldest is None else gettext("oldest {age}").format(age=duration_text(round(oldest)))
    yield Card(
        *(waiting.name, waiting.value, waiting.url, note),
        course=_course(censuses, "waiting", verdict.waiting, gettext("Waiting in each minute")),
    )
    total = figures.together(hour[0].start, hour)
    finished = sum(each.finished for each in hour[-6:-1]) / 5
    yield Card(
        gettext("Finished per minute"),
        gettext("not known") if verdict.failed_last_hour is None else count_text(finished),
        jobs_url("status:finished", request, site),
        gettext("in the last 5 minutes"),
        sparkline([each.finished for each in hour[:-1]], gettext("Finished per minute")),
    )
    yield Card(
        failed.name,
        failed.value,
        failed.url,
        gettext("{rate} of all").format(rate=percentage(total.failure_rate)) if total.ended else "",
        sparkline([each.failed for each in hour[:-1]], gettext("Failed per minute")),
        "bad" if verdict.failed_last_hour else "",
    )
    yield Card(
        gettext("Wait, 95th percentile"),
        _duration(total.wait_p95_seconds),
        note=gettext("median {wait}").format(wait=_duration(total.wait_p50_seconds)) if total.ended else "",
        course=sparkline(
            [each.wait_p95_seconds for each in hour],
            gettext("Wait in each minute, 95th percentile"),
            duration_text,
        ),
    )
    yield Card(
        gettext("Workers"),
        capped(verdict.workers, MOST_WORKERS),
        place("workers", request, site),
        ngettext("{count} gone silent", "{count} gone silent", verdict.silent).format(count=verdict.silent)
        if verdict.silent
        else "",
        _course(censuses, "workers", verdict.workers, gettext("Workers in each minute"), MOST_WORKERS),
        tone="warn" if verdict.silent else "",
    )


def _course(
    censuses: Sequence[Census | None], name: str, now: int, label: str, most: int = MOST_COUNTED
) -> SafeString | str:
    """What was counted in each minute, at last what is now; nothing before anything was counted."""
    counted = [None if census is None else getattr(census, name) for census in censuses[:-1]]
    if not any(censuses[:-1]):
        return ""
    return sparkline([*counted, now], label, lambda count: capped(int(count), most))


def _chart(chosen: Range, hour: Sequence[Figures], now: datetime) -> SafeString:
    rows = hour
    if chosen.bucket != _MINUTE:
        current = _begin(now, chosen.bucket)
        rows = figures.series(chosen.period, current + chosen.bucket - chosen.span, now)
    size = chosen.bucket // (_MINUTE if chosen.period == "minute" else _HOUR)
    points = [
        Point(each.start, each.finished, each.failed, each.wait_p50_seconds, each.wait_p95_seconds)
        for each in (
            figures.together(rows[at].start, rows[at : at + size]) for at in range(0, len(rows), size)
        )
    ]
    return throughput(points, bucket=chosen.bucket, now=now, log=True)


def _begin(moment: datetime, bucket: timedelta) -> datetime:
    """When the bucket began in which this moment lies."""
    return moment - (moment - datetime(1970, 1, 1, tzinfo=UTC)) % bucket


def _queues(
    hour: Sequence[Figures], verdict: Verdict, request: HttpRequest, site: AdminSite
) -> Iterator[dict[str, Any]]:
    """Those that something is wrong with, a row each."""
    troubled = verdict.queues[:MOST_LISTED]
    if not troubled:
        return
    names = [each.name for each in troubled]
    courses = figures.series_by_queue("minute", hour[0].start, hour[-1].start, names)
    for each in troubled:
        yield {
            "name": each.name,
            "url": jobs_url(f"status:queued queue:{quoted(each.name)}", request, site),
            "trouble": TROUBLES[each.trouble],
            "tone": "paused" if each.trouble == "paused" else "warning",
            "waiting": capped(each.waiting, MOST_TOLD),
            "since": each.since,
            "course": sparkline(
                [row.finished for row in courses[each.name]], gettext("Finished per minute, in the last hour")
            ),
        }


def _tasks(request: HttpRequest, site: AdminSite) -> Iterator[dict[str, Any]]:
    """The tasks that fail most, a row each."""
    for task, total in figures.by_task(LATELY, MOST_LISTED):
        if total.failed:
            yield {
                "name": task,
                "url": jobs_url(f"status:failed task:{quoted(task)}", request, site),
                "failed": number_format(total.failed, force_grouping=True),
                "ended": number_format(total.ended, force_grouping=True),
                "rate": percentage(total.failure_rate),
            }


def _is_empty(request: HttpRequest) -> bool:
    """Whether this user has no job to see; not of who may have older ones, beyond what is looked through."""
    newest = searching.page(visible(request.user, Job.objects.only("task")), Search(), size=1)
    return not newest.jobs and newest.looked_until is None


def _failures(request: HttpRequest, site: AdminSite) -> dict[str, Any]:
    """What failed last, and to when was looked for it where others may have failed before."""
    failed = Job.objects.by_failure()
    seen = visible(request.user, Job.objects.all())
    looked_until = None
    if seen.query.has_filters():
        ends = failed.values_list("finished_at", flat=True)
        looked_until = next(iter(ends[MOST_LOOKED_THROUGH : MOST_LOOKED_THROUGH + 1]), None)
        failed = failed.filter(any_row(seen.filter(pk=OuterRef("pk"))))
    if looked_until:
        failed = failed.filter(finished_at__gt=looked_until)
    columns = ("task", "observed_id", "queue", "error_type", "error_message", "finished_at")
    newest = list(listed(failed.only(*columns), request.user)[:MOST_LISTED])
    failures = [
        Failure(
            call=call_text(job) if may_see_values(request.user) else f"{job.task}(…)",
            url=reverse("admin:django_jobs_job_change", args=[job.pk], current_app=site.name),
            error=Truncator(error_text(job)).chars(120),
            queue=job.queue,
            at=job.finished_at,
        )
        for job in newest
    ]
    return {"failures": failures, "looked_until": looked_until if len(newest) < MOST_LISTED else None}


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else duration_text(seconds)
