"""Workers: whether they live, what they run, and what can be asked of them."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib.admin import AdminSite
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponseNotAllowed, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.template.defaultfilters import filesizeformat
from django.utils.formats import number_format
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext

from .. import control, searching
from ..engines import lack_of
from ..models import Job, Worker
from ..values import is_storable
from ..visibility import visible
from .badges import badge, passing, precise_text, standing
from .base import page
from .buttons import check, check_action, confirm, done, may, note, url
from .live import partial
from .seeing import listed, short_call
from .strip import jobs_url
from .verbs import lack_to_stop

MOST_WORKERS = 200
MOST_JOBS = 1_000
"""of all these workers together"""
MOST_JOBS_SHOWN = 10
"""of one worker"""


_COLUMNS = (
    *("task", "engine", "observed_id", "status", "worker_id", "started_at", "progress"),
    *("cancel_requested_at", "elsewhere_until", "attempt", "error_type", "scheduled_for"),
)


@dataclass(frozen=True, slots=True)
class RunningJob:
    id: UUID
    call: str
    url: str
    badge: SafeString
    since: SafeString | str
    progress: int
    stop_url: str
    """Empty for a job that was asked to stop already."""
    lack: str
    """Why it cannot be stopped."""


@dataclass(frozen=True, slots=True)
class WorkerRow:
    id: UUID
    name: str
    place: str
    state: SafeString
    evidence: str
    seen: SafeString
    since: SafeString
    queues: str
    jobs: list[RunningJob]
    more: int
    memory: str
    cpu: str
    finished: str
    failed: str
    jobs_url: str
    quiet_url: str
    unquiet_url: str
    stop_url: str
    lack: str
    """Why it takes no orders."""


def workers_view(request: HttpRequest, site: AdminSite) -> HttpResponseBase:
    check(request, "view_worker")
    context = {**_listed(request, site), "region_url": _region_url(request, site)}
    return page(request, site, "admin/django_jobs/workers.html", context, title=gettext("Workers"))


def workers_region(request: HttpRequest, site: AdminSite) -> HttpResponseBase:
    check(request, "view_worker")
    return partial(request, "admin/django_jobs/_workers.html", _listed(request, site))


def quiet_view(request: HttpRequest, site: AdminSite, worker_id: UUID) -> HttpResponseBase:
    said = gettext("The worker {worker} was asked to finish what it runs and to take nothing more.")
    return _ask(request, site, worker_id, control.quiet_worker, said)


def unquiet_view(request: HttpRequest, site: AdminSite, worker_id: UUID) -> HttpResponseBase:
    return _ask(
        request,
        site,
        worker_id,
        control.unquiet_worker,
        gettext("The worker {worker} was asked to take jobs again."),
    )


def stop_view(request: HttpRequest, site: AdminSite, worker_id: UUID) -> HttpResponseBase:
    check_action(request, "view_worker", "manage_worker")
    if request.method == "POST":
        said = gettext("The worker {worker} was asked to stop.")
        return _ask(request, site, worker_id, control.stop_worker, said)
    worker = _found(worker_id)
    count = Job.objects.held_by([worker.pk]).count()
    told = ngettext(
        "It runs {count} job, for which it waits as long as its grace allows; then that is cut.",
        "It runs {count} jobs, for which it waits as long as its grace allows; then they are cut.",
        count,
    )
    lines = [told.format(count=count)] if count else [gettext("It runs no job.")]
    lines.append(gettext("Whether it is started again is up to whatever started it."))
    question = gettext("Stop the worker {worker}?").format(worker=worker.name)
    button, back = gettext("Stop it"), url(site, "workers")
    trail = [(gettext("Workers"), back)]
    return confirm(request, site, question=question, lines=lines, button=button, back=back, trail=trail)


def stop_job_view(request: HttpRequest, site: AdminSite, job_id: UUID) -> HttpResponseBase:
    check_action(request, "view_worker", "view_job", "stop_job")
    back = url(site, "workers")
    job = visible(request.user, Job.objects.filter(pk=job_id)).first()
    if job is None:
        raise Http404(f"There is no job {job_id}.")
    call = short_call(job, request.user)
    if request.method == "POST":

        def stop() -> str:
            control.stop(job, by=request.user)
            return gettext("It was asked to stop: {call}").format(call=call)

        done(request, stop)
        return HttpResponseRedirect(back)
    lines = [
        gettext("Its process is ended and the job is canceled; no attempt follows."),
        gettext("What it has done outside its transaction stays done."),
    ]
    question = gettext("Stop {call}?").format(call=call)
    button, trail = gettext("Stop it"), [(gettext("Workers"), back)]
    return confirm(request, site, question=question, lines=lines, button=button, back=back, trail=trail)


def _ask(
    request: HttpRequest,
    site: AdminSite,
    worker_id: UUID,
    verb: Callable[..., Any],
    said: str,
) -> HttpResponseBase:
    check_action(request, "view_worker", "manage_worker")
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    worker = _found(worker_id)
    told = said.format(worker=worker.name)

    def ask() -> str:
        verb(worker, by=request.user)
        note(request, worker, told)
        return told

    done(request, ask)
    return HttpResponseRedirect(url(site, "workers"))


def _found(worker_id: UUID) -> Worker:
    worker: Worker | None = Worker.objects.filter(pk=worker_id).first()
    if worker is None:
        raise Http404(f"There is no worker {worker_id}; it may have ended.")
    return worker


def _listed(request: HttpRequest, site: AdminSite) -> dict[str, Any]:
    """The context of `_workers.html`."""
    asked = request.GET.get("q", "").strip()
    chosen = Worker.objects.all()
    if asked and not is_storable(asked):
        chosen = chosen.none()
    elif asked:
        chosen = chosen.filter(Q(name__icontains=asked) | Q(hostname__icontains=asked))
    # Those that went silent first: they are what is to be seen.
    workers = list(chosen.order_by("leased_until" if not asked else "name")[: MOST_WORKERS + 1])
    shown = Worker.objects.filter(pk__in=[worker.pk for worker in workers])
    silent = set(shown.silent().values_list("pk", flat=True))
    has_more = len(workers) > MOST_WORKERS
    workers = sorted(workers[:MOST_WORKERS], key=lambda each: (each.pk not in silent, each.name))
    jobs = _jobs(request, [each.pk for each in workers])
    return {
        "rows": [_row(request, site, each, each.pk in silent, jobs[each.pk]) for each in workers],
        "asked": asked,
        "has_more": has_more,
        "may_manage": may(request.user, "manage_worker"),
        "may_stop_jobs": may(request.user, "stop_job"),
        "may_see_jobs": request.user.has_perm("django_jobs.view_job"),
    }


def _jobs(request: HttpRequest, workers: Iterable[UUID]) -> defaultdict[UUID | None, list[Job]]:
    found: defaultdict[UUID | None, list[Job]] = defaultdict(list)
    if request.user.has_perm("django_jobs.view_job"):
        jobs = listed(visible(request.user, Job.objects.held_by(workers)).only(*_COLUMNS), request.user)
        for job in jobs[:MOST_JOBS]:
            found[job.worker_id].append(job)
    return found


def _row(
    request: HttpRequest, site: AdminSite, worker: Worker, is_silent: bool, jobs: list[Job]
) -> WorkerRow:
    lack = None if is_silent else lack_of(worker.engine, "orders")
    is_deaf = is_silent or lack is not None
    can_be_unquiet = worker.order == Worker.Order.QUIET and not is_deaf
    return WorkerRow(
        id=worker.pk,
        name=worker.name,
        place=gettext("{host}, pid {pid}").format(host=worker.hostname, pid=worker.pid),
        state=_state(worker, is_silent),
        evidence=_evidence(worker, is_silent),
        seen=passing(worker.seen_at),
        since=passing(worker.started_at),
        queues=", ".join(map(str, worker.queues)),
        jobs=[_job(request, site, job) for job in jobs[:MOST_JOBS_SHOWN]],
        more=max(0, len(jobs) - MOST_JOBS_SHOWN),
        memory="" if worker.memory_bytes is None else filesizeformat(worker.memory_bytes),
        cpu=""
        if worker.cpu_percent is None
        else gettext("{percent} %").format(percent=round(worker.cpu_percent)),
        finished=number_format(worker.finished_count, force_grouping=True),
        failed=number_format(worker.failed_count, force_grouping=True),
        jobs_url=jobs_url(searching.replaced("", {"worker": worker.name}), request, site),
        quiet_url="" if is_deaf or worker.order else url(site, "worker_quiet", worker.pk),
        unquiet_url=url(site, "worker_unquiet", worker.pk) if can_be_unquiet else "",
        stop_url="" if is_deaf or worker.order == Worker.Order.STOP else url(site, "worker_stop", worker.pk),
        lack=f"{lack.reason} {lack.instead}" if lack else "",
    )


def _state(worker: Worker, is_silent: bool) -> SafeString:
    if is_silent:
        return badge("gone", gettext("silent"))
    if worker.order == Worker.Order.STOP:
        return badge("quiet", gettext("stopping"))
    if worker.state == Worker.State.QUIET or worker.order == Worker.Order.QUIET:
        return badge("quiet", gettext("quiet"))
    if worker.state == Worker.State.BUSY:
        return badge("busy", gettext("busy"))
    return badge("idle", gettext("idle"))


def _evidence(worker: Worker, is_silent: bool) -> str:
    """What the state is known by, where it is not plain."""
    if is_silent:
        said = gettext(
            "It last renewed its lease at {seen}, and that was over at {over}, without a word that it stops. "
            "What it ran is given to others, or marked as interrupted."
        )
        return said.format(seen=precise_text(worker.seen_at), over=precise_text(worker.leased_until))
    if worker.order == Worker.Order.STOP:
        return gettext("It was asked to stop, and hears of that with its next sign of life.")
    if worker.order == Worker.Order.QUIET and worker.state != Worker.State.QUIET:
        return gettext("It was asked to take nothing more, and hears of that with its next sign of life.")
    return ""


def _job(request: HttpRequest, site: AdminSite, job: Job) -> RunningJob:
    is_left = job.is_canceling or job.observed_id
    lack = None if is_left else lack_to_stop(job)
    return RunningJob(
        id=job.pk,
        call=short_call(job, request.user),
        url=url(site, "job_change", job.pk),
        badge=standing(job).badge,
        since=passing(job.started_at) if job.started_at else "",
        progress=job.progress,
        stop_url="" if is_left or lack else url(site, "worker_stop_job", job.pk),
        lack=lack.reason if lack else "",
    )


def _region_url(request: HttpRequest, site: AdminSite) -> str:
    query = request.GET.copy()
    query.pop("refresh", None)
    region = url(site, "workers_region")
    return f"{region}?{query.urlencode()}" if query else region
