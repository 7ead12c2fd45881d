"""Masks secrets in what is shown: values by the names they go by, and texts by what they look like.

Which names and looks is said by REDACT_KEYS and REDACT_PATTERNS. Takes time in proportion to the text,
whatever it is: no expression here reads on from many places to one far end.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain, repeat
from typing import Any

from .conf import settings

MASK = "********"

_LONGEST_NAME = 200  # characters; of longer ones the end is looked at
_NAME = re.compile(
    r"""(?<![\w.-]) (?P<name>[\w.-]++) (?P<quote>\\*+["'])? \]? [ \t]{0,8}+
        (?P<sign> => | := | =(?!=) | :(?!:) ) [ \t]{0,8}+""",
    re.VERBOSE,
)
"""What a value may follow in a text: password=, "password": , environ['PASSWORD'] = , --password=."""

_QUOTED = re.compile(
    r"""[bfru]{0,2}"(?P<double>(?:[^"\\\n]|\\.)*+)"?
      | [bfru]{0,2}'(?P<single>(?:[^'\\\n]|\\.)*+)'?
      | \\++["'](?P<inner>[^"'\\\n]*+)""",  # JSON inside a text that is shown quoted.
    re.VERBOSE | re.IGNORECASE,
)
_BARE = re.compile(r"""(?:(?:bearer|basic|digest|token)[ \t]++)?[^\s,;&'"()\[\]{}]++""", re.IGNORECASE)
_IN_BRACKETS = re.compile(
    r"""(?P<open>[\[({]) | (?P<close>[\])}]) | "(?:[^"\\\n]|\\.)*+"? | '(?:[^'\\\n]|\\.)*+'? | (?P<end>\n)""",
    re.VERBOSE,
)
LOOKED_BEYOND = 20_000
"""How far behind what is shown of a text is looked for the end of a secret, in characters."""
_TELL_NOTHING = {"none", "null", "true", "false", "", "[]", "{}", "()", MASK}
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def redact(value: Any) -> Any:
    """A JSON value with its secrets masked: all under a name that `REDACT_KEYS` finds, and within texts.

    None, booleans and what is empty stay: they are no secrets, and often the answer.
    """
    try:
        return _rules().value(value)
    except RecursionError:
        return MASK


def redact_text(text: str) -> str:
    """A log, traceback or message with its secrets masked."""
    return _rules().text(text)


def redact_begin(text: str, most: int) -> str:
    """The beginning of a text with its secrets masked: at most `most` characters, and one more if it goes on.

    What is looked through does not grow with the rest of the text. A secret at the cut is masked as well, if
    what shows that it is one stands within the 10,000 characters behind.
    """
    size = most + LOOKED_BEYOND
    masked = redact_text(text[:size])
    while size < len(text) and len(masked) < most + LOOKED_BEYOND // 2:  # Much of it was one long secret.
        size *= 2
        masked = redact_text(text[:size])
    return masked[: most + 1]


def is_secret(name: str) -> bool:
    """Whether `REDACT_KEYS` finds this name: what goes by it is masked."""
    return _rules().is_secret(name)


def redact_at_write(text: str) -> str:
    """`text` as it may go into a row: masked if `REDACT_AT_WRITE` is on."""
    return redact_text(text) if text and settings.REDACT_AT_WRITE else text


def redact_call(
    task: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    parameters: Sequence[str] | None = None,
    *,
    most: int,
) -> str:
    """The call as Python code with its secrets masked: `users.tasks.invite(42, password='********')`.

    In `most` characters, the last of which is then an ellipsis; nothing is done for what they do not show.
    `parameters` are the names of the task's positional parameters, None if they are not known: what is given
    by position is then masked only by what it looks like.
    """
    call, size = [f"{task}("], len(task) + 1
    try:
        for part in _rules().arguments(args, kwargs, parameters or (), most):
            call.append(part)
            size += len(part)
            if size > most:
                break
        else:
            call.append(")")
    except RecursionError:
        call = [f"{task}({MASK})"]
    told = "".join(call)
    return told if len(told) <= most else f"{told[: most - 1]}…"


def _rules() -> "_Rules":
    return _compiled(tuple(settings.REDACT_KEYS), tuple(settings.REDACT_PATTERNS))


@lru_cache(maxsize=8)
def _compiled(keys: tuple[str, ...], patterns: tuple[str, ...]) -> "_Rules":
    return _Rules(keys, patterns)


class _Rules:
    """What the two settings say, compiled once."""

    def __init__(self, keys: tuple[str, ...], patterns: tuple[str, ...]) -> None:
        self._keys = [re.compile(key, re.IGNORECASE) for key in keys]
        self._patterns = [re.compile(pattern) for pattern in patterns]
        self._is_secret = lru_cache(maxsize=2_000)(self._is_found)

    def value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {name: self.named(name, item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return value

    def named(self, name: str, value: Any) -> Any:
        if value is None or isinstance(value, bool) or value in ("", [], {}):
            return value
        return MASK if self.is_secret(name) else self.value(value)

    def is_secret(self, name: str) -> bool:
        return self._is_secret(name[-_LONGEST_NAME:])

    def arguments(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], parameters: Sequence[str], most: int
    ) -> Iterator[str]:
        """The arguments of a call as code, in parts, of each text at most so many characters."""
        names = chain(parameters, repeat(""))
        placed = (("", name, value) for name, value in zip(names, args, strict=False))
        by_name = ((f"{name}=", name, value) for name, value in kwargs.items())
        for position, (head, name, value) in enumerate(chain(placed, by_name)):
            yield f"{', ' if position else ''}{head}"
            yield from self._written(name, value, most)

    def _written(self, name: str, value: Any, most: int) -> Iterator[str]:
        if isinstance(value, str) and not self.is_secret(name):
            yield repr(redact_begin(value, most))
        elif isinstance(value, Mapping) and value and not self.is_secret(name):
            for position, (key, item) in enumerate(value.items()):
                yield f"{', ' if position else '{'}{key[:most]!r}: "
                yield from self._written(key, item, most)
            yield "}"
        elif isinstance(value, list | tuple) and value and not self.is_secret(name):
            for position, item in enumerate(value):
                yield ", " if position else "["
                yield from self._written("", item, most)
            yield "]"
        else:
            yield repr(self.named(name, value))

    def text(self, text: str) -> str:
        for pattern in self._patterns:
            text = pattern.sub(_masked, text)
        return self._mask_pairs(text)

    def _is_found(self, name: str) -> bool:
        humps = _HUMP.sub("_", name)
        return any(key.search(name) or key.search(humps) for key in self._keys)

    def _mask_pairs(self, text: str) -> str:
        """Mask what stands behind the name of a secret."""
        parts, done, position = [], 0, 0
        while pair := _NAME.search(text, position):
            position = pair.end()
            is_logger = "." in pair["name"] and pair["sign"] == ":" and not pair["quote"]  # shop.auth: hello
            if is_logger or not self.is_secret(pair["name"]):
                continue
            start, position = _value_at(text, position)
            if text[start:position].lower() not in _TELL_NOTHING:
                parts += [text[done:start], MASK]
                done = position
        return "".join([*parts, text[done:]])


def _masked(match: re.Match[str]) -> str:
    whole = match[0]
    group = 1 if match.re.groups and match[1] is not None else 0
    start, end = (place - match.start() for place in match.span(group))
    # Group 1 of a lookaround may stand outside of what is replaced.
    if not 0 <= start < end <= len(whole):
        return whole
    return f"{whole[:start]}{MASK}{whole[end:]}"


def _value_at(text: str, position: int) -> tuple[int, int]:
    """From where to where the value reaches that begins here: inside its quotes, or all of its expression."""
    if quoted := _QUOTED.match(text, position):
        return quoted.span(quoted.lastgroup or 0)
    bare = _BARE.match(text, position)
    end = bare.end() if bare else position
    while text[end : end + 1] in ("[", "(", "{"):
        end = _end_of_brackets(text, end)
    return position, end


def _end_of_brackets(text: str, position: int) -> int:
    """Where the brackets that open here are closed, at the latest where the line ends."""
    depth = 0
    for part in _IN_BRACKETS.finditer(text, position):
        if part["end"]:
            return part.start()
        depth += bool(part["open"]) - bool(part["close"])
        if depth == 0 and part["close"]:
            return part.end()
    return len(text)
