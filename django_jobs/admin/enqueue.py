"""Enqueue: choose a task, fill in its arguments, and see the code that does the same."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django import forms
from django.apps import apps
from django.contrib import messages
from django.contrib.admin import AdminSite
from django.contrib.admin.utils import quote, unquote
from django.http import Http404, HttpRequest, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.utils.html import format_html
from django.utils.text import Truncator
from django.utils.translation import gettext, pgettext_lazy
from django.utils.translation import gettext_lazy as _

from .. import control, registry
from ..engines import get_engine, lack_of
from ..exceptions import JobsError
from ..models import Job
from ..options import Options
from ..retries import LONGEST_SECONDS, MOST_RETRIES, Retry, in_seconds
from ..tasks import task_of
from ..visibility import is_visible
from .base import page
from .buttons import check, check_action, url
from .code import blank_code, call_code
from .forms import CallForm
from .permissions import holds
from .refusals import refusal_text


@dataclass(frozen=True, slots=True)
class TaskLine:
    name: str
    told: str
    url: str


def enqueue_view(request: HttpRequest, site: AdminSite) -> HttpResponseBase:
    """Which task."""
    check(request, "enqueue_job")
    asked = request.GET.get("q", "").strip()
    context = {"groups": _groups(site, asked), "asked": asked}
    return page(request, site, "admin/django_jobs/tasks.html", context, title=gettext("Enqueue a job"))


def enqueue_task_view(request: HttpRequest, site: AdminSite, name: str) -> HttpResponseBase:
    """Which arguments."""
    check(request, "enqueue_job")
    name = unquote(name)
    if name not in registry.names():
        raise Http404(f"There is no task {name}.")
    task = task_of(name)
    is_sent = request.method == "POST"
    call = CallForm(name, request.POST if is_sent else None)
    options = OptionsForm(task.options, request.POST if is_sent else None)
    code = blank_code(name, call.placeholders())
    if is_sent and _are_valid(call, options):
        args, kwargs = call.arguments()
        chosen = options.chosen(request.user)
        code = call_code(name, args, kwargs, _told_in_code(chosen))
        if "enqueue" in request.POST:
            check_action(request, "enqueue_job")
            job = _enqueued(request, name, args, kwargs, chosen, call, options)
            if job:
                _tell(request, job, code)
                may_look = holds(request.user, "view_job") and is_visible(request.user, job)
                return HttpResponseRedirect(
                    url(site, "job_change", job.pk) if may_look else url(site, "enqueue_task", quote(name))
                )
    context = {
        "task": name,
        "told": _told(name, lines=None),
        "call": call,
        "options": options,
        "code": code,
        "is_shown": is_sent and call.is_valid() and options.is_valid(),
    }
    title = gettext("Enqueue {task}").format(task=name.rpartition(".")[2])
    return page(request, site, "admin/django_jobs/enqueue.html", context, title=title)


class OptionsForm(forms.Form):
    """The options of one call. Those of the task are filled in; what differs from them is `chosen`."""

    queue = forms.ChoiceField(label=_("Queue"))
    delay = forms.FloatField(
        label=_("Delay"),
        help_text=_("Seconds from now."),
        required=False,
        min_value=0,
        max_value=LONGEST_SECONDS - 1,
        widget=forms.NumberInput(attrs={"step": "any"}),
    )
    at = forms.DateTimeField(
        label=pgettext_lazy("when", "At"),
        help_text=_("Not before this time, instead of a delay."),
        required=False,
        widget=forms.DateTimeInput(attrs={"type": "datetime-local", "step": 1}, format="%Y-%m-%dT%H:%M:%S"),
    )
    at_front = forms.BooleanField(label=_("Before the others of its queue"), required=False)
    max_retries = forms.IntegerField(
        label=_("Retries"), help_text=_("How often it is tried again."), min_value=0, max_value=MOST_RETRIES
    )
    subject = forms.CharField(
        label=_("Subject"), help_text=_("What it is about, such as file:42."), required=False, max_length=255
    )
    unique = forms.CharField(
        label=_("Unique key"),
        help_text=_("While a job of this key has not ended, there is no second one."),
        required=False,
        max_length=255,
    )
    tags = forms.CharField(
        label=_("Tags"), help_text=_("With commas between them."), required=False, max_length=1000
    )
    is_mine = forms.BooleanField(label=_("I own it"), required=False)

    def __init__(self, options: Options, data: Any = None) -> None:
        super().__init__(data, prefix="options")
        self._options = options
        queues = get_engine(options.engine).queue_names()
        self.fields["queue"].choices = [(each, each) for each in queues]  # type: ignore[attr-defined] # It has them.
        self.fields["queue"].initial = options.queue
        self.fields["delay"].initial = None if options.delay is None else float(in_seconds(options.delay))
        self.fields["at_front"].initial = options.at_front
        if lack := lack_of(options.engine, "at_front"):
            # Not disabled as a field, which would drop it in silence: should it be sent, it is refused.
            self.fields["at_front"].widget.attrs["disabled"] = True
            self.fields["at_front"].help_text = lack.reason
        self.fields["max_retries"].initial = options.retry.max if options.retry else 0
        self.fields["subject"].initial = options.subject
        self.fields["unique"].initial = options.unique or ""
        self.fields["tags"].initial = ", ".join(options.tags)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if cleaned.get("delay") is not None and cleaned.get("at") is not None:
            self.add_error("at", gettext("A delay and a time both say when; give one of them."))
        return cleaned

    def chosen(self, user: Any) -> dict[str, Any]:
        """As `using()` takes them."""
        given, cleaned = self._options, self.cleaned_data
        chosen: dict[str, Any] = {}
        for name in ("queue", "at_front", "subject"):
            if cleaned[name] != getattr(given, name):
                chosen[name] = cleaned[name]
        if cleaned["delay"] != self.fields["delay"].initial or cleaned["at"] is not None:
            chosen |= {"delay": cleaned["delay"], "at": cleaned["at"]}
        if (cleaned["unique"] or None) != given.unique:
            chosen["unique"] = cleaned["unique"] or None
        tags = [tag for each in cleaned["tags"].split(",") if (tag := each.strip())]
        if tags != list(given.tags):
            chosen["tags"] = tags
        if cleaned["max_retries"] != (given.retry.max if given.retry else 0):
            chosen["retry"] = _retry(given.retry, cleaned["max_retries"])
        if cleaned["is_mine"]:
            chosen["owner"] = user
        return chosen


def _retry(given: Retry | None, most: int) -> Retry | None:
    """As often as was asked for, with the pauses of the task."""
    if not most:
        return None
    if given is None:
        return Retry(max=most)
    return Retry(most, given.interval, given.backoff, given.max_interval, given.jitter)


def _told_in_code(chosen: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in chosen.items() if value is not None or name not in ("delay", "at")}


def _are_valid(*given: forms.Form) -> bool:
    valid = [form.is_valid() for form in given]  # All of them, so that each tells its errors.
    return all(valid)


def _enqueued(
    request: HttpRequest,
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    chosen: Mapping[str, Any],
    call: CallForm,
    options: OptionsForm,
) -> Job | None:
    """The job; None where it is refused, and the forms tell why."""
    try:
        return control.enqueue(name, args, kwargs, by=request.user, **chosen)
    except (JobsError, TypeError, ValueError) as refusal:
        option = _FIELDS.get(str(refusal).partition("=")[0], "")
        if option:
            options.add_error(option, str(refusal))
        else:
            call.add_error(None, refusal_text(refusal))
    return None


# The fields in which options are chosen, by the words with which refusals of them begin.
_FIELDS = {
    **{each: each for each in ("queue", "delay", "at", "at_front", "subject", "unique", "tags")},
    "retry": "max_retries",
    "owner": "is_mine",
}


def _tell(request: HttpRequest, job: Job, code: str) -> None:
    if job.deduplicated:
        messages.warning(
            request, gettext("This job holds that unique key and has not ended; no other was enqueued.")
        )
        return
    told = gettext("Enqueued. In code:")
    messages.success(request, format_html("{} <code>{}</code>", told, code.partition("\n\n")[2]))


def _groups(site: AdminSite, asked: str) -> list[tuple[str, list[TaskLine]]]:
    """The tasks that contain these words, by the apps that they belong to."""
    words = asked.lower().split()
    groups: dict[str, list[TaskLine]] = {}
    for name in registry.names():
        if all(word in name.lower() for word in words):
            line = TaskLine(name, _told(name, lines=1), url(site, "enqueue_task", quote(name)))
            groups.setdefault(_app(name), []).append(line)
    return sorted(groups.items())


def _app(name: str) -> str:
    try:
        path = registry.path_of(registry.load(name))
    except (JobsError, TypeError):
        path = name
    app = apps.get_containing_app_config(path)
    return str(app.verbose_name) if app else path.partition(".")[0]


def _told(name: str, *, lines: int | None) -> str:
    """What the function says of itself."""
    try:
        told = inspect.getdoc(registry.load(name)) or ""
    except JobsError:
        return ""
    return Truncator("\n".join(told.split("\n")[:lines])).chars(1000)
