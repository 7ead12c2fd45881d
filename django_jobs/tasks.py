"""The decorator that makes a function a task, and what a task can do."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, Self, TypeVar, overload

from . import registry
from .enqueueing import enqueue_call
from .models import Job
from .options import Options, check_option_names

P = ParamSpec("P")
R = TypeVar("R")


class Task(Generic[P, R]):
    """A function that can be enqueued. Calling it calls the function."""

    def __init__(self, function: Callable[P, R], path: str, options: Options) -> None:
        update_wrapper(self, function)
        self.function = function
        self.path = path
        self.options = options

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Task {self.path}>"

    def using(self, **options: Any) -> Self:
        """This task with other options for the jobs it enqueues: queue, delay, at, subject, …

        See `Options` for all. The task itself is not changed.
        """
        check_option_names(options)
        return type(self)(self.function, self.path, replace(self.options, **options))

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Have a worker call the function with these arguments once the transaction commits."""
        return enqueue_call(self.function, self.path, args, kwargs, self.options)


@overload
def task(function: Callable[P, R]) -> Task[P, R]: ...
@overload
def task(**options: Any) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def task(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Make a function a task: `@task` or `@task(queue="mail", retry=Retry(max=3), timeout=600)`.

    The options are defaults; `using()` overrides them for one call. Raises `TypeError` for what no
    worker could import (lambdas, local functions) and for options that do not exist.
    """
    check_option_names(options)
    defaults = Options(**options)
    if function is None:
        return lambda decorated: _declare(decorated, defaults)
    return _declare(function, defaults)


def enqueue(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Job:
    """Enqueue a call of `function`, of a task with the task's options, else on the queue "default".

    All further arguments are the function's own; options are given with `task(function).using(…)`.
    Raises `TaskNotAllowed` for a function that is no task and belongs neither to an installed app nor
    to the project.
    """
    if isinstance(function, Task):
        return function.enqueue(*args, **kwargs)
    path = registry.path_of(function)
    registry.check_allowed(path)
    return enqueue_call(function, path, args, kwargs, Options())


def _declare(function: Callable[P, R], options: Options) -> Task[P, R]:
    if inspect.iscoroutinefunction(function):
        raise TypeError(
            f"{registry.path_of(function)} is async def, which jobs do not run yet; "
            "call it from a plain function with asgiref.sync.async_to_sync."
        )
    return Task(function, registry.declare(function), options)
