"""The decorator that makes a function a task, what a task can do, and the functions that do the same."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, Self, TypeVar, overload

from asgiref.sync import sync_to_async

from . import registry, rlimits
from .enqueueing import Call, enqueue_calls
from .models import Job
from .options import Options, check_option_names

P = ParamSpec("P")
R = TypeVar("R")

_tasks: dict[str, "Task[..., Any]"] = {}  # {name: the task declared under it}


class Task(Generic[P, R]):
    """A function that can be enqueued. Calling it calls the function."""

    def __init__(self, function: Callable[P, R], name: str, options: Options) -> None:
        update_wrapper(self, function)
        self.function = function
        self.name = name
        self.options = options

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    def using(self, **options: Any) -> Self:
        """This task with other options for the jobs it enqueues: queue, delay, at, subject, …

        See `Options` for all. The task itself is not changed.
        """
        check_option_names(options)
        return type(self)(self.function, self.name, replace(self.options, **options))

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call:
        """The call with these arguments, to be enqueued with others by `enqueue_many`."""
        return Call(self.function, self.name, args, kwargs, self.options)

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Have a worker call the function with these arguments once the transaction commits.

        With `unique=` and an unfinished job of that key: that job, with `deduplicated=True`.
        """
        [job] = enqueue_calls([self.call(*args, **kwargs)])
        return job

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """`enqueue` for async code."""
        return await sync_to_async(self.enqueue)(*args, **kwargs)


@overload
def task(function: Callable[P, R]) -> Task[P, R]: ...
@overload
def task(
    *,
    name: str | None = None,
    cpu_seconds: float | None = None,
    memory_mb: float | None = None,
    **options: Any,
) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def task(
    function: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    cpu_seconds: float | None = None,
    memory_mb: float | None = None,
    **options: Any,
) -> Any:
    """Make a function a task: `@task` or `@task(queue="mail", retry=Retry(max=3), timeout=600)`.

    The function may be `async def`. The options are defaults; `using()` overrides them for one call. Rows
    know a task by its `name`, by default the function's path; a function that is to move keeps its jobs with
    a name of its own. A job that uses more CPU time than `cpu_seconds`, or allocates more than `memory_mb`,
    in units of 1024 * 1024 bytes, fails; None means what `QUEUE_LIMITS` says. Raises `TypeError` for what no
    worker could import (lambdas, local functions) and for options that do not exist.
    """
    check_option_names(options)
    defaults, limits = Options(**options), rlimits.checked(cpu_seconds=cpu_seconds, memory_mb=memory_mb)

    def declare(decorated: Callable[..., Any]) -> Task[..., Any]:
        declared = Task(decorated, registry.declare(decorated, name), defaults)
        rlimits.declare(declared.name, decorated, limits)
        _tasks[declared.name] = declared
        return declared

    return declare if function is None else declare(function)


def enqueue(function: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Job:
    """Enqueue a call of `function`, of a task with the task's options, else on the queue "default".

    `function` may be the name of one. All further arguments are the function's own; options are given with
    `task(function).using(…)`. Raises `TaskNotAllowed` for a function that is no task, belongs neither to
    an installed app nor to the project, and is not in `ALLOWED_TASKS`; else what `Task.enqueue` raises.
    """
    return task_of(function).enqueue(*args, **kwargs)


def enqueue_in(delay: float | timedelta, function: Callable[..., Any] | str, /, *args: Any, **kw: Any) -> Job:
    """`enqueue` for later: not before `delay`, seconds or a `timedelta`, has passed."""
    if delay is None:  # To an option it would mean "at once".
        raise TypeError("enqueue_in(None, …): give seconds or a timedelta.")
    return task_of(function).using(delay=delay, at=None).enqueue(*args, **kw)


def enqueue_at(at: datetime, function: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Job:
    """`enqueue` for later: not before the moment `at`. One that has passed means at once."""
    if at is None:
        raise TypeError("enqueue_at(None, …): give a datetime.")
    return task_of(function).using(at=at, delay=None).enqueue(*args, **kwargs)


def enqueue_many(calls: Iterable[Call]) -> list[Job]:
    """Enqueue many calls with few statements: `enqueue_many(task.call(i) for i in ids)`.

    All or none: a call that is refused raises before anything is written, and all are written in one
    transaction. The jobs stand in the order of the calls; see `Task.enqueue` for `unique=`.
    """
    if isinstance(calls, Call):
        raise TypeError("enqueue_many() takes a list of calls: enqueue_many([task.call(…)]).")
    calls = list(calls)
    for call in calls:
        if not isinstance(call, Call):
            raise TypeError(f"{call!r} is no call of a task; give task.call(…) for each.")
    return enqueue_calls(calls)


async def aenqueue(function: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Job:
    """`enqueue` for async code."""
    return await sync_to_async(enqueue)(function, *args, **kwargs)


async def aenqueue_many(calls: Iterable[Call]) -> list[Job]:
    """`enqueue_many` for async code."""
    return await sync_to_async(enqueue_many)(calls)


def task_of(function: Callable[..., Any] | str) -> Task[..., Any]:
    if isinstance(function, Task):
        return function
    if isinstance(function, str):
        name, function = function, registry.load(function)
        renamed = (each for each in _tasks.values() if each.function is function)
        return _tasks.get(name) or next(renamed, None) or Task(function, name, Options())
    path = registry.path_of(function)
    registry.check_allowed(path)
    return Task(function, path, Options())
