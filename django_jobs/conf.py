"""Every setting of django_jobs: the keys of `settings.DJANGO_JOBS`, with default, unit and what is allowed.

Read on every use, so that `override_settings` works. A value of no use is told by a system check, and raises
`ImproperlyConfigured` with the same words when it is used. docs/settings.md describes each key to people.
"""

import os
import re
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import Any, Generic, Literal, TypeVar, overload

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured

T = TypeVar("T")

_SECONDS_OF_A_DAY = 86_400
_LONGEST_RETENTION_DAYS = 36_500
_LARGEST_JSON_BYTES = 250_000_000  # PostgreSQL's jsonb ends at 256 MB.
_LONGEST_QUEUE_NAME = 100
LIMITS = {"cpu_seconds": (0.1, 31_536_000), "memory_mb": (10, 1_048_576)}  # lowest and highest
REDACT_KEYS = [
    r"passw(or)?d",
    r"passphrase",
    r"passcode",
    r"(?<![a-z])(pass|pwd)(?![a-z])",
    r"secret(?!ar)",
    r"token(?![a-z]|[-_](count|limit|usage|type))",
    r"(access|refresh|auth|api|session)[-_]?tokens",
    r"(?<![a-z])o?auth2?(?![a-z])",
    r"authori[sz]ation",
    r"credential",
    r"(api|access|account|auth|encryption|license|master|private|secret|service|shared|signing)[-_]?keys?(?![a-z])",
    r"(?<![a-z])(aes|fernet|gpg|hmac|jwt|pgp|rsa|ssh|ssl|tls)[-_]?keys?(?![a-z])",
    r"(?-i:[A-Z0-9](?<!PRIMARY)(?<!UNIQUE)(?<!FOREIGN)(?<!PUBLIC)(?<!CACHE)_KEY$)",
    r"(?<![a-z])(jwt|cookies?)(?![a-z])",
    r"signature(?![a-z])",
    r"sessionid",
]
"""Names of secrets, and no others that contain them: `author`, `compass`, `secretary`, `max_tokens`, `key`,
`unique_key`, `primary_key` and `s3_key` are none."""

REDACT_PATTERNS = [
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY[A-Z ]{0,10}-----((?:[\w+/=\s\\:,.]|-(?!----))++)",
    r"://[^\s'\"/@:?#]*+:(?!\d{1,5}[/?#])([^\s'\"/?#]+|(?:[^\s'\"@:]|:(?!//))++)@",
    r"(?i)authorization:(?<!\.authorization:)[ \t]*+([^\r\n]++)",
    r"(?i)cookie:(?<!\.cookie:)[ \t]*+([^\r\n]++)",
    r"[Bb]earer[ \t]++([\w.~+/=-]{16,}+)",
    r"eyJ(?<![\w-]eyJ)[\w-]{5,}+(?:\.[\w-]*+){2,4}+",
]
"""Private keys, passwords in URLs, headers that log somebody in, bearer and JSON web tokens."""

_QUEUE_OPTIONS = (
    "DEFAULT_TIMEOUT",
    "DEFAULT_RESULT_TTL",
    "ASYNC",
    "SERIALIZER",
    "QUEUE_CLASS",
    "SSL_CERT_REQS",
)


class Setting(Generic[T]):
    """One key: its default, and which values are allowed, in words and as a test."""

    def __init__(self, default: T, allowed: str, is_allowed: Callable[[Any], bool]) -> None:
        self.default = default
        self.allowed = allowed
        self.is_allowed = is_allowed

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> "Setting[T]": ...
    @overload
    def __get__(self, instance: "Settings", owner: type) -> T: ...
    def __get__(self, instance: "Settings | None", owner: type) -> "Setting[T] | T":
        if instance is None:
            return self
        given = instance.given()
        if problem := instance.problem() or (self.name in given and self.problem(given[self.name])):
            raise ImproperlyConfigured(problem)
        value: T = given.get(self.name, self.default)
        return value

    def problem(self, value: object) -> str:
        """What is wrong with this value, empty if nothing is."""
        if self.is_allowed(value):
            return ""
        return (
            f'DJANGO_JOBS["{self.name}"] is {_without_secrets(self.name, value)}; allowed is {self.allowed}.'
        )


class ExpressionsSetting(Setting[Collection[str]]):
    """Regular expressions; tells which one is none, and why."""

    def __init__(self, default: Collection[str]) -> None:
        super().__init__(default, "a list of regular expressions", _are_paths)

    def problem(self, value: object) -> str:
        if not self.is_allowed(value):
            return f'DJANGO_JOBS["{self.name}"] is {value!r}; allowed is {self.allowed}.'
        for expression in value:  # type: ignore[attr-defined] # Allowed is a collection.
            try:
                re.compile(expression)
            except (re.error, OverflowError, RecursionError) as error:
                return (
                    f'DJANGO_JOBS["{self.name}"] contains {expression!r}, which is no regular expression: '
                    f"{error}."
                )
        return ""


def _is_number(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _is_size(value: object) -> bool:
    return isinstance(value, int) and _is_number(value, 1, _LARGEST_JSON_BYTES)


def _is_retention(value: object) -> bool:
    return value is None or (_is_number(value, 0, _LONGEST_RETENTION_DAYS) and value != 0)


def _are_retentions(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and _is_retention(days) for name, days in value.items()
    )


def _are_paths(value: object) -> bool:
    return isinstance(value, list | tuple | set) and all(isinstance(path, str) and path for path in value)


def _are_queues(value: object) -> bool:
    options = value.values() if isinstance(value, dict) else ()
    return (
        isinstance(value, list | tuple | dict)
        and len(value) > 0
        and all(isinstance(name, str) and 0 < len(name) <= _LONGEST_QUEUE_NAME for name in value)
        and all(isinstance(given, dict) and given.keys() <= set(_QUEUE_OPTIONS) for given in options)
    )


def is_limit(name: str, value: object) -> bool:
    """Whether a task or a queue may have this limit."""
    return name in LIMITS and _is_number(value, *LIMITS[name])


def _are_limits(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(queue, str)
        and isinstance(limits, dict)
        and all(is_limit(name, limit) for name, limit in limits.items())
        for queue, limits in value.items()
    )


_A_SIZE = f"a whole number of bytes from 1 to {_LARGEST_JSON_BYTES}"
_A_RETENTION = f"a number of days above 0 and at most {_LONGEST_RETENTION_DAYS}, or None for ever"


def _is_dotted_path_or_none(value: object) -> bool:
    return value is None or (
        isinstance(value, str) and bool(re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", value))
    )


def _is_path_or_none(value: object) -> bool:
    return value is None or (isinstance(value, str | os.PathLike) and bool(os.fspath(value)))


class Settings:
    QUEUES = Setting[Collection[str] | Mapping[str, Mapping[str, Any]]](
        ["default"],
        f"a list of at least one queue name, each of at most {_LONGEST_QUEUE_NAME} characters, "
        f"or a dict of such names, each with a dict of options ({', '.join(_QUEUE_OPTIONS)})",
        _are_queues,
    )
    """The queues of a project that declares no `RQ_QUEUES`, on the server that the environment names.

    A list of names, or a dict {name: {"DEFAULT_TIMEOUT": 600, ...}} with options of django-rq. Defaults to
    ["default"]. Read when Django starts; ignored in a project with `RQ_QUEUES`, which names its queues there.
    """

    ALLOWED_TASKS = Setting[Collection[str]]([], "a list of dotted paths", _are_paths)
    """Functions that may run besides every `@task`, the installed apps' and the project's own.

    Dotted paths of functions, or of modules and packages with everything below them. Defaults to [].
    """

    LEASE_SECONDS = Setting[float](
        15,
        f"a number of seconds from 1 to {_SECONDS_OF_A_DAY}",
        lambda value: _is_number(value, 1, _SECONDS_OF_A_DAY),
    )
    """How long a worker counts as alive after its last sign of life. Defaults to 15 seconds.

    A shorter lease notices a lost worker sooner. One that is alive but paused, or cut off from the database
    and from Redis, for as long ends what it runs, since others may count it as lost then. Not so on SQLite.
    """

    QUEUE_LIMITS = Setting[Mapping[str, Mapping[str, float]]](
        {},
        "a dict of names of queues, each with a dict of limits: "
        + ", ".join(f'"{name}", a number from {low} to {high}' for name, (low, high) in LIMITS.items()),
        _are_limits,
    )
    """How much CPU time and memory one job of some queues may take: {queue: {"cpu_seconds": 60, "memory_mb":
    500}}. Defaults to {}, no limits.

    A job over its limit fails. What `@task(cpu_seconds=…, memory_mb=…)` says wins over its queue's.
    """

    MAX_ARGUMENTS_BYTES = Setting[int](1_000_000, _A_SIZE, _is_size)
    """How large a job's arguments may be, as JSON in UTF-8. Defaults to 1,000,000 bytes.

    Larger ones are refused when the job is enqueued.
    """

    MAX_RESULT_BYTES = Setting[int](10_000_000, _A_SIZE, _is_size)
    """How large a result may be to be kept, as JSON in UTF-8. Defaults to 10,000,000 bytes.

    A job with a larger one is finished all the same; it says that its result was not kept, and why.
    """

    RETENTION_DAYS = Setting[float | None](7, _A_RETENTION, _is_retention)
    """How long finished and canceled jobs are kept after their end. Defaults to 7 days.

    None keeps them for ever. Fractions are allowed: 0.5 is twelve hours.
    """

    FAILED_RETENTION_DAYS = Setting[float | None](90, _A_RETENTION, _is_retention)
    """How long failed jobs are kept after their end. Defaults to 90 days. None keeps them for ever."""

    QUEUE_RETENTION_DAYS = Setting[Mapping[str, float | None]](
        {}, f"a dict with {_A_RETENTION}, for names of queues", _are_retentions
    )
    """How long the jobs of some queues are kept, whichever way they ended: {queue: days}. Defaults to {}.

    None keeps a queue's jobs for ever.
    """

    TASK_RETENTION_DAYS = Setting[Mapping[str, float | None]](
        {}, f"a dict with {_A_RETENTION}, for names of tasks", _are_retentions
    )
    """How long the jobs of some tasks are kept, whichever way they ended: {task name: days}. Defaults to {}.

    None keeps a task's jobs for ever. A task's days win over its queue's.
    """

    IMMEDIATE = Setting[bool](False, "True or False", lambda value: isinstance(value, bool))
    """Whether jobs run at commit in the process that enqueued them. Defaults to False.

    For tests: it needs no Redis and no worker.
    """

    PLAIN_JOBS = Setting[Literal["run", "refuse"]](
        "run", '"run" or "refuse"', lambda value: isinstance(value, str) and value in {"run", "refuse"}
    )
    """What the worker does with jobs that other code put on its queues with plain RQ. Defaults to "run".

    Whoever can write to Redis can have such a job run any function; "refuse" has them fail instead.
    """

    LOG_FILE = Setting[str | os.PathLike[str] | None](None, "the path of a file, or None", _is_path_or_none)
    """The file to which `rqworker` also writes its log. Defaults to None, which means no file."""

    SPOOL_DIRECTORY = Setting[str | os.PathLike[str] | None](
        None, "the path of a folder, or None", _is_path_or_none
    )
    """Where reports of workers wait for a database that is away. Defaults to None, which means
    `.django_jobs/spool` in the project's folder.

    In a container that starts anew, name a folder that outlives it. Only its user may write to it.
    """

    REDACT_KEYS = ExpressionsSetting(REDACT_KEYS)
    """The names of secrets: regular expressions, searched for in names of arguments and keys of dicts.

    Case is ignored, and `accessToken` is looked at as `access_Token` too. What goes by such a name is masked,
    also within texts. Defaults to the list above.
    """

    REDACT_PATTERNS = ExpressionsSetting(REDACT_PATTERNS)
    """What secrets look like in texts: regular expressions. Defaults to the list above.

    Masked is group 1, or all that matches where there is none.
    """

    REDACT_AT_WRITE = Setting[bool](False, "True or False", lambda value: isinstance(value, bool))
    """Whether logs, tracebacks, progress messages and traces are masked before they go into the database.
    Defaults to False: they are masked where they are shown.

    The messages of errors are masked in any case, as searches look in them. Arguments and results are stored
    as they are: jobs and code read them.
    """

    READ_ONLY = Setting[bool](False, "True or False", lambda value: isinstance(value, bool))
    """Whether people may only look: True refuses every verb that a user or a command asks for. Defaults to
    False.

    Code that steers without naming a user goes on, and so do workers and the maintainer.
    """

    VISIBLE_JOBS = Setting[str | None](
        None, "the dotted path of a function, or None", _is_dotted_path_or_none
    )
    """The function that tells which jobs a user may see and steer: it is given the user and a queryset of
    jobs, and returns that with more filters. Defaults to None: all jobs.

    The others do not exist for that user, to whom pages tell nothing that is told of all jobs. Permissions
    are asked for besides.
    """

    @property
    def lease(self) -> timedelta:
        return timedelta(seconds=self.LEASE_SECONDS)

    def given(self) -> Any:
        """What the project wrote, unchecked."""
        return getattr(django_settings, "DJANGO_JOBS", {})

    def problem(self) -> str:
        """Why what the project wrote is no settings at all, empty if it is."""
        given = self.given()
        return "" if isinstance(given, dict) else f"DJANGO_JOBS is {given!r}; allowed is a dict of settings."

    @classmethod
    def declared(cls) -> dict[str, Setting[Any]]:
        return {name: setting for name, setting in vars(cls).items() if isinstance(setting, Setting)}


def _without_secrets(name: str, value: object) -> str:
    # Imported when there is something to tell: it takes long.
    from django.views.debug import SafeExceptionReporterFilter

    shown = repr(SafeExceptionReporterFilter().cleanse_setting(name, value))
    return re.sub(r"//[^\s'\"]*@", "//***@", shown)


settings = Settings()
