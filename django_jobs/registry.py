"""Which functions may run as jobs, and how a path becomes a function.

Allowed are every `@task`; other functions only from installed apps, the project's own package and
`ALLOWED_TASKS`. Asked at enqueue, and again by the executor.
"""

import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings

from .conf import settings
from .exceptions import TaskNotAllowed, TaskNotFound

_declared: dict[str, Callable[..., Any]] = {}


def declare(function: Callable[..., Any]) -> str:
    """Allow this function because it is a `@task`, and return its path."""
    path = path_of(function)
    _declared[path] = function
    return path


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


def check_importable(path: str) -> None:
    """Raise `TypeError` unless a worker will find something at `path`, as far as this process can tell."""
    module, _, name = path.rpartition(".")
    if not hasattr(sys.modules.get(module), name):
        raise TypeError(
            f"There is no {name} in the module {module}, so no worker can import it; "
            "define it at the top level of a module of the project."
        )
    if len(path) > 255:
        raise TypeError(f"The path {path} has {len(path)} characters; at most 255 are stored.")


def check_allowed(path: str) -> None:
    """Raise `TaskNotAllowed` unless the function at `path` may run as a job."""
    if path in _declared or any(
        path == prefix or path.startswith(f"{prefix}.") for prefix in _allowed_prefixes()
    ):
        return
    raise TaskNotAllowed(
        f"{path} may not run as a job: it is no @task, and neither in an installed app nor in the project's "
        f'own package. Decorate it with @task, or add "{path}" to DJANGO_JOBS["ALLOWED_TASKS"].'
    )


def load(path: str) -> Callable[..., Any]:
    """The function at `path`, imported.

    Raises `TaskNotFound` when there is none and `TaskNotAllowed` when it may not run.
    """
    module_path, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_path), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise TaskNotFound(
            f"{path} cannot be imported ({error}). Was it moved, renamed or removed by a deploy? "
            "Bring it back and requeue the job."
        ) from error
    check_allowed(path)
    if path in _declared:
        return _declared[path]
    if not callable(found) or path_of(found) != path:
        # A name that a module merely imported: `app.tasks.system` must not run `os.system`.
        raise TaskNotAllowed(f"{path} may not run as a job: it is not a function defined in {module_path}.")
    return found  # type: ignore[no-any-return]


def _allowed_prefixes() -> list[str]:
    own = [getattr(django_settings, name, "") for name in ("ROOT_URLCONF", "SETTINGS_MODULE")]
    packages = [module.partition(".")[0] for module in own if module and "." in module]
    return [*settings.ALLOWED_TASKS, *packages, *(app.name for app in apps.get_app_configs())]
