"""What can be done about a queue: pause and resume it, empty it, move what waits on it."""

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib.admin import AdminSite
from django.contrib.admin.utils import quote, unquote
from django.http import HttpRequest, HttpResponseNotAllowed, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from .. import control, operations
from ..engines import get_engine
from ..models import Job, Operation
from ..models.counting import bounded_count
from ..options import Options
from ..verdict import capped
from ..visibility import visible
from .buttons import check_action, confirm, done, url
from .queues import known_name, queue_figures, queue_search

MOST_EMPTIED = 500
"""More jobs than these are not canceled while a request waits, but in the background."""


def pause_view(request: HttpRequest, site: AdminSite, name: str) -> HttpResponseBase:
    check_action(request, "view_queue", "manage_queue")
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    name = known_name(unquote(name))

    def pause() -> str:
        if control.pause(name, by=request.user):
            told = gettext(
                "The queue {queue} is paused: what runs finishes, and nothing starts until it is resumed."
            )
        else:
            told = gettext("The queue {queue} was paused already.")
        return told.format(queue=name)

    done(request, pause)
    return HttpResponseRedirect(_back(request, site, name))


def resume_view(request: HttpRequest, site: AdminSite, name: str) -> HttpResponseBase:
    check_action(request, "view_queue", "manage_queue")
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    name = known_name(unquote(name))

    def resume() -> str:
        if control.resume(name, by=request.user):
            return gettext("The queue {queue} is resumed.").format(queue=name)
        return gettext("The queue {queue} was not paused.").format(queue=name)

    done(request, resume)
    return HttpResponseRedirect(_back(request, site, name))


def empty_view(request: HttpRequest, site: AdminSite, name: str) -> HttpResponseBase:
    check_action(request, "view_queue", "manage_queue")
    name = known_name(unquote(name))
    back = url(site, "queue", quote(name))
    count = bounded_count(visible(request.user, Job.objects.queued().ours().on_queue(name)))
    if request.method != "POST":
        said = ngettext(
            "{count} queued job of {queue} will be canceled. It can be requeued.",
            "{count} queued jobs of {queue} will be canceled. They can be requeued.",
            count,
        )
        lines = [said.format(count=capped(count), queue=name)]
        lines.append(gettext("What runs goes on, and what is scheduled stays."))
        question = gettext("Empty the queue {queue}?").format(queue=name)
        button = gettext("Empty it")
        trail = _trail(site, name)
        return confirm(request, site, question=question, lines=lines, button=button, back=back, trail=trail)
    if count > MOST_EMPTIED:
        return _started(request, site, name, lambda: operations.start_emptying(name, by=request.user))

    def empty() -> str:
        canceled = control.empty(name, by=request.user)
        told = ngettext("{count} job was canceled.", "{count} jobs were canceled.", canceled)
        return told.format(count=canceled)

    done(request, empty)
    return HttpResponseRedirect(back)


def move_view(request: HttpRequest, site: AdminSite, name: str) -> HttpResponseBase:
    check_action(request, "view_queue", "bulk_job", "move_job")
    name = known_name(unquote(name))
    back = url(site, "queue", quote(name))
    queue = queue_figures(name)
    form = MoveForm(name, queue.engine if queue else Options.engine, request.POST or None)
    if request.method == "POST" and form.is_valid():
        chosen = form.cleaned_data["queue"]
        verb, search = Operation.Verb.MOVE, _waiting(name)
        return _started(
            *(request, site, name), lambda: operations.start(verb, search, by=request.user, queue=chosen)
        )
    count = queue.queued + queue.scheduled + queue.deferred if queue else 0
    told = ngettext(
        "{count} waiting job of {queue} will wait on the other queue.",
        "{count} waiting jobs of {queue} will wait on the other queue.",
        count,
    )
    lines = [told.format(count=capped(count), queue=name)]
    lines.append(gettext("This goes on in the background, and can be aborted. What runs goes on here."))
    question = gettext("Move the waiting jobs of {queue}?").format(queue=name)
    button = gettext("Move them")
    trail = _trail(site, name)
    return confirm(
        *(request, site), question=question, lines=lines, button=button, back=back, trail=trail, form=form
    )


class MoveForm(forms.Form):
    """Which other queue of the same engine."""

    queue = forms.ChoiceField(label=_("To the queue"))

    def __init__(self, name: str, engine: str, data: Any = None) -> None:
        super().__init__(data)
        others = [each for each in get_engine(engine).queue_names() if each != name]
        self.fields["queue"].choices = [(each, each) for each in others]  # type: ignore[attr-defined] # It has them.


def _waiting(name: str) -> str:
    """Those that have not begun: queued, scheduled and deferred ones."""
    begun = ("started", "finished", "failed", "canceled")
    return " ".join([queue_search(name), *(f"-status:{status}" for status in begun)])


def _started(
    request: HttpRequest, site: AdminSite, name: str, start: Callable[[], Operation]
) -> HttpResponseBase:
    """The page of a new operation on this queue, or that of the queue if it is refused."""
    begun: list[Operation] = []

    def begin() -> str:
        begun.append(start())
        return gettext("It goes on in the background; here you see how far it is.")

    if not done(request, begin):
        return HttpResponseRedirect(url(site, "queue", quote(name)))
    return HttpResponseRedirect(url(site, "operation_change", begun[0].pk))


def _trail(site: AdminSite, name: str) -> list[tuple[Any, str]]:
    return [(gettext("Queues"), url(site, "queues")), (name, url(site, "queue", quote(name)))]


def _back(request: HttpRequest, site: AdminSite, name: str) -> str:
    """Where the button was."""
    if request.POST.get("from") == "queue":
        return url(site, "queue", quote(name))
    return url(site, "queues")
