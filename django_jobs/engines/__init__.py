"""The engines that deliver jobs and supply the worker processes.

The only package that imports rq, celery or taskiq. Everyone else asks an engine for its capability flags,
never for its name.
"""

from difflib import get_close_matches
from functools import cache

from django.utils.module_loading import import_string

from ..exceptions import UnknownEngine
from .base import BaseEngine, Delivery

__all__ = ["BaseEngine", "Delivery", "get_engine"]

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
