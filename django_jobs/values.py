"""What may go into a row: JSON that comes back unchanged, text that every database takes."""

import json
import math
import traceback
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from .conf import settings
from .redaction import LOOKED_BEYOND, redact_at_write, redact_begin, redact_text

TRACEBACK_LIMIT = 64_000  # characters
MESSAGE_LIMIT = 2_000  # characters of an error's message
MOST_FRAMES = 1_000
"""of a traceback; more of them would not fit in its limit."""

_SCALARS = (str, int, float, bool, type(None))
_LARGEST_NUMBER_BITS = 13_000  # Python turns no number of more than 4,300 digits into text.


def json_error(value: object, path: str = "") -> str | None:
    """Why `value` would not come back from a JSON column as it was, or None when it would.

    Tuples are let through and come back as lists. The answer reads on from a subject:
    "is a value of type set, which is not JSON".
    """
    where = f"contains at {path} " if path else "is "
    if type(value) in _SCALARS:
        if isinstance(value, float) and not math.isfinite(value):
            return f"{where}{value!r}, which is not JSON"
        if type(value) is int and value.bit_length() > _LARGEST_NUMBER_BITS:
            return f"{where}a number of more than 4,000 digits, which is not JSON"
        if isinstance(value, str) and not is_storable(value):
            return f"{where}text with a NUL character or half a surrogate pair, which PostgreSQL refuses"
        return None
    if isinstance(value, list | tuple):
        items: Any = ((f"{path}[{position}]", item) for position, item in enumerate(value))
    elif type(value) is dict:
        for key in value:
            if not isinstance(key, str) or not is_storable(key):
                return f"{where}a dict with the key {key!r}; JSON has only text as keys"
        items = ((f"{path}[{key!r}]", item) for key, item in value.items())
    else:
        return f"{where}a value of type {type(value).__name__}, which is not JSON"
    try:
        return next((error for where, item in items if (error := json_error(item, where))), None)
    except RecursionError:
        return f"{'contains' if path else 'is'} a structure nested too deeply for JSON"


def is_storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def clean_text(text: str, limit: int) -> str:
    """`text` made storable and, when longer than `limit` characters, cut in its middle."""
    if len(text) > limit:
        head, tail = limit // 4, limit - limit // 4
        text = f"{text[:head]}\n… {len(text) - limit} characters cut …\n{text[-tail:]}"
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def short(text: str, limit: int) -> str:
    """`text` in at most `limit` characters, storable, its end replaced by an ellipsis if cut."""
    return clean_text(text if len(text) <= limit else f"{text[: limit - 1]}…", limit)


def kept(text: str, limit: int) -> str:
    """A log or traceback as a row keeps it: masked if `REDACT_AT_WRITE` is on, and otherwise if it must be
    cut, as nothing recognizes half a secret any more. Cut in its middle."""
    if len(text) <= limit:
        return clean_text(redact_at_write(text), limit)
    head, tail = limit // 4 + LOOKED_BEYOND, limit - limit // 4 + LOOKED_BEYOND
    if len(text) > head + tail:
        text = f"{text[:head]}\n… {len(text) - head - tail} characters cut …\n{text[-tail:]}"
    return clean_text(redact_text(text), limit)


def kept_begin(text: str, limit: int) -> str:
    """The same for a text that is cut at its end."""
    return short(redact_at_write(text) if len(text) <= limit else redact_begin(text, limit), limit)


def error_message(text: str) -> str:
    """An error's message as a row keeps it: always masked, as whoever searches for what it says could guess
    a secret in it."""
    return short(redact_begin(text, MESSAGE_LIMIT), MESSAGE_LIMIT)


def json_bytes(value: object) -> int:
    """The size of `value` as JSON text, in bytes of UTF-8."""
    return len(json.dumps(value, ensure_ascii=False).encode())


def result_error(result: object) -> str:
    """Why a result cannot be stored; empty if it can."""
    if result is None:  # As of most.
        return ""
    if problem := json_error(result):
        return f"The result {problem}."
    size = json_bytes(result)
    if size > settings.MAX_RESULT_BYTES:
        return (
            f"The result is {size:,} bytes of JSON; at most {settings.MAX_RESULT_BYTES:,} are stored. "
            'Store it elsewhere and return an id or a path, or raise DJANGO_JOBS["MAX_RESULT_BYTES"].'
        )
    return ""


def error_fields(error: BaseException) -> dict[str, str]:
    """What a row tells of an exception: `error_type`, `error_message`, `traceback`."""
    # The user's code may define the message and the causes, and may fail at that.
    frames = error.__traceback__
    while frames and str(frames.tb_frame.f_globals.get("__name__")).startswith(f"{__package__}."):
        frames = frames.tb_next  # Ours, which lead to the user's code.
    try:
        message = str(error)
    except Exception as problem:  # noqa: BLE001
        message = f"(its message raises {_type_name(problem)})"
    try:
        _cut_frames(error)
        told = "".join(traceback.format_exception(type(error), error, frames or error.__traceback__))
    except Exception as problem:  # noqa: BLE001
        told = f"(its traceback raises {_type_name(problem)})"
    return {
        "error_type": short(_type_name(error), 255),
        "error_message": error_message(message),
        "traceback": kept(told, TRACEBACK_LIMIT),
    }


def _cut_frames(error: BaseException) -> None:
    """Take the middle out of endless tracebacks, and say so in a note: to format a million frames takes a
    minute and a gigabyte, here and again in the engine."""
    met = set()
    each: BaseException | None = error
    while each is not None and id(each) not in met:
        met.add(id(each))
        frames = []
        frame = each.__traceback__
        while frame:
            frames.append(frame)
            frame = frame.tb_next
        if len(frames) > MOST_FRAMES:
            frames[MOST_FRAMES // 2 - 1].tb_next = frames[-MOST_FRAMES // 2]
            BaseException.add_note(each, f"({len(frames) - MOST_FRAMES:,} frames of its traceback cut)")
        each = each.__cause__ or each.__context__


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the one that was meant, or all there are."""
    known = list(known)
    guess = get_close_matches(name, known, n=1)
    return f'did you mean "{guess[0]}"?' if guess else f"known are: {', '.join(known) or 'none'}."


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
