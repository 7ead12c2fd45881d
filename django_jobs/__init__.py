"""Run, watch and steer background jobs from Django."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .current import current_job as current_job
    from .elsewhere import Elsewhere as Elsewhere
    from .models import get_job as get_job
    from .reporter import progress as progress
    from .reporter import progress_callback as progress_callback
    from .results import aget_task_result as aget_task_result
    from .results import await_task_result as await_task_result
    from .results import get_task_result as get_task_result
    from .results import wait_task_result as wait_task_result
    from .retries import Retry as Retry
    from .tasks import aenqueue as aenqueue
    from .tasks import aenqueue_many as aenqueue_many
    from .tasks import enqueue as enqueue
    from .tasks import enqueue_at as enqueue_at
    from .tasks import enqueue_in as enqueue_in
    from .tasks import enqueue_many as enqueue_many
    from .tasks import task as task

__version__ = "0.1.0.dev0"

# Resolved on first use: models cannot be imported while Django is still loading the apps.
_HOMES = {
    "Elsewhere": "elsewhere",
    "Retry": "retries",
    "aenqueue": "tasks",
    "aenqueue_many": "tasks",
    "aget_task_result": "results",
    "await_task_result": "results",
    "current_job": "current",
    "enqueue": "tasks",
    "enqueue_at": "tasks",
    "enqueue_in": "tasks",
    "enqueue_many": "tasks",
    "get_job": "models",
    "get_task_result": "results",
    "progress": "reporter",
    "progress_callback": "reporter",
    "task": "tasks",
    "wait_task_result": "results",
}
__all__ = [
    "Elsewhere",
    "Retry",
    "aenqueue",
    "aenqueue_many",
    "aget_task_result",
    "await_task_result",
    "current_job",
    "enqueue",
    "enqueue_at",
    "enqueue_in",
    "enqueue_many",
    "get_job",
    "get_task_result",
    "progress",
    "progress_callback",
    "task",
    "wait_task_result",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
