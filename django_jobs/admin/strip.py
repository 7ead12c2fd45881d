"""What frames every page of ours: where one can go, the verdict with figures, how often it is renewed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.apps import apps
from django.contrib.admin import AdminSite
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.formats import number_format
from django.utils.translation import gettext, gettext_lazy, pgettext_lazy

from ..conf import settings
from ..verdict import MOST_TOLD, Reason, Verdict, capped, lately
from ..visibility import sees_all
from .live import partial
from .permissions import holds
from .scales import duration_text

REFRESH_SECONDS = (0, 2, 5, 15, 30, 60)
USUAL_REFRESH_SECONDS = 5
_IN_SESSION = "django_jobs"


@dataclass(frozen=True, slots=True)
class Place:
    """A page one can go to: the name of its URL in the admin, who may see it, the key after `g`."""

    url_name: str
    title: Any
    permission: str
    key: str


PLACES = {
    "dashboard": Place("django_jobs_dashboard_changelist", gettext_lazy("Dashboard"), "view_job", "d"),
    "jobs": Place("django_jobs_job_changelist", gettext_lazy("Jobs"), "view_job", "j"),
    "errors": Place("django_jobs_errorgroup_changelist", gettext_lazy("Errors"), "view_errorgroup", "e"),
    "queues": Place("django_jobs_queues", gettext_lazy("Queues"), "view_queue", "q"),
    "workers": Place("django_jobs_workers", gettext_lazy("Workers"), "view_worker", "w"),
    "operations": Place(
        "django_jobs_operation_changelist", gettext_lazy("Operations"), "view_operation", "o"
    ),
    "enqueue": Place("django_jobs_enqueue", pgettext_lazy("page", "Enqueue"), "enqueue_job", "n"),
}

LEVELS = {
    "ok": pgettext_lazy("verdict", "OK"),
    "degraded": pgettext_lazy("verdict", "Degraded"),
    "stalled": pgettext_lazy("verdict", "Stalled"),
}


@dataclass(frozen=True, slots=True)
class Link:
    """A text, and where it leads; nowhere for a user who may not see that page."""

    text: Any
    url: str = ""
    level: str = ""
    """The level of a reason, and the word for it."""
    word: Any = ""
    key: str = ""
    is_current: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    name: Any
    value: str
    url: str = ""


def frame(request: HttpRequest, site: AdminSite) -> dict[str, Any]:
    """The context of `admin/django_jobs/base.html` beside what each page of the admin has."""
    return {
        "app_name": apps.get_app_config("django_jobs").verbose_name,
        "navigation": list(navigation(request, site)),
        "is_answer": request.method == "POST",
        "refreshes": list(_refreshes(request)),
        "refresh_seconds": refresh_seconds(request),
        "shortcuts": shortcuts(request),
        "shortcuts_url": _with(request, shortcuts="off" if shortcuts(request) else "on"),
        "strip_url": reverse("admin:django_jobs_strip", current_app=site.name),
        "strip": strip(request, site),
        "read_only": settings.READ_ONLY,
    }


@dataclass(frozen=True, slots=True)
class Strip:
    """What `_strip.html` shows: to those who may see some jobs only, nothing that is told of all."""

    at: datetime
    read_only: bool
    verdict: Verdict | None = None
    word: Any = ""
    reasons: Sequence[Link] = ()
    figures: Sequence[Figure] = ()


def strip(request: HttpRequest, site: AdminSite) -> Strip:
    if not sees_all(_user(request)):
        return Strip(at=timezone.now(), read_only=settings.READ_ONLY)
    now = lately()
    return Strip(
        at=now.at,
        read_only=settings.READ_ONLY,
        verdict=now,
        word=LEVELS[now.level],
        reasons=[
            Link(
                reason.text,
                evidence(reason, request, site),
                level=reason.level,
                word=gettext("Note") if reason.level == "ok" else LEVELS[reason.level],
            )
            for reason in now.reasons
        ],
        figures=[
            Figure(gettext("Running"), capped(now.running), jobs_url("status:started", request, site)),
            Figure(gettext("Waiting"), capped(now.waiting), jobs_url("status:queued", request, site)),
            Figure(
                gettext("Failed in 1 h"),
                _known(now.failed_last_hour),
                jobs_url("status:failed", request, site),
            ),
            Figure(gettext("Longest wait"), _age(now.oldest_waiting_seconds), place("queues", request, site)),
            Figure(gettext("Undelivered"), _undelivered(now.undelivered), place("queues", request, site)),
        ],
    )


def strip_view(request: HttpRequest, site: AdminSite) -> HttpResponseBase:
    if not may_look(request.user):
        raise PermissionDenied
    return partial(request, "admin/django_jobs/_strip.html", {"strip": strip(request, site)})


def may_look(user: Any) -> bool:
    """Whether this user may see any page of ours."""
    return any(holds(user, each.permission) for each in PLACES.values())


def navigation(request: HttpRequest, site: AdminSite) -> Iterator[Link]:
    """The pages this user may see; the one shown is marked."""
    links = [(name, place(name, request, site)) for name in PLACES]
    # A page may lie below another one's address: the longest is meant.
    current = max((url for _, url in links if url and request.path.startswith(url)), key=len, default="")
    for name, url in links:
        if url:
            yield Link(PLACES[name].title, url, key=PLACES[name].key, is_current=url == current)


def place(name: str, request: HttpRequest, site: AdminSite, **query: str) -> str:
    """The URL of one of the `PLACES`; empty where this user may not go, or this site does not have it."""
    if not holds(_user(request), PLACES[name].permission):
        return ""
    try:
        url = reverse(f"admin:{PLACES[name].url_name}", current_app=site.name)
    except NoReverseMatch:
        return ""
    return f"{url}?{urlencode(query)}" if query else url


def jobs_url(search: str, request: HttpRequest, site: AdminSite) -> str:
    """The list of jobs for this search; empty where this user may not see it."""
    return place("jobs", request, site, q=search)


def evidence(reason: Reason, request: HttpRequest, site: AdminSite) -> str:
    """Where to see what a reason says."""
    return place(reason.page, request, site, **({"q": reason.query} if reason.query else {}))


def refresh_seconds(request: HttpRequest) -> int:
    """How often this user wants regions renewed; 0 for never."""
    chosen: int = _kept(request).get("refresh", USUAL_REFRESH_SECONDS)
    return chosen


def shortcuts(request: HttpRequest) -> bool:
    """Whether this user wants single keys to do something."""
    return _kept(request).get("shortcuts") != "off"


def chosen(request: HttpRequest) -> HttpResponseRedirect | None:
    """If the URL holds a choice of the frame: keep it in the session, and answer with the page without it."""
    query = request.GET.copy()
    kept = dict(_kept(request))
    refresh, keys = query.pop("refresh", None), query.pop("shortcuts", None)
    if refresh is None and keys is None:
        return None
    if refresh and refresh[-1] in map(str, REFRESH_SECONDS):
        kept["refresh"] = int(refresh[-1])
    if keys and keys[-1] in ("on", "off"):
        kept["shortcuts"] = keys[-1]
    request.session[_IN_SESSION] = kept
    return HttpResponseRedirect(f"{request.path}?{query.urlencode()}" if query else request.path)


def _user(request: HttpRequest) -> Any:
    return getattr(request, "user", AnonymousUser())


def _kept(request: HttpRequest) -> dict[str, Any]:
    session: Any = getattr(request, "session", {})
    kept: dict[str, Any] = session.get(_IN_SESSION, {})
    return kept


def _refreshes(request: HttpRequest) -> Iterator[Link]:
    for seconds in REFRESH_SECONDS:
        text = duration_text(seconds) if seconds else gettext("off")
        url = _with(request, refresh=str(seconds))
        yield Link(text, url, is_current=seconds == refresh_seconds(request))


def _with(request: HttpRequest, **choice: str) -> str:
    query = request.GET.copy()
    for name, value in choice.items():
        query[name] = value
    return f"?{query.urlencode()}"


def _age(seconds: float | None) -> str:
    return gettext("none") if seconds is None else duration_text(round(seconds))


def _known(count: int | None) -> str:
    return gettext("not known") if count is None else number_format(count, force_grouping=True)


def _undelivered(count: int | None) -> str:
    return gettext("not known") if count is None else capped(count, MOST_TOLD)
