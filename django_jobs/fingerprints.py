"""Which failures are alike: by the class of the error, where in the project it came up, and its message.

Works on texts alone, so that failures of all workers fall together: line numbers, places of installation,
ids, and what differs between versions of Python do not matter.
"""

import re
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from pkgutil import iter_modules

NORMALIZED_LIMIT = 200  # characters
_MOST_READ = 2_000  # characters of a message; rows keep no more

_HEADER = re.compile(r"(?P<margin>(?: *[|+] )?)(?:Exception Group )?Traceback \(most recent call last\):")
_FRAME = re.compile(r'(?P<margin>(?: *\| )?)  File "(?P<path>.*)", line [0-9]+, in (?P<function>.+)')
_BRANCH = re.compile(r" *\+(?:-\+)?-+ (?:[0-9]+|\.\.\.) -+")
_CHAINED = (
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)
_CUT = re.compile(r"… [0-9]+ characters cut …")

_INLINED = {"<listcomp>", "<dictcomp>", "<setcomp>"}
"""Frames of their own until Python 3.11, parts of the one around them since."""

_OF_OTHERS = re.compile(
    r"""^<  # Code without a file: <frozen runpy>, <string>.
      | (?:^|/)(?:site|dist)-packages/
      | \.egg/ | /python[0-9]+\.zip/
      | /lib(?:32|64)?/(?:python|pypy)[0-9.]+t?/  # /usr/lib64/python3.12/
      | /python[0-9./x]{0,20}/lib/  # C:/Python312/Lib/
      | \.(?:pyx|pxd|pxi)$  # Libraries compiled elsewhere have no place.
    """,
    re.VERBOSE | re.IGNORECASE,
)
_PLACE = re.compile(r"[a-z_]\w*", re.IGNORECASE)
_RELEASE = re.compile(r".*[0-9]{4}.*|(?=.*[0-9])[0-9a-f]{7,}", re.IGNORECASE)

_MOMENT = r"""[0-9]{4}-[0-9]{2}-[0-9]{2}
    (?:[T\ ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]+)?)?(?:\ ?(?:Z|UTC|[+-][0-9]{2}:?[0-9]{2}))?)?"""
_PARTS = re.compile(
    rf"""(?P<text>(?<![\w\\])(?:'(?:[^'\\\n]|\\.)*+'|"(?:[^"\\\n]|\\.)*+"|`[^`\n]*+`)(?!\w))
      | (?P<time>{_MOMENT})
      | (?P<url>\b[a-z][a-z0-9+.-]{{0,20}}://[^\s'"<>]*[^\s'"<>.,:;!?)\]])
      | (?P<run>[^\s'"`,;()\[\]{{}}<>|=]+)""",
    re.VERBOSE | re.IGNORECASE,
)
_EMAIL = re.compile(r"[^@]+@[\w-]+(?:\.[\w-]+)+")
_IDS = re.compile(
    rf"""(?P<uuid>(?<![0-9a-z])[0-9a-f]{{8}}-(?:[0-9a-f]{{4}}-){{3}}[0-9a-f]{{12}}(?![0-9a-z]))
      | (?P<time>{_MOMENT})
      | (?P<number>0x[0-9a-f]+
          | (?<![0-9a-z])[+-]?[0-9](?:[0-9.,_:]*[0-9])?(?:e[+-]?[0-9]+)?(?![0-9a-z]))
      | (?P<word>[0-9a-z]+)""",
    re.VERBOSE | re.IGNORECASE,
)
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_HEX = re.compile(r"(?=.*[0-9])[0-9a-f]{6,}|[0-9a-f]{8,}", re.IGNORECASE)
_TOKEN = re.compile(r"(?=.*[0-9])[0-9a-z]{16,}", re.IGNORECASE)
_NUMBER = "<number>"


def fingerprint(error_type: str, error_message: str, traceback: str) -> str:
    """32 hexadecimal characters, the same for failures that are alike."""
    parts = (error_type, innermost_frame(traceback), normalized(error_message))
    return blake2b("\0".join(parts).encode(errors="replace"), digest_size=16).hexdigest()


def normalized(message: str) -> str:
    """The message with placeholders for what differs each time: numbers, ids, times, paths, addresses, and
    all that is quoted. At most `NORMALIZED_LIMIT` characters."""
    text = _THOUSANDS.sub("", message[:_MOST_READ])
    text = " ".join(_PARTS.sub(_placeholder, text).split())
    return text if len(text) <= NORMALIZED_LIMIT else f"{text[: NORMALIZED_LIMIT - 1]}…"


def innermost_frame(traceback: str) -> str:
    """Where in the project the error came up: "shop/tasks.py in bill".

    Of the last exception of a chain, and of the first in a group. Without a frame of the project it is the
    innermost of all; empty if there is none.
    """
    sections = _last_exception(traceback)
    groups = [one for one, following in pairwise(sections) if following.depth > one.depth]
    for section in [*(each for each in sections if each not in groups), *groups]:
        for frame in reversed(section.frames):
            if frame.is_project:
                return str(frame)
    return str(sections[0].frames[-1]) if sections else ""


def project_frames(traceback: str) -> list[tuple[str, bool]]:
    """The lines of a traceback, each with whether it belongs to a frame of the project."""
    marked, inside, is_project = [], "", False
    for line in traceback.split("\n"):
        if frame := _FRAME.fullmatch(line):
            # What belongs to a frame is further in.
            inside, is_project = f"{frame['margin']}    ", _Frame.of(frame).is_project
            marked.append((line, is_project))
        else:
            is_project = is_project and line.startswith(inside)
            marked.append((line, is_project))
    return marked


@dataclass(frozen=True, slots=True)
class _Frame:
    path: str  # with slashes
    function: str

    @classmethod
    def of(cls, match: re.Match[str]) -> "_Frame":
        return cls(match["path"].replace("\\", "/"), match["function"])

    @property
    def is_project(self) -> bool:
        return not _OF_OTHERS.search(self.path) and not _is_ours(self.path)

    def __str__(self) -> str:
        *_, folder, module = ["", *self.path.split("/")]
        # A folder of a release, such as 2026-10-11 or a commit's hash, is another each time.
        is_package = _PLACE.fullmatch(folder) and not _RELEASE.fullmatch(folder)
        return f"{folder}/{module} in {self.function}" if is_package else f"{module} in {self.function}"


@dataclass(slots=True, eq=False)
class _Section:
    """The traceback of one exception."""

    depth: int = 0  # how far in it stands in a group of exceptions
    is_chained: bool = False  # The exception follows from the one before it.
    frames: list[_Frame] = field(default_factory=list)


def _last_exception(traceback: str) -> list[_Section]:
    """The traceback of the last exception of the chain; if that is a group, followed by those within it, of
    each the last of its chain."""
    kept: list[_Section] = []
    for section in _sections(traceback):
        if section.is_chained:
            while kept and kept[-1].depth > section.depth:
                kept.pop()
            if kept and kept[-1].depth == section.depth:
                kept.pop()
        kept.append(section)
    return kept


def _sections(traceback: str) -> list[_Section]:
    """All tracebacks in the text that have frames, without those that a message contains."""
    sections = [_Section()]
    margin: str | None = None  # of the frames that are read; None for any
    is_message, is_introduced, is_chained = False, True, False
    for line in traceback.split("\n"):
        if header := _HEADER.fullmatch(line):
            is_message = not is_introduced
            if is_introduced:
                margin = header["margin"].replace("+", "|")
                depth = max(len(margin) - 4, 0)  # The outermost group has a margin, but is not in a group.
                sections.append(_Section(depth, is_chained))
                is_introduced = False
        elif line.strip(" |") in _CHAINED:
            is_introduced = is_chained = True
        elif _BRANCH.fullmatch(line):
            is_introduced, is_chained = True, False
        elif _CUT.fullmatch(line):
            margin, is_message, is_introduced, is_chained = None, False, True, True
        elif frame := _FRAME.fullmatch(line):
            is_read = not is_message and margin in (None, frame["margin"])
            if is_read and frame["function"] not in _INLINED:
                sections[-1].frames.append(_Frame.of(frame))
    return [section for section in sections if section.frames]


def _is_ours(path: str) -> bool:
    _, found, within = path.rpartition("/django_jobs/")
    return bool(found) and within.partition("/")[0].removesuffix(".py") in _own_modules()


@cache
def _own_modules() -> frozenset[str]:
    return frozenset(["__init__", *(module.name for module in iter_modules([str(Path(__file__).parent)]))])


def _placeholder(part: re.Match[str]) -> str:
    kind = part.lastgroup
    if kind != "run":
        return f"<{kind}>"
    run = part[0].rstrip(".:!?")
    end = part[0][len(run) :]
    if _EMAIL.fullmatch(run):
        return f"<email>{end}"
    if len(run) > 1 and ("/" in run or "\\" in run):
        return f"<path>{end}"
    return _IDS.sub(_placeholder_of_id, run) + end


def _placeholder_of_id(part: re.Match[str]) -> str:
    if part.lastgroup != "word":
        return f"<{part.lastgroup}>"
    word = part[0]
    if _HEX.fullmatch(word) or _TOKEN.fullmatch(word):
        return _NUMBER
    return re.sub("[0-9]+", _NUMBER, word)
