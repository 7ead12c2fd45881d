"""What a button does: by POST, with the permission it takes, with a trace, and with words in the end."""

from collections.abc import Callable, Sequence
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import reverse

from ..conf import settings
from ..exceptions import JobsError
from .base import page
from .permissions import holds
from .refusals import refusal_text


def may(user: Any, *codenames: str) -> bool:
    """Whether to offer what takes all of these permissions."""
    return not settings.READ_ONLY and holds(user, *codenames)


def check(request: HttpRequest, *codenames: str) -> None:
    """Raise `PermissionDenied` unless this user `holds` all of these permissions."""
    for codename in codenames:
        if not holds(request.user, codename):
            raise PermissionDenied(
                f"User {request.user} lacks the permission django_jobs.{codename}, or may see some jobs only."
            )


def check_action(request: HttpRequest, *codenames: str) -> None:
    """`check` for what changes something: nothing does while READ_ONLY is on."""
    if settings.READ_ONLY:
        raise PermissionDenied("READ_ONLY is on; no action is taken.")
    check(request, *codenames)


def done(request: HttpRequest, verb: Callable[[], str]) -> bool:
    """Do it, and show what it says of itself; False where it was refused, and why is shown."""
    try:
        told = verb()
    except JobsError as refusal:
        messages.error(request, refusal_text(refusal))
        return False
    messages.success(request, told)
    return True


def note(request: HttpRequest, row: Model, told: str) -> None:
    """Leave a trace in Django's log of the admin, for what has no events of its own."""
    LogEntry.objects.create(
        user_id=request.user.pk,  # type: ignore[misc] # Who gets here is logged in.
        content_type=ContentType.objects.get_for_model(row, for_concrete_model=False),
        object_id=str(row.pk),
        object_repr=str(row)[:200],
        action_flag=CHANGE,
        change_message=told,
    )


def confirm(
    request: HttpRequest,
    site: admin.AdminSite,
    *,
    question: str,
    lines: Sequence[str],
    button: str,
    back: str,
    trail: Sequence[tuple[Any, str]],
    form: forms.Form | None = None,
    is_harsh: bool = True,
) -> HttpResponseBase:
    """Ask once more: the page's button posts to the same URL. `trail` are the pages that lead there."""
    context: dict[str, Any] = {"lines": lines, "button": button, "back": back, "form": form}
    context |= {"trail": trail, "is_harsh": is_harsh}
    return page(request, site, "admin/django_jobs/confirm.html", context, title=question)


def url(site: admin.AdminSite, name: str, *arguments: object) -> str:
    """The URL of a page of ours: `url(site, "queues")`."""
    return reverse(f"admin:django_jobs_{name}", args=arguments, current_app=site.name)
