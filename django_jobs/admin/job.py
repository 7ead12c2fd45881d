"""The page of one job: how it stands, how it got there, and what can be done about it."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponseNotAllowed, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from .. import control, searching
from ..exceptions import JobsError
from ..models import Attempt, Job
from ..redaction import redact_text
from ..searching import Search
from ..states import CANCELED, FAILED
from ..visibility import visible
from .acting import ActsOnJobs
from .badges import OUTCOMES, WORDS, Standing, badge, full_standing, passing, precise_text, standing
from .base import error_text, pretty_json
from .buttons import check_action, may
from .charts import meter
from .code import job_code
from .differences import differences
from .forms import CallForm
from .live import partial
from .permissions import holds
from .refusals import refusal_text
from .scales import duration_text
from .seeing import (
    Shown,
    cut,
    json_text,
    listed,
    long_call,
    marked_traceback,
    masked,
    may_see_values,
    may_see_workers,
    named_arguments,
    short_call,
)
from .timeline_chart import timeline
from .timelines import segments
from .verbs import VERBS

MOST_ATTEMPTS = 10
MOST_DRAWN = 30
MOST_EVENTS = 100
MOST_RELATED = 10
MOST_READ = 50
"""Jobs made from, or enqueued by, one that are read; the newest of them are shown."""

TO_EDIT = ("requeue_job", "edit_job_arguments", "view_job_arguments")
"""The permissions it takes to requeue a job with other arguments: whoever edits them sees them."""

STAGES = {
    "pending": ("queued", _("pending")),
    "processing": ("started", _("running")),
    "completed": ("finished", _("done")),
}

EVENTS = {
    "enqueued": _("enqueued"),
    "cancel_requested": _("asked to stop"),
    "canceled": _("canceled"),
    "requeued": _("requeued"),
    "run_now": _("run before its time"),
    "marked_failed": _("marked as failed"),
    "moved": _("moved"),
    "reported": _("reported from elsewhere"),
    "worker_lost": _("worker lost"),
    "redelivered": _("delivered anew"),
    "late_report": _("late report"),
}


@dataclass(frozen=True)
class ShownAttempt:
    number: int
    badge: SafeString
    worker: str
    started: SafeString
    took: str
    error: str
    traceback: SafeString | str
    log: str
    url: str
    is_open: bool


@dataclass(frozen=True)
class Related:
    """Another job that has to do with this one, and how."""

    how: Any
    call: str
    url: str
    standing: Standing
    enqueued: SafeString


class ShowsJob(ActsOnJobs):
    """The part of the jobs' ModelAdmin that shows one of them."""

    def get_queryset(self, request: HttpRequest) -> QuerySet[Job]:
        """For what is left of Django's own views."""
        return visible(request.user, Job.objects.all())

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        if not self.has_view_permission(request):  # type: ignore[attr-defined]
            raise PermissionDenied
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET"])
        job = self._job(request, object_id)
        values = may_see_values(request.user)
        context = {
            **self._head(request, job),
            **self._past(request, job),
            "arguments": _shown_arguments(job) if values else [],
            "meta": Shown("meta", pretty_json(masked("meta", job.meta))) if values and job.meta else None,
            "code": cut(job_code(job)) if values and not job.observed_id else "",
            "related": list(self._related(request, job)),
            "columns": list(_columns(job, values)),
            "act_url": self.own_url("act"),
            "head_url": self.own_url("head", job.pk),
            "past_url": self.own_url("past", job.pk),
        }
        title = short_call(job, request.user)
        return self.page(  # type: ignore[attr-defined]
            request, "admin/django_jobs/job.html", context | (extra_context or {}), title=title
        )

    def head_view(self, request: HttpRequest, job_id: UUID) -> HttpResponseBase:
        """The region of a job's page that tells how it stands."""
        if not self.has_view_permission(request):  # type: ignore[attr-defined]
            raise PermissionDenied
        context = self._head(request, self._job(request, job_id))
        return partial(request, "admin/django_jobs/_job_head.html", context)

    def past_view(self, request: HttpRequest, job_id: UUID) -> HttpResponseBase:
        """The region of a job's page that tells what has happened."""
        if not self.has_view_permission(request):  # type: ignore[attr-defined]
            raise PermissionDenied
        context = self._past(request, self._job(request, job_id))
        return partial(request, "admin/django_jobs/_job_past.html", context)

    def edit_view(self, request: HttpRequest, job_id: UUID) -> HttpResponseBase:
        """Requeue a job with other arguments: a form, then what differs, then a new job."""
        if not self.has_view_permission(request):  # type: ignore[attr-defined]
            raise PermissionDenied
        check_action(request, *TO_EDIT)
        job = self._job(request, job_id)
        if not _is_editable(job):
            messages.warning(request, gettext("Only jobs that have ended can be requeued."))
            return HttpResponseRedirect(self.job_url(job.pk))
        sent = request.POST if request.method == "POST" else None
        form = CallForm(job.task, sent, args=job.args, kwargs=job.kwargs)
        call = long_call(job, request.user)
        context = {"job": job, "form": form, "call": call}
        context |= {"job_url": self.job_url(job.pk), "edit_url": self.own_url("edit", job.pk)}
        if sent is not None and form.is_valid() and "back" not in sent:
            args, kwargs = form.arguments()
            if "confirmed" not in sent:
                context["differences"] = list(differences(job, args, kwargs))
                title = gettext("Requeue with these arguments?")
                return self.page(request, "admin/django_jobs/job_edit_confirm.html", context, title=title)  # type: ignore[attr-defined,no-any-return]
            try:
                again = control.requeue_edited(job, args, kwargs, by=request.user)
            except (JobsError, TypeError, ValueError) as refusal:
                form.add_error(None, refusal_text(refusal))
            else:
                messages.success(request, gettext("Requeued as this new job."))
                return HttpResponseRedirect(self.job_url(again.pk))
        title = gettext("Edit and requeue")
        return self.page(request, "admin/django_jobs/job_edit.html", context, title=title)  # type: ignore[attr-defined,no-any-return]

    def _job(self, request: HttpRequest, job_id: str | UUID) -> Job:
        """The job of this id, if this user may see it."""
        try:
            asked = Job.objects.filter(pk=UUID(str(job_id))).select_related("worker", "owner")
        except ValueError:
            raise Http404(gettext("That is not the id of a job.")) from None
        job = visible(request.user, asked).first()
        if job is None:
            raise Http404(gettext("There is no such job; it may have been deleted."))
        return job

    def _head(self, request: HttpRequest, job: Job) -> dict[str, Any]:
        newest = list(
            job.attempts.defer("traceback", "log", "error_message").order_by("-number")[:MOST_DRAWN]
        )
        is_editable = _is_editable(job) and may(request.user, *TO_EDIT)
        possible = [verb for verb in self.offered(request) if verb.is_possible(job)]
        return {
            "job": job,
            "call": long_call(job, request.user),
            "standing": full_standing(job),
            "progress": meter(job.progress, gettext("Progress")),
            "message": redact_text(job.progress_message),
            "stages": list(_shown_stages(job)),
            "timeline": timeline(segments(job, newest[::-1], timezone.now()), timezone.now()),
            "facts": list(self._facts(request, job)),
            "error": error_text(job) if job.error_type else "",
            "group_url": self._group_url(request, job),
            "verbs": [verb for verb in possible if not verb.lack(job)],
            "lacking": [(verb, lack) for verb in possible if (lack := verb.lack(job))],
            "edit_url": self.own_url("edit", job.pk) if is_editable else "",
        }

    def _facts(self, request: HttpRequest, job: Job) -> Iterator[tuple[Any, Any, str]]:
        """Name, value, and where that leads."""

        def found(qualifier: str, value: str) -> str:
            return self.list_url(q=searching.replaced("", {qualifier: value}))

        attempt = gettext("{attempt} of {most}").format(
            attempt=job.attempt, most=max(job.max_attempts, job.attempt)
        )
        yield _("Queue"), job.queue, found("queue", job.queue)
        yield _("Engine"), job.engine, found("engine", job.engine)
        yield _("Attempt"), attempt, ""
        if job.worker and may_see_workers(request.user):
            yield _("Worker"), job.worker.name, found("worker", job.worker.name)
        if job.subject:
            yield _("Subject"), job.subject, found("subject", job.subject)
        if job.owner:
            yield _("Owner"), str(job.owner), found("owner", job.owner.get_username())
        if job.tags:
            yield _("Tags"), ", ".join(job.tags), ""
        yield _("Enqueued"), passing(job.created_at), ""
        if job.started_at:
            yield _("Started"), passing(job.started_at), ""
        if job.finished_at:
            yield _("Ended"), passing(job.finished_at), ""
        if job.duration is not None:
            yield _("Ran for"), duration_text(job.duration.total_seconds()), ""

    def _past(self, request: HttpRequest, job: Job) -> dict[str, Any]:
        values = may_see_values(request.user)
        attempts = list(job.attempts.order_by("-number")[: MOST_ATTEMPTS + 1])
        events = list(job.events.select_related("by").order_by("-id")[:MOST_EVENTS])
        shown = list(self._shown_attempts(request, attempts[:MOST_ATTEMPTS], values))
        is_told = any(attempt.traceback == job.traceback for attempt in attempts)
        return {
            "job": job,
            "may_see_values": values,
            "error": error_text(job) if job.error_type else "",
            "traceback": marked_traceback(job.traceback) if values and job.traceback and not is_told else "",
            "attempts": shown,
            "live_log": redact_text(job.live_log) if values else "",
            "all_attempts_url": self._attempts_url(request, job) if len(attempts) > MOST_ATTEMPTS else "",
            "result": _shown_result(job) if values else None,
            "result_error": redact_text(job.result_error) if values else "",
            "events": [
                {
                    "at": passing(event.at),
                    "kind": EVENTS.get(event.kind, event.kind),
                    "attempt": event.attempt,
                    "by": str(event.by) if event.by else "",
                    "message": redact_text(event.message),
                }
                for event in events
            ],
        }

    def _shown_attempts(
        self, request: HttpRequest, attempts: Sequence[Attempt], values: bool
    ) -> Iterator[ShownAttempt]:
        may_open, workers = holds(request.user, "view_attempt"), may_see_workers(request.user)
        for attempt in attempts:
            yield ShownAttempt(
                number=attempt.number,
                badge=badge(attempt.outcome, str(OUTCOMES.get(attempt.outcome, attempt.outcome))),
                worker=attempt.worker_name if workers else "",
                started=passing(attempt.started_at),
                took=duration_text(attempt.duration.total_seconds()),
                error=error_text(attempt) if attempt.error_type else "",
                traceback=marked_traceback(attempt.traceback) if values and attempt.traceback else "",
                log=redact_text(attempt.log) if values else "",
                url=self._known_url("attempt_change", attempt.pk) if may_open else "",
                is_open=attempt is attempts[0] and bool(attempt.error_type),
            )

    def _related(self, request: HttpRequest, job: Job) -> Iterator[Related]:
        jobs = visible(request.user, Job.objects.defer("result", "traceback", "meta", "live_log"))
        jobs = listed(jobs, request.user)
        kinds: list[tuple[Any, Iterable[Job]]] = []
        if job.parent_id:
            kinds.append((_("parent, which enqueued it"), jobs.filter(pk=job.parent_id)))
        kinds.append((_("child, enqueued by it"), _newest(jobs.filter(parent=job.pk))))
        if job.requeued_from_id:
            kinds.append((_("requeued from"), jobs.filter(pk=job.requeued_from_id)))
        kinds.append((_("requeued as"), _newest(jobs.filter(requeued_from=job.pk))))
        if job.subject:
            search = Search().where("subject", job.subject)
            kinds.append((_("same subject"), searching.page(jobs, search, size=MOST_RELATED + 1).jobs))
        told = {job.pk}
        for how, each in ((how, each) for how, rows in kinds for each in rows):
            if each.pk in told:
                continue
            told.add(each.pk)
            call, url = short_call(each, request.user), self.job_url(each.pk)
            yield Related(how, call, url, standing(each), passing(each.created_at))

    def _group_url(self, request: HttpRequest, job: Job) -> str:
        """Where to see the failures that are alike."""
        if not job.fingerprint:
            return ""
        group = ""
        if holds(request.user, "view_errorgroup"):
            group = self._known_url("errorgroup_change", job.fingerprint)
        return group or self.list_url(q=f"fingerprint:{job.fingerprint}")

    def _attempts_url(self, request: HttpRequest, job: Job) -> str:
        if not holds(request.user, "view_attempt"):
            return ""
        url = self._known_url("attempt_changelist")
        return url and f"{url}?{urlencode({'job__id__exact': str(job.pk)})}"

    def _known_url(self, name: str, *args: Any) -> str:
        """A page of another model; empty where this site has none."""
        try:
            return reverse(f"admin:django_jobs_{name}", args=args, current_app=self.admin_site.name)
        except NoReverseMatch:
            return ""


def _newest(jobs: QuerySet[Job]) -> list[Job]:
    """The newest of the first that are found."""
    # Not in the order of their ids, in which a database may read all rows to find these few.
    return sorted(jobs.order_by()[:MOST_READ], key=lambda each: each.pk, reverse=True)[:MOST_RELATED]


def _is_editable(job: Job) -> bool:
    return VERBS["requeue"].is_possible(job)


def _shown_stages(job: Job) -> Iterator[dict[str, Any]]:
    for name, stage in job.ordered_stages.items():
        look, word = STAGES.get(stage["status"], ("queued", stage["status"]))
        if look == "started" and job.status in (FAILED, CANCELED):
            look, word = job.status, WORDS[job.status]
        yield {
            "name": name,
            "badge": badge(look, str(word)),
            "progress": meter(stage["progress"], name),
        }


def _shown_arguments(job: Job) -> list[Shown]:
    named = named_arguments(job.task, job.args, job.kwargs)
    return [Shown(name, json_text(masked(name, value))) for name, value in named]


def _shown_result(job: Job) -> Shown | None:
    if job.result is None:
        return None
    return Shown(gettext("Result"), json_text(masked("result", job.result)))


def _columns(job: Job, values: bool) -> Iterator[tuple[str, str]]:
    """All columns of the row, masked, but for those shown elsewhere or not to be seen."""
    hidden = {"result", "traceback", "live_log"}
    if not values:
        hidden |= {"args", "kwargs", "result_error", "meta"}
    named = named_arguments(job.task, job.args, job.kwargs)
    shown = [masked(name, value) for name, value in named]
    instead: dict[str, Any] = {
        "args": shown[: len(job.args)],
        "kwargs": dict(zip(job.kwargs, shown[len(job.args) :], strict=True)),
    }
    for field in job._meta.concrete_fields:
        if field.attname in hidden:
            continue
        value = instead.get(field.attname, getattr(job, field.attname))
        if isinstance(value, list | dict):
            text = json.dumps(masked(field.attname, value), ensure_ascii=False)
        elif hasattr(value, "tzinfo"):
            text = precise_text(value)
        else:
            text = "" if value is None else redact_text(str(value))
        yield field.attname, cut(text)
