"""What may go into a row: JSON that comes back unchanged, text that every database takes."""

import math
from typing import Any

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
