"""Queues: what waits on them, how long that takes, and who takes from them. See `queue_actions`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import zip_longest
from typing import Any

from django.contrib.admin import AdminSite
from django.contrib.admin.utils import quote, unquote
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.utils.formats import number_format
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from .. import figures, monitor, searching
from ..engines import lack_of
from ..exceptions import UnknownQueue
from ..figures import Figures
from ..models import Job, QueueEvent
from ..models.figures import BOUNDS
from ..models.workers import MOST_COUNTED
from ..monitor import QueueFigures
from ..searching import MOST_LISTED, Search
from ..verdict import capped
from ..visibility import visible
from . import strip
from .badges import badge, passing, standing
from .base import page
from .buttons import check, may, url
from .charts import Point, sparkline, throughput
from .live import partial
from .scales import duration_text
from .seeing import listed, short_call

PAGE = 50
SPAN = timedelta(hours=1)
MOST_NEWEST = 10

EVENTS: dict[str, Any] = {
    QueueEvent.Kind.PAUSED: _("paused"),
    QueueEvent.Kind.RESUMED: _("resumed"),
    QueueEvent.Kind.EMPTIED: _("emptied"),
}


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A queue as it is shown. `drain` is how long it takes to be empty; `drain_note`, why nobody knows."""

    name: str
    url: str
    figures: QueueFigures
    state: SafeString
    paused_since: SafeString | str
    paused_by: str
    queued: str
    scheduled: str
    running: str
    undelivered: str
    """Empty while its server cannot be asked."""
    lack: str
    """Why nobody knows of the plain jobs on it."""
    oldest: SafeString | str
    drain: str
    drain_note: str
    ended: str
    spark: SafeString
    jobs_url: str
    pause_url: str
    resume_url: str


def queues_view(request: HttpRequest, site: AdminSite) -> HttpResponseBase:
    check(request, "view_queue")
    context = _listed(request, site)
    region = url(site, "queues_region")
    context["region_url"] = f"{region}?page={context['page'].number}"
    return page(request, site, "admin/django_jobs/queues.html", context, title=gettext("Queues"))


def queues_region(request: HttpRequest, site: AdminSite) -> HttpResponseBase:
    check(request, "view_queue")
    return partial(request, "admin/django_jobs/_queues.html", _listed(request, site))


def queue_view(request: HttpRequest, site: AdminSite, name: str) -> HttpResponseBase:
    check(request, "view_queue")
    name = unquote(name)
    context = {**_told(request, site, name), "region_url": url(site, "queue_region", quote(name))}
    return page(request, site, "admin/django_jobs/queue.html", context, title=name)


def queue_region(request: HttpRequest, site: AdminSite, name: str) -> HttpResponseBase:
    check(request, "view_queue")
    return partial(request, "admin/django_jobs/_queue.html", _told(request, site, unquote(name)))


def _listed(request: HttpRequest, site: AdminSite) -> dict[str, Any]:
    """The context of `_queues.html`."""
    shown = Paginator(monitor.queue_names(), PAGE).get_page(request.GET.get("page"))
    queues = monitor.queues(list(shown.object_list))
    names = [queue.name for queue in queues]
    now = timezone.now()
    hour = figures.series_by_queue("minute", now - SPAN, now, names)
    pauses, is_counted = monitor.pauses(names), not figures.uncounted().exists()
    rows = [_row(request, site, queue, hour[queue.name], pauses, is_counted) for queue in queues]
    return {
        "rows": rows,
        "lacks": list(dict.fromkeys(row.lack for row in rows if row.lack)),
        "page": shown,
        "may_manage": may(request.user, "manage_queue"),
        "formula": _formula(),
    }


def _told(request: HttpRequest, site: AdminSite, name: str) -> dict[str, Any]:
    """The context of `_queue.html`."""
    queue = queue_figures(name)
    if queue is None:
        known_name(name)
    now = timezone.now()
    hour = figures.series("minute", now - SPAN, now, queue=name)
    pauses, is_counted = monitor.pauses([name]), not figures.uncounted().exists()
    newest: list[Job] = []
    tasks: list[str] = []
    if request.user.has_perm("django_jobs.view_job"):
        jobs, search = visible(request.user, Job.objects.all()), Search().where("queue", name)
        found = searching.page(jobs.only("task"), search, size=MOST_LISTED).jobs
        tasks = [job.task for job in found]
        jobs = listed(jobs.defer("result", "traceback", "meta", "live_log"), request.user)
        newest = list(jobs.filter(pk__in=[job.pk for job in found[:MOST_NEWEST]]).order_by("-pk"))
    return {
        "name": name,
        "row": _row(request, site, queue, hour, pauses, is_counted) if queue else None,
        "throughput": throughput(_points(hour), bucket=timedelta(minutes=1), now=now),
        "waits": _histogram(
            [sum(counts) for counts in zip_longest(*(each.waits for each in hour), fillvalue=0)]
        ),
        "tasks": Counter(tasks).most_common(MOST_NEWEST),
        "looked_at": len(tasks),
        "may_see_jobs": request.user.has_perm("django_jobs.view_job"),
        "jobs": [_job(request, site, job) for job in newest],
        "jobs_url": strip.jobs_url(queue_search(name), request, site),
        "events": [
            {"what": EVENTS.get(event.kind, event.kind), "at": passing(event.at), "event": event}
            for event in monitor.queue_events(name)
        ],
        "may_manage": may(request.user, "manage_queue"),
        "may_move": may(request.user, "bulk_job", "move_job"),
        "empty_url": url(site, "queue_empty", quote(name)),
        "move_url": url(site, "queue_move", quote(name)),
        "formula": _formula(),
    }


def queue_figures(name: str) -> QueueFigures | None:
    """None for a queue that has only ended jobs and is not declared."""
    return next(iter(monitor.queues([name])), None)


def known_name(name: str) -> str:
    """The name; raises `Http404` where no queue has it."""
    try:
        monitor.check_queue(name)
    except UnknownQueue as problem:
        raise Http404(str(problem)) from problem
    return name


def _row(
    request: HttpRequest,
    site: AdminSite,
    queue: QueueFigures,
    hour: Sequence[Figures],
    pauses: Mapping[str, QueueEvent],
    is_counted: bool,
) -> QueueRow:
    drain, drain_note = _drain(queue, hour, is_counted)
    pause = pauses.get(queue.name)
    lack = lack_of(queue.engine, "plain_jobs")
    ended = number_format(sum(each.ended for each in hour), force_grouping=True)
    told = gettext("{queue}: attempts that ended, a minute each in the last hour").format(queue=queue.name)
    return QueueRow(
        name=queue.name,
        url=url(site, "queue", quote(queue.name)),
        figures=queue,
        state=_state(queue),
        paused_since=passing(pause.at) if pause and queue.paused else "",
        paused_by=str(pause.by or gettext("code")) if pause and queue.paused else "",
        queued=capped(queue.queued),
        scheduled=capped(queue.scheduled),
        running=capped(queue.started),
        undelivered="" if queue.undelivered is None else capped(queue.undelivered),
        lack=lack.reason if lack else "",
        oldest=passing(queue.waiting_since) if queue.waiting_since else "",
        drain=drain,
        drain_note=drain_note,
        ended=ended if is_counted else gettext("not known"),
        spark=sparkline([each.ended for each in hour[:-1]], told),  # The present minute has just begun.
        jobs_url=strip.jobs_url(queue_search(queue.name, status="queued"), request, site),
        pause_url=url(site, "queue_pause", quote(queue.name)),
        resume_url=url(site, "queue_resume", quote(queue.name)),
    )


def _state(queue: QueueFigures) -> SafeString:
    if queue.paused:
        return badge("paused", gettext("paused"))
    if queue.error:
        return badge("warning", gettext("in trouble") if queue.server else gettext("not declared"))
    if not queue.workers:
        return badge("warning", gettext("nobody listens"))
    if queue.started or queue.queued:
        return badge("busy", gettext("busy"))
    return badge("idle", gettext("idle"))


def _drain(queue: QueueFigures, hour: Sequence[Figures], is_counted: bool) -> tuple[str, str]:
    runs = sum(sum(each.runs) for each in hour)
    mean = sum(each.run_seconds for each in hour) / runs if runs else None
    if not queue.queued:
        return gettext("nothing waits"), ""
    seconds = queue.seconds_to_drain(mean)
    if seconds is not None:
        text = duration_text(round(seconds, 1))
        return (gettext("at least {duration}") if queue.queued >= MOST_COUNTED else "{duration}").format(
            duration=text
        ), ""
    if queue.paused:
        return gettext("unknown"), gettext("it is paused")
    if not queue.server:
        return gettext("unknown"), gettext("it is not declared")
    if not queue.slots:
        return gettext("unknown"), gettext("nobody listens")
    if not is_counted:
        return gettext("unknown"), gettext("no maintainer counts what ends")
    return gettext("unknown"), gettext("nothing has run in the last hour")


def _formula() -> str:
    return gettext(
        "Time to drain: queued jobs, times the mean run time of the last hour, divided by how many jobs the "
        "listening workers run at a time. They may serve other queues as well, and new jobs may come."
    )


def _points(series: Sequence[Figures]) -> list[Point]:
    return [
        Point(each.start, each.finished, each.failed, each.wait_p50_seconds, each.wait_p95_seconds)
        for each in series
    ]


def _histogram(counts: Sequence[int]) -> list[dict[str, Any]]:
    """A line for each bucket from the first to the last that has any."""
    filled = [number for number, count in enumerate(counts) if count]
    if not filled:
        return []
    most = max(counts)
    lines = []
    for number in range(filled[0], filled[-1] + 1):
        is_last = number == len(BOUNDS)
        said = gettext("over {duration}") if is_last else gettext("up to {duration}")
        bound = BOUNDS[-1] if is_last else BOUNDS[number]
        count = number_format(counts[number], force_grouping=True)
        lines.append(
            {
                "text": said.format(duration=duration_text(bound)),
                "count": count,
                "amount": counts[number],
                "most": most,
            }
        )
    return lines


def _job(request: HttpRequest, site: AdminSite, job: Job) -> dict[str, Any]:
    return {
        "id": str(job.pk),
        "call": short_call(job, request.user),
        "url": url(site, "job_change", job.pk),
        "badge": standing(job).badge,
        "at": passing(job.created_at),
    }


def queue_search(name: str, **qualifiers: str) -> str:
    return searching.replaced("", {"queue": name, **qualifiers})
