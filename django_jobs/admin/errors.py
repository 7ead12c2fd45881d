"""Errors: failures grouped by what went wrong, and what somebody decides about each group."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import Any, cast

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponseNotAllowed, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.formats import number_format
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from .. import errors, operations, searching
from ..models import Attempt, ErrorGroup, Job, JobQuerySet, Operation
from ..models.counting import bounded_counts
from ..redaction import redact_text
from ..searching import Search
from ..values import is_storable
from ..verdict import capped
from ..visibility import visible
from . import strip
from .acting import with_query
from .badges import badge, passing, standing
from .base import JobsPage, LookOnly
from .buttons import check_action, confirm, done, may, note, url
from .charts import Point, sparkline, throughput
from .live import partial
from .permissions import holds
from .scales import moment_text
from .seeing import listed, marked_traceback, may_see_values, may_see_workers, short_call

PAGE = 25
MOST_NAMED = 3
"""tasks and workers of a group in the list"""
MOST_NAMED_ON_PAGE = 20
MOST_NEWEST = 10
HOURS = 24

WORDS: dict[str, Any] = {
    ErrorGroup.State.OPEN: _("open"),
    ErrorGroup.State.RESOLVED: _("resolved"),
    ErrorGroup.State.IGNORED: _("ignored"),
}
PERIODS: dict[str, tuple[Any, timedelta | None]] = {
    "hour": (_("for 1 hour"), timedelta(hours=1)),
    "day": (_("for 1 day"), timedelta(days=1)),
    "week": (_("for 1 week"), timedelta(weeks=1)),
    "ever": (_("for ever"), None),
}
"""How long a group can be ignored."""


@dataclass(frozen=True, slots=True)
class GroupRow:
    key: str
    url: str
    error_type: str
    message: str
    frame: str
    state: SafeString
    note: str
    count: str
    spark: SafeString
    first_seen: SafeString
    last_seen: SafeString
    tasks: str
    workers: str
    failed: str
    failed_url: str


@admin.register(ErrorGroup)
class ErrorGroupAdmin(JobsPage, LookOnly, admin.ModelAdmin):
    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("region/", view(self.list_region, cacheable=True), name="django_jobs_errors_region"),
            path(
                "<str:key>/region/", view(self.group_region, cacheable=True), name="django_jobs_error_region"
            ),
            path("<str:key>/resolve/", view(self.resolve_view), name="django_jobs_error_resolve"),
            path("<str:key>/ignore/", view(self.ignore_view), name="django_jobs_error_ignore"),
            path("<str:key>/reopen/", view(self.reopen_view), name="django_jobs_error_reopen"),
            path("<str:key>/requeue/", view(self.requeue_view), name="django_jobs_error_requeue"),
            *super().get_urls(),
        ]

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """What is told of a group is told of all jobs that failed so."""
        return super().has_view_permission(request, obj) and holds(request.user, "view_errorgroup")

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        self._check_view(request)
        region = url(self.admin_site, "errors_region")
        context = {
            **self._listed(request),
            "region_url": with_query(region, state=_state(request), before=_before(request)),
        }
        return self.page(request, "admin/django_jobs/errors.html", context, title=gettext("Errors"))

    def list_region(self, request: HttpRequest) -> HttpResponseBase:
        self._check_view(request)
        return partial(request, "admin/django_jobs/_errors.html", self._listed(request))

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        self._check_view(request)
        group = self._group(object_id or "")
        context = {
            **self._told(request, group),
            "region_url": url(self.admin_site, "error_region", group.pk),
        }
        return self.page(request, "admin/django_jobs/error.html", context, title=_title(group))

    def group_region(self, request: HttpRequest, key: str) -> HttpResponseBase:
        self._check_view(request)
        return partial(request, "admin/django_jobs/_error.html", self._told(request, self._group(key)))

    def resolve_view(self, request: HttpRequest, key: str) -> HttpResponseBase:
        told = gettext("Resolved. It opens again when it comes up again.")
        return self._decide(request, key, told, lambda group: errors.resolve(group, by=request.user))

    def ignore_view(self, request: HttpRequest, key: str) -> HttpResponseBase:
        label, length = PERIODS.get(request.POST.get("period", ""), PERIODS["day"])
        until = timezone.now() + length if length else None
        told = gettext("Ignored {period}.").format(period=label)
        return self._decide(
            request, key, told, lambda group: errors.ignore(group, by=request.user, until=until)
        )

    def reopen_view(self, request: HttpRequest, key: str) -> HttpResponseBase:
        told = gettext("It is open again.")
        return self._decide(request, key, told, lambda group: errors.reopen(group, by=request.user))

    def requeue_view(self, request: HttpRequest, key: str) -> HttpResponseBase:
        self._check_view(request)
        check_action(request, "bulk_job", "requeue_job")
        group = self._group(key)
        back = url(self.admin_site, "errorgroup_change", group.pk)
        if request.method != "POST":
            [count] = _failed_counts(request, [group]).values()
            told = ngettext(
                "{count} failed job of this group will be requeued.",
                "{count} failed jobs of this group will be requeued.",
                count,
            )
            lines = [
                _title(group),
                told.format(count=capped(count)),
                gettext("This goes on in the background, and can be aborted."),
            ]
            return confirm(
                request,
                self.admin_site,
                question=gettext("Requeue the failed jobs of this error?"),
                lines=lines,
                button=gettext("Requeue them"),
                back=back,
                trail=[
                    (gettext("Errors"), url(self.admin_site, "errorgroup_changelist")),
                    (group.error_type, back),
                ],
                is_harsh=False,
            )
        begun: list[Operation] = []

        def start() -> str:
            begun.append(operations.start(Operation.Verb.REQUEUE, _search(group), by=request.user))
            return gettext("It goes on in the background; here you see how far it is.")

        if not done(request, start):
            return HttpResponseRedirect(back)
        return HttpResponseRedirect(url(self.admin_site, "operation_change", begun[0].pk))

    def _check_view(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied

    def _group(self, key: str) -> ErrorGroup:
        known = ErrorGroup.objects.select_related("changed_by")
        group: ErrorGroup | None = known.filter(pk=key).first() if is_storable(key) else None
        if group is None:
            raise Http404("There is no such group of errors; it may have been deleted.")
        return group

    def _decide(
        self, request: HttpRequest, key: str, told: str, decide: Callable[[ErrorGroup], Any]
    ) -> HttpResponseBase:
        self._check_view(request)
        check_action(request, "resolve_errorgroup")
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        group = self._group(key)

        def say() -> str:
            decide(group)
            note(request, group, told)
            return told

        done(request, say)
        return HttpResponseRedirect(url(self.admin_site, "errorgroup_change", group.pk))

    def _listed(self, request: HttpRequest) -> dict[str, Any]:
        """The context of `_errors.html`."""
        state = _state(request)
        chosen = _of_state(state).order_by("-last_seen", "pk")
        if after := _place(_before(request)):
            moment, key = after
            chosen = chosen.filter(Q(last_seen__lt=moment) | Q(last_seen=moment, pk__gt=key))
        found = list(chosen[: PAGE + 1])
        groups = found[:PAGE]
        sparks = errors.sparklines(groups, HOURS)
        failed = _failed_counts(request, groups)
        here = url(self.admin_site, "errorgroup_changelist")
        more = f"{groups[-1].last_seen.isoformat()} {groups[-1].pk}" if len(found) > PAGE else ""
        return {
            "state": state,
            "tabs": [
                {
                    "word": word,
                    "url": with_query(here, state=name),
                    "count": capped(_of_state(name).order_by()[:10_000].count()),
                    "is_current": name == state,
                }
                for name, word in WORDS.items()
            ],
            "rows": [self._row(request, each, sparks.get(each.pk, []), failed[each.pk]) for each in groups],
            "older_url": with_query(here, state=state, before=more) if more else "",
            "newest_url": with_query(here, state=state) if _before(request) else "",
        }

    def _row(self, request: HttpRequest, group: ErrorGroup, hours: list[int], failed: int) -> GroupRow:
        told = gettext("{error}: failures, an hour each in the last day").format(error=group.error_type)
        return GroupRow(
            key=group.pk,
            url=url(self.admin_site, "errorgroup_change", group.pk),
            error_type=group.error_type,
            message=Truncator(redact_text(group.message)).chars(160),
            frame=group.frame,
            state=_badge(group),
            note=_note(group),
            count=number_format(group.count, force_grouping=True),
            spark=sparkline(hours, told),
            first_seen=passing(group.first_seen),
            last_seen=passing(group.last_seen),
            tasks=_named(name.rpartition(".")[2] for name, _count in _sorted(group.tasks)),
            workers=_named(name for name, _count in _sorted(group.workers))
            if may_see_workers(request.user)
            else "",
            failed=capped(failed),
            failed_url=strip.jobs_url(_search(group), request, self.admin_site),
        )

    def _told(self, request: HttpRequest, group: ErrorGroup) -> dict[str, Any]:
        """The context of `_error.html`."""
        hours = errors.sparklines([group], HOURS).get(group.pk, [])
        failed = _failed_counts(request, [group])[group.pk]
        may_see_jobs = holds(request.user, "view_job")
        jobs = visible(request.user, Job.objects.all())
        newest: list[Job] = []
        sample: Attempt | None = None
        if may_see_jobs:
            search = Search().where("fingerprint", group.pk)
            newest = searching.page(listed(jobs, request.user), search, size=MOST_NEWEST).jobs
            named = jobs.filter(pk__in=[group.sample]).only("pk").first()
            sample = _sample(group, named or (newest[0] if newest else None))
        may_decide = may(request.user, "resolve_errorgroup")
        is_open = group.state == ErrorGroup.State.OPEN or _is_ignored_till_now(group)
        site, key = self.admin_site, group.pk
        return {
            "row": self._row(request, group, hours, failed),
            "message": redact_text(group.message),
            "changed_by": str(group.changed_by or "") if group.changed_at else "",
            "changed_at": passing(group.changed_at) if group.changed_at else "",
            "chart": _chart(hours),
            "tasks": _counted(group.tasks),
            "workers": _counted(group.workers) if may_see_workers(request.user) else [],
            "may_see_jobs": may_see_jobs,
            "jobs": [self._job(request, job) for job in newest],
            "sample": sample,
            "sample_url": url(site, "job_change", sample.job_id) if sample else "",
            "traceback": marked_traceback(sample.traceback)
            if sample and may_see_values(request.user)
            else "",
            "may_see_values": may_see_values(request.user),
            "periods": [(name, label) for name, (label, _length) in PERIODS.items()],
            "resolve_url": url(site, "error_resolve", key)
            if may_decide and group.state != "resolved"
            else "",
            "ignore_url": url(site, "error_ignore", key) if may_decide and group.state != "resolved" else "",
            "reopen_url": url(site, "error_reopen", key) if may_decide and not is_open else "",
            "requeue_url": url(site, "error_requeue", key)
            if failed and may(request.user, "bulk_job", "requeue_job")
            else "",
        }

    def _job(self, request: HttpRequest, job: Job) -> dict[str, Any]:
        return {
            "id": str(job.pk),
            "call": short_call(job, request.user),
            "url": url(self.admin_site, "job_change", job.pk),
            "badge": standing(job).badge,
            "at": passing(job.finished_at) if job.finished_at else "",
        }


def _title(group: ErrorGroup) -> str:
    message = redact_text(group.message)
    told = f"{group.error_type}: {message}" if message else group.error_type
    return Truncator(told).chars(100)


def _of_state(state: str) -> QuerySet[ErrorGroup]:
    groups = ErrorGroup.objects
    chosen: dict[str, Callable[[], QuerySet[ErrorGroup]]] = {
        "open": groups.open,
        "resolved": groups.resolved,
        "ignored": groups.ignored,
    }
    return chosen[state]()


def _state(request: HttpRequest) -> str:
    asked = request.GET.get("state", "")
    return asked if asked in ErrorGroup.State.values else ErrorGroup.State.OPEN.value


def _before(request: HttpRequest) -> str:
    return request.GET.get("before", "")


def _place(text: str) -> tuple[Any, str] | None:
    """Behind which group a page begins; None for the first page, and for what is no place."""
    moment, _space, key = text.rpartition(" ")
    try:
        at = parse_datetime(moment)
        if at is None or timezone.is_naive(at) or not is_storable(key):
            return None
        return at.astimezone(UTC), key
    except (ValueError, OverflowError):
        return None


def _failed_counts(request: HttpRequest, groups: Iterable[ErrorGroup]) -> dict[str, int]:
    """How many jobs of each group are failed and wait for somebody's decision."""
    jobs = cast("JobQuerySet", visible(request.user, Job.objects.all()))
    return bounded_counts({group.pk: jobs.failed_as(group.pk) for group in groups})


def _search(group: ErrorGroup) -> str:
    return f"status:failed fingerprint:{group.pk}"


def _badge(group: ErrorGroup) -> SafeString:
    state = ErrorGroup.State.OPEN if _is_ignored_till_now(group) else group.state
    return badge(state, str(WORDS.get(state, state)))


def _is_ignored_till_now(group: ErrorGroup) -> bool:
    return (
        group.state == ErrorGroup.State.IGNORED
        and group.ignored_until is not None
        and group.ignored_until <= timezone.now()
    )


def _note(group: ErrorGroup) -> str:
    """Who decided what, and until when."""
    if group.state == ErrorGroup.State.OPEN and group.reopened_at:
        said = gettext("came back at {time} after it was resolved")
        return said.format(time=moment_text(group.reopened_at))
    if group.state == ErrorGroup.State.IGNORED and not _is_ignored_till_now(group):
        if group.ignored_until:
            return gettext("until {time}").format(time=moment_text(group.ignored_until))
        return gettext("for ever")
    return ""


def _named(names: Iterable[str]) -> str:
    """The first of these, and how many others there are."""
    named = list(names)
    shown, more = ", ".join(named[:MOST_NAMED]), len(named) - MOST_NAMED
    return gettext("{names} and {count} more").format(names=shown, count=more) if more > 0 else shown


def _counted(counts: Any) -> list[tuple[str, str]]:
    return [
        (str(name), number_format(count, force_grouping=True))
        for name, count in _sorted(counts)[:MOST_NAMED_ON_PAGE]
    ]


def _sorted(counts: Any) -> list[tuple[str, int]]:
    return sorted(dict(counts or {}).items(), key=lambda each: (-each[1], each[0]))


def _chart(counts: list[int]) -> SafeString:
    """The failures of each hour; the present one is the last."""
    now, hour = timezone.now(), timedelta(hours=1)
    last = now.replace(minute=0, second=0, microsecond=0)
    points = [Point(last - hour * back, 0, count) for back, count in enumerate(reversed(counts))]
    return throughput(points[::-1], bucket=hour, now=now)


def _sample(group: ErrorGroup, job: Job | None) -> Attempt | None:
    """The newest attempt of a job of this group that failed so."""
    attempts = Attempt.objects.filter(job=job, error_type=group.error_type) if job else Attempt.objects.none()
    newest: Attempt | None = attempts.order_by("-number").first()
    return newest
