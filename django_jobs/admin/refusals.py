"""Why something was refused, in the user's language; `control` says it in English, for code and logs."""

import re
from typing import Any

from django.utils.translation import get_language, gettext
from django.utils.translation import gettext_lazy as _

from ..exceptions import JobDoesNotExist, NotPossible
from .badges import WORDS

_REASONS: dict[str, Any] = {
    "deleted already": _("deleted already"),
    "is gone": _("is gone"),
    "needed by other rows": _("needed by other rows"),
    "only observed": _("observed only"),
    "stops": _("is stopping"),
    "there already": _("there already"),
    "unique key held": _("its unique key is held"),
}
_OF_STATES: dict[str, Any] = {
    "": _("is {state}"),
    " by now": _("is {state} by now"),
    ", which takes another permission": _("is {state}, which takes another permission"),
}
_STATES: dict[str, Any] = {
    **WORDS,
    "open": _("open"),
    "resolved": _("resolved"),
    "ignored": _("ignored"),
}
_IS = re.compile(r"is (\w+)(.*)")
_UNSUPPORTED = "not supported by "


def reason_text(reason: str) -> str:
    """A `NotPossible.reason`, by which refusals of many jobs are counted."""
    found = _IS.fullmatch(reason)
    if found and found[1] in _STATES and found[2] in _OF_STATES:
        return str(_OF_STATES[found[2]]).format(state=_STATES[found[1]])
    if reason.startswith(_UNSUPPORTED):
        return gettext("not supported by {engine}").format(engine=reason.removeprefix(_UNSUPPORTED))
    return str(_REASONS.get(reason, reason))


def refusal_text(refusal: Exception) -> str:
    """Of one job, queue, worker or group of errors: all that is said in English, elsewhere the reason."""
    if isinstance(refusal, JobDoesNotExist):
        return gettext("There is no such job; it may have been deleted.")
    if isinstance(refusal, NotPossible) and not (get_language() or "en").startswith("en"):
        return gettext("Nothing was done: {reason}.").format(reason=reason_text(refusal.reason))
    return str(refusal)
