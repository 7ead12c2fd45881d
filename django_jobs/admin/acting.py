"""Acting on the jobs that were ticked, or on all that match: asking, doing, and telling what was done."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import reverse
from django.utils.http import urlencode
from django.utils.translation import gettext

from .. import operations, searching
from ..engines import all_engines, lack_of
from ..exceptions import JobsError, SearchError
from ..models import Job
from ..searching import MOST_LISTED, Search
from ..states import Status
from ..visibility import visible
from .badges import WORDS, badge, standing
from .buttons import check_action, may
from .refusals import reason_text, refusal_text
from .seeing import parsed, short_call, total_text
from .verbs import VERBS, Verb, lack_to_stop

MOST_NAMED = 20
"""Jobs that a question names; of more it tells how many."""


@dataclass(frozen=True)
class Asked:
    """What a form asks for: a verb, and either jobs or a search."""

    verb: Verb
    ids: tuple[UUID, ...]
    search: str
    before: str
    after: str
    """Where the page of the list began, of which they were ticked."""
    is_for_all: bool
    is_from_page: bool
    """Asked on the page of a job, and not in the list."""
    is_confirmed: bool
    reason: str

    @classmethod
    def of(cls, request: HttpRequest) -> "Asked | None":
        """None for what no form of ours sends."""
        sent = request.POST
        verb = VERBS.get(sent.get("verb", ""))
        try:
            ids = tuple(dict.fromkeys(UUID(each) for each in sent.getlist("job")))
        except ValueError:
            return None
        if verb is None or len(ids) > MOST_LISTED:
            return None
        return cls(
            verb=verb,
            ids=ids,
            search=sent.get("q", ""),
            before=sent.get("before", ""),
            after=sent.get("after", ""),
            is_for_all=sent.get("scope") == "all",
            is_from_page=sent.get("from") == "page" and len(ids) == 1,
            is_confirmed=sent.get("confirmed") == "yes",
            reason=sent.get("reason", "").strip(),
        )

    @property
    def options(self) -> dict[str, str]:
        return {"reason": self.reason} if self.verb.takes_reason else {}


def with_query(url: str, **query: str) -> str:
    """Empty ones are left out."""
    given = {name: value for name, value in query.items() if value}
    return f"{url}?{urlencode(given)}" if given else url


class ActsOnJobs:
    """The part of the jobs' ModelAdmin that acts on them."""

    admin_site: admin.AdminSite

    def act_view(self, request: HttpRequest) -> HttpResponseBase:
        if not self.has_view_permission(request):  # type: ignore[attr-defined]
            raise PermissionDenied
        if request.method != "POST":  # As after a login, or from the address line.
            return HttpResponseRedirect(self.list_url())
        asked = Asked.of(request)
        if asked is None:
            messages.error(request, gettext("That is nothing that can be done here."))
            return HttpResponseRedirect(self.list_url())
        check_action(request, asked.verb.permission)
        return self._act_on_all(request, asked) if asked.is_for_all else self._act_on_some(request, asked)

    def own_url(self, name: str, *args: Any) -> str:
        """One of the jobs' pages: changelist, change, act, edit …"""
        return reverse(f"admin:django_jobs_job_{name}", args=args, current_app=self.admin_site.name)

    def list_url(self, **query: str) -> str:
        """The list of jobs, for these parameters; empty ones are left out."""
        return with_query(self.own_url("changelist"), **query)

    def job_url(self, job_id: UUID) -> str:
        return self.own_url("change", job_id)

    def offered(self, request: HttpRequest) -> list[Verb]:
        """The verbs that this user is offered."""
        return [verb for verb in VERBS.values() if may(request.user, verb.permission)]

    def _act_on_some(self, request: HttpRequest, asked: Asked) -> HttpResponseBase:
        back = self.job_url(asked.ids[0]) if asked.is_from_page else self._listed_url(asked)
        if not asked.ids:
            messages.warning(request, gettext("Nothing is done: tick the jobs it is meant for first."))
            return HttpResponseRedirect(back)
        jobs = visible(request.user, Job.objects.filter(pk__in=asked.ids))
        if asked.verb.is_asked and not asked.is_confirmed:
            return self._ask(request, asked, back, self._told_of_some(request, asked, jobs))
        if asked.is_from_page:
            return HttpResponseRedirect(self._act_on_one(request, asked, jobs.first(), back))
        steered = asked.verb.steer(jobs, by=request.user, **asked.options)
        done = asked.verb.done % {"count": steered.done}
        messages.add_message(request, messages.SUCCESS if steered.done else messages.WARNING, done)
        for reason, count in steered.refused.most_common():
            said = gettext("{count} left alone: {reason}.")
            messages.warning(request, said.format(count=count, reason=reason_text(reason)))
        return HttpResponseRedirect(back)

    def _act_on_one(self, request: HttpRequest, asked: Asked, job: Job | None, back: str) -> str:
        """Do it, and return where to go on."""
        if job is None:
            messages.warning(request, gettext("There is no such job; it may have been deleted."))
            return self.list_url()
        try:
            answer = asked.verb.steer(job, by=request.user, **asked.options)
        except JobsError as refusal:
            messages.warning(request, refusal_text(refusal))
            return back
        if answer is False:
            messages.warning(request, gettext("It had ended already."))
            return back
        messages.success(request, asked.verb.done % {"count": 1})
        if isinstance(answer, Job):  # Of a finished job a copy runs.
            return self.job_url(answer.pk)
        return back if Job.objects.filter(pk=asked.ids[0]).exists() else self.list_url()

    def _act_on_all(self, request: HttpRequest, asked: Asked) -> HttpResponseBase:
        check_action(request, "bulk_job")
        back = self._listed_url(asked)
        try:
            search = parsed(asked.search, request.user)
            if not search:
                raise SearchError(gettext("Search for the jobs that are meant first; all jobs are too many."))
            if not asked.is_confirmed:
                return self._ask(request, asked, back, self._told_of_all(request, asked, search))
            operation = operations.start(asked.verb.name, asked.search, by=request.user, **asked.options)
        except JobsError as refusal:
            messages.error(request, str(refusal))
            return HttpResponseRedirect(back)
        url = "admin:django_jobs_operation_change"
        return HttpResponseRedirect(reverse(url, args=[operation.pk], current_app=self.admin_site.name))

    def _listed_url(self, asked: Asked) -> str:
        """The page of the list from which it was asked for."""
        return self.list_url(q=asked.search, before=asked.before, after=asked.after)

    def _ask(
        self, request: HttpRequest, asked: Asked, back: str, told: Mapping[str, Any]
    ) -> HttpResponseBase:
        context = {"asked": asked, "back": back, "act_url": self.own_url("act"), **told}
        return self.page(  # type: ignore[attr-defined,no-any-return]
            request, "admin/django_jobs/job_confirm.html", context, title=told["question"]
        )

    def _told_of_some(self, request: HttpRequest, asked: Asked, jobs: QuerySet[Job]) -> dict[str, Any]:
        listed = list(jobs.defer("result", "traceback", "meta", "live_log").order_by("-pk"))
        possible = [job for job in listed if asked.verb.is_possible(job) or _is_stopped_too(asked.verb, job)]
        return {
            "question": asked.verb.question % {"count": len(listed)},
            "jobs": [self._named(job, request.user) for job in listed[:MOST_NAMED]],
            "unnamed": max(0, len(listed) - MOST_NAMED),
            "unfit": len(listed) - len(possible),
            "unstopped": _unstopped(asked.verb, {job.engine for job in listed if lack_to_stop(job)}),
            "is_in_vain": bool(listed) and not possible,
        }

    def _told_of_all(self, request: HttpRequest, asked: Asked, search: Search) -> dict[str, Any]:
        jobs = visible(request.user, Job.objects.all())
        counts = searching.counts(jobs, search)
        page = searching.page(jobs, search, size=5)
        states = [
            {"badge": badge(status, str(WORDS[status])), "count": total_text(count)}
            for status, count in (counts or {}).items()
            if count and _is_asked_for(search, "status", status)
        ]
        may_run = _is_asked_for(search, "status", Status.STARTED)
        engines = [each.name for each in all_engines() if _is_asked_for(search, "engine", each.name)]
        return {
            "question": asked.verb.all_question,
            "states": states,
            "is_counted": counts is not None and set(counts) == set(Status.values),
            "jobs": [self._named(job, request.user) for job in page.jobs],
            "has_more": page.older is not None,
            "unstopped": _unstopped(asked.verb, engines if may_run else []),
        }

    def _named(self, job: Job, user: Any) -> dict[str, Any]:
        return {
            "call": short_call(job, user),
            "url": self.job_url(job.pk),
            "standing": standing(job),
            "id": job.pk,
        }


def _is_stopped_too(verb: Verb, job: Job) -> bool:
    """Canceling stops what runs."""
    return verb is VERBS["cancel"] and job.status == Status.STARTED


def _unstopped(verb: Verb, engines: Iterable[str]) -> list[str]:
    """What becomes of jobs that run on those of these engines that cannot stop them."""
    lacks = [lack for name in sorted(engines) if (lack := lack_of(name, "stop"))]
    return [f"{lack.reason} {verb.unstopped}" for lack in lacks if verb.unstopped]


def _is_asked_for(search: Search, qualifier: str, value: str) -> bool:
    return all(
        (each.value == value) != each.negated for each in search.conditions if each.qualifier == qualifier
    )
