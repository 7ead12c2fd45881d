"""Which functions may run as jobs, and how a name becomes a function.

A function's name is its dotted path, or the one that `@task(name=…)` gave it. Allowed are every `@task`;
other functions only from installed apps, the project's own package and `ALLOWED_TASKS`. Asked at enqueue, and
again by the executor.
"""

import importlib
import inspect
import re
import sys
from collections.abc import Callable
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.utils.module_loading import autodiscover_modules

from .conf import settings
from .exceptions import TaskNotAllowed, TaskNotFound

_declared: dict[str, Callable[..., Any]] = {}
_discovered = False


def declare(function: Callable[..., Any], name: str | None = None) -> str:
    """Allow this function because it is a `@task`, and return its name: the one given, else its path.

    Raises `ValueError` for a name that another task has.
    """
    path = path_of(function)
    if name is None:
        name = path
    elif not isinstance(name, str) or not re.fullmatch(r"[\w.:-]{1,255}", name):
        raise ValueError(
            f"name={name!r} of task {path}: a name is 1 to 255 letters, digits, dots, colons, - or _."
        )
    namesake = _declared.get(name)
    if namesake and path_of(namesake) != path:  # The same path: its module was reloaded.
        raise ValueError(
            f'Two tasks are named "{name}": {path_of(namesake)} and {path}. Give one another name. If they '
            "are the same function, its module is imported under two paths; use one of them everywhere."
        )
    _declared[name] = function
    return name


def discover() -> None:
    """Import the module `tasks` of every installed app, once. An error in one of them is raised."""
    global _discovered
    if not _discovered:
        autodiscover_modules("tasks")
        _discovered = True


def names() -> list[str]:
    """The names of all tasks."""
    discover()
    return sorted(_declared)


def path_of(function: Callable[..., Any]) -> str:
    """The dotted path under which a worker can import this function.

    Raises `TypeError` for everything that has none: lambdas, local functions, methods, other objects.
    """
    if not inspect.isroutine(function) or inspect.ismethod(function):
        raise TypeError(
            f"{function!r} is a {type(function).__name__}, not a function; "
            "a job runs a function defined with def at the top level of a module."
        )
    module, name = getattr(function, "__module__", None), function.__qualname__
    if name == "<lambda>" or name.endswith(".<lambda>"):
        problem = f"The lambda in {module} has no name a worker could import it by"
    elif "<locals>" in name:
        problem = f"{module}.{name} is defined inside another function, where no worker can import it"
    elif "." in name:
        problem = f"{module}.{name} belongs to a class"
    elif not module or module == "__main__":
        problem = f"{name} is defined in the script that runs now, which no worker can import"
    else:
        return f"{module}.{name}"
    raise TypeError(f"{problem}; define it with def at the top level of a module.")


def check_importable(function: Callable[..., Any], name: str) -> None:
    """Raise `TypeError` unless a worker will find this function, as far as this process can tell."""
    path = path_of(function)
    module, _, attribute = path.rpartition(".")
    if not hasattr(sys.modules.get(module), attribute):
        raise TypeError(
            f"There is no {attribute} in the module {module}, so no worker can import it; "
            "define it at the top level of a module of the project."
        )
    if len(name) > 255:
        raise TypeError(f"The path {name} has {len(name)} characters; at most 255 are stored.")


def check_allowed(name: str) -> None:
    """Raise `TaskNotAllowed` unless the function of this name may run as a job."""
    if name in _declared or any(
        name == prefix or name.startswith(f"{prefix}.") for prefix in _allowed_prefixes()
    ):
        return
    raise TaskNotAllowed(
        f"{name} may not run as a job: it is no @task, and neither in an installed app nor in the project's "
        f'own package. Decorate it with @task, or add "{name}" to DJANGO_JOBS["ALLOWED_TASKS"].'
    )


def load(name: str) -> Callable[..., Any]:
    """The function of this name, imported.

    Raises `TaskNotFound` when there is none and `TaskNotAllowed` when it may not run.
    """
    if name in _declared:
        return _declared[name]
    found = _import(name)
    if name in _declared:  # Its module declared it.
        return _declared[name]
    function = getattr(found, "function", None)
    if function in _declared.values():  # A task that was given a name of its own meanwhile.
        return function  # type: ignore[return-value]
    check_allowed(name)
    if not callable(found) or path_of(found) != name:
        # A name that a module merely imported: `app.tasks.system` must not run `os.system`.
        module = name.rpartition(".")[0]
        raise TaskNotAllowed(f"{name} may not run as a job: it is not a function defined in {module}.")
    return found  # type: ignore[no-any-return]


def is_async(name: str) -> bool:
    """True if the function of this name is an `async def`; it is imported if it was not yet."""
    try:
        return _is_coroutine_function(load(name))
    except Exception:  # noqa: BLE001 - Whatever its module does: who runs it will tell.
        return False


_is_coroutine_function = lru_cache(maxsize=1_000)(inspect.iscoroutinefunction)
"""Remembered, as a worker asks several times for each job."""


def parameters(name: str) -> list[str] | None:
    """The names of the positional parameters of the function of this name; None if it cannot be had.

    Remembered, as pages ask it for each row, and to look in vain for a task that is gone takes long.
    """
    found = _parameters(name, _declared.get(name), tuple(_allowed_prefixes()))
    return None if found is None else list(found)


@lru_cache(maxsize=1_000)
def _parameters(name: str, *circumstances: object) -> tuple[str, ...] | None:
    """`circumstances` are all that may change what is found."""
    try:
        found = inspect.signature(load(name)).parameters.values()
    except Exception:  # noqa: BLE001 - Whatever its module does: who runs it will tell.
        return None
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(each.name for each in found if each.kind in kinds)


def _import(name: str) -> Any:
    """What is found under this path; None if a task of this name is declared elsewhere."""
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        discover()
        if name in _declared:
            return None
        guess = get_close_matches(name, _declared, n=1)
        hint = f'Did you mean "{guess[0]}"? ' if guess else ""
        raise TaskNotFound(
            f"{name} cannot be imported ({error}). {hint}Was it moved, renamed or removed by a deploy? "
            "Bring it back, or give its name to what replaces it with @task(name=…), and requeue the job."
        ) from error


def _allowed_prefixes() -> list[str]:
    own = [getattr(django_settings, name, "") for name in ("ROOT_URLCONF", "SETTINGS_MODULE")]
    packages = [module.partition(".")[0] for module in own if module and "." in module]
    return [*settings.ALLOWED_TASKS, *packages, *(app.name for app in apps.get_app_configs())]
