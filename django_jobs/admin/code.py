"""A call as Python that makes it once more, to be copied."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from keyword import iskeyword
from typing import Any

from django.contrib.auth.base_user import AbstractBaseUser

from .. import registry
from ..models import Job
from ..retries import Retry
from ..tasks import task_of
from .seeing import masked, named_arguments

_WIDTH = 88


def job_code(job: Job) -> str:
    """The Python that enqueues this call once more. Secrets are masked: what holds one does not run as it is.

    Without its retries, limits and the like: they are its task's, or were given for this one job.
    """
    options = {
        "queue": "" if job.queue == _usual_queue(job.task) else job.queue,
        "subject": job.subject,
        "unique": job.unique_key,
        "tags": job.tags,
        "at_front": job.at_front,
        "meta": job.meta,
    }
    shown = {name: masked(name, value) for name, value in options.items() if value}
    return call_code(job.task, job.args, job.kwargs, shown)


def call_code(task: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """The Python that enqueues a call of `task` with these options of `using()`."""
    module, _, function = _path(task).rpartition(".")
    imports = [f"from {module} import {function}"]
    if task not in registry.names():
        imports.insert(0, "from django_jobs import task")
        function = f"task({function})"
    named = named_arguments(task, args, kwargs)
    positional = [repr(masked(name, value)) for name, value in named[: len(args)]]
    by_name = [_named(name, masked(name, value)) for name, value in named[len(args) :]]
    imports += _needed(options.values())
    using = _call(f"{function}.using", [f"{name}={_written(value)}" for name, value in options.items()])
    head = using if options else function
    return "\n".join([*imports, "", _call(f"{head}.enqueue", positional + by_name)])


def blank_code(task: str, placeholders: str) -> str:
    """The same with these words in the place of arguments that nobody has written yet."""
    module, _, function = _path(task).rpartition(".")
    return f"from {module} import {function}\n\n{function}.enqueue({placeholders})"


def _usual_queue(task: str) -> str:
    """The one on which its jobs are without being told."""
    try:
        return task_of(task).options.queue
    except Exception:  # noqa: BLE001 - Whatever its module does: who runs it will tell.
        return ""


def _needed(values: Iterable[Any]) -> list[str]:
    """What must be imported to write these."""
    kinds = {type(value) for value in values}
    imports = ["from datetime import datetime"] if datetime in kinds else []
    return [*imports, "from django_jobs import Retry"] if Retry in kinds else imports


def _written(value: Any) -> str:
    """The value of an option."""
    if isinstance(value, AbstractBaseUser):
        return "user"
    if isinstance(value, datetime):
        return f'datetime.fromisoformat("{value.astimezone(UTC).isoformat()}")'
    if isinstance(value, Retry):
        usual = Retry(max=value.max)
        names = ("interval", "backoff", "max_interval", "jitter")
        told = [
            f"{each}={getattr(value, each)!r}"
            for each in names
            if getattr(value, each) != getattr(usual, each)
        ]
        return _call("Retry", [f"max={value.max}", *told])
    return repr(value)


def _named(name: str, value: Any) -> str:
    """An argument by name, which may be any text: what code cannot name is not written into it as it is."""
    is_name = name.isidentifier() and not iskeyword(name)
    return f"{name}={value!r}" if is_name else f"**{ {name: value}!r}"


def _path(task: str) -> str:
    """Where the function is: a task may have a name that is no path."""
    try:
        return registry.path_of(registry.load(task))
    except Exception:  # noqa: BLE001 - Whatever its module does: who runs it will tell.
        return task


def _call(function: str, arguments: Sequence[str]) -> str:
    line = f"{function}({', '.join(arguments)})"
    if len(line.rpartition("\n")[2]) <= _WIDTH or not arguments:
        return line
    return "\n".join([f"{function}(", *(f"    {each}," for each in arguments), ")"])
