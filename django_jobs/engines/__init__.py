"""The engines that deliver jobs and supply the worker processes.

The only package that imports rq, celery or taskiq. Everyone else asks an engine for its capability flags,
never for its name.
"""

from difflib import get_close_matches
from functools import cache

from django.utils.module_loading import import_string

from ..exceptions import UnknownEngine, UnsupportedByEngine
from .base import BaseEngine, Delivery
from .capabilities import Capability, Lack

__all__ = ["BaseEngine", "Delivery", "Lack", "all_engines", "check_supported", "get_engine", "lack_of"]

_ENGINES = {"rq": "django_jobs.engines.rq.engine.RQEngine"}


@cache
def get_engine(name: str) -> BaseEngine:
    """The engine of this name; raises `UnknownEngine` when there is none."""
    try:
        path = _ENGINES[name]
    except KeyError:
        guess = get_close_matches(name, _ENGINES, n=1)
        hint = f'did you mean "{guess[0]}"?' if guess else f"known are: {', '.join(_ENGINES)}."
        raise UnknownEngine(f'Unknown engine "{name}"; {hint}') from None
    return import_string(path)()  # type: ignore[no-any-return]


def all_engines() -> list[BaseEngine]:
    return [get_engine(name) for name in _ENGINES]


def lack_of(name: str, capability: Capability) -> Lack | None:
    """Why the engine of this name cannot do this. None if it can, or is used no longer."""
    return get_engine(name).lack_of(capability) if name in _ENGINES else None


def check_supported(name: str, capability: Capability, subject: str) -> None:
    """Raise `UnsupportedByEngine` for what is to be done to `subject` if the engine of this name cannot."""
    if lack := lack_of(name, capability):
        raise UnsupportedByEngine(f"{subject}: {lack.reason} {lack.instead}", f"not supported by {name}")
