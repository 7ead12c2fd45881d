"""How other arguments differ from those of a job."""

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext

from ..models import Job
from .seeing import json_text, masked, named_arguments

_MOST_COMPARED_LINES = 1_000
"""Between the first that differs and the last. To compare five times as many may take many seconds."""
_LINES_AROUND = 2


@dataclass(frozen=True)
class Difference:
    """How an argument differs from what it was."""

    name: str
    lines: SafeString | str


def differences(job: Job, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[Difference]:
    """What differs, argument by argument, with the secrets in it masked."""
    before = dict(named_arguments(job.task, job.args, job.kwargs))
    after = dict(named_arguments(job.task, args, kwargs))
    for name in dict.fromkeys([*before, *after]):
        if name in before and name in after and _is_same(before[name], after[name]):
            continue
        old, new = (
            json_text(masked(name, values[name])).split("\n") if name in values else []
            for values in (before, after)
        )
        yield Difference(name, _compared(old, new))


def _is_same(one: Any, other: Any) -> bool:
    """As JSON: 1, 1.0 and true are not the same."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _compared(old: Sequence[str], new: Sequence[str]) -> SafeString | str:
    """The lines that differ, with some around them."""
    if old == new:
        return gettext("Other than before; it is masked.")
    begin = max(0, _count_alike(old, new) - _LINES_AROUND)
    old, new = old[begin:], new[begin:]
    end = max(0, _count_alike(old[::-1], new[::-1]) - _LINES_AROUND)
    old, new = old[: len(old) - end], new[: len(new) - end]
    if max(len(old), len(new)) > _MOST_COMPARED_LINES:
        return gettext("Other than before; it is too long to be compared.")
    tags = {"+": "ins", "-": "del", " ": "span", "@": "span"}
    lines = list(difflib.unified_diff(old, new, lineterm="", n=_LINES_AROUND))[3:]
    return format_html_join(
        "\n",
        "<{0}>{1}</{0}>",
        ((SafeString(tags[line[0]]), "…" if line[0] == "@" else line) for line in lines),
    )


def _count_alike(one: Sequence[str], other: Sequence[str]) -> int:
    """How many lines both have alike until the first that differs."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
