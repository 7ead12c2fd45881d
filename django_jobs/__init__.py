"""Run, watch and steer background jobs from Django."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .executor import current_job as current_job
    from .models import get_job as get_job
    from .reporter import progress as progress
    from .retries import Retry as Retry
    from .tasks import enqueue as enqueue
    from .tasks import task as task

__version__ = "0.1.0.dev0"

# Resolved on first use: models cannot be imported while Django is still loading the apps.
_HOMES = {
    "Retry": "retries",
    "current_job": "executor",
    "enqueue": "tasks",
    "get_job": "models",
    "progress": "reporter",
    "task": "tasks",
}
__all__ = ["Retry", "current_job", "enqueue", "get_job", "progress", "task"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
