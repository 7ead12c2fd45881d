"""The failed jobs of the last day, grouped by what went wrong, and explained where that is known."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

from ..models import Job
from ..redaction import redact_text
from .findings import Finding, ago, number, ok, quoted, warning

RECENT = timedelta(days=1)
MOST_READ = 200
MOST_NAMED = 3


@dataclass(frozen=True)
class Explanation:
    """What an error means whose type ends in `error_type` and whose message contains `message`."""

    error_type: str
    message: str
    why: str
    fix: str

    def explains(self, job: Job) -> bool:
        return bool(
            re.search(f"(^|\\.)({self.error_type})$", job.error_type)
            and re.search(self.message, job.error_message, re.IGNORECASE)
        )


_DATABASE_ERROR = "OperationalError|InterfaceError"
_EVENT_LOOP = (
    "Write the task as async def, and await in it instead of asyncio.run() or run_until_complete(); "
    "enqueue with await task.aenqueue(…); call code that blocks with await sync_to_async(function)(…)."
)

EXPLANATIONS = [
    Explanation(
        "WorkerLost",
        r"signal 9\b",
        "Its process was killed from outside, as the kernel does when memory runs out.",
        "dmesg -T | grep -i 'killed process'; then give the worker more memory, or the task less at a time.",
    ),
    Explanation(
        "WorkerLost",
        "",
        "Its process or its worker died while it ran; nobody knows how far it got.",
        "See what its message tells, and the log of the worker. A task that may safely run twice is declared "
        "with idempotent=True or retry=Retry(…), and then runs again by itself.",
    ),
    Explanation(
        "JobTimeoutException",
        "",
        "It took longer than its time limit.",
        "Raise the limit: @task(timeout=SECONDS), .using(timeout=SECONDS), or DEFAULT_TIMEOUT of the queue; "
        "or split the job.",
    ),
    Explanation(
        "CpuLimitExceeded|MemoryLimitExceeded",
        "",
        "It took more than its task or its queue allows.",
        "Raise the limit that its message names, or have it do less at a time.",
    ),
    Explanation(
        "TaskNotFound",
        "",
        "The worker has no function of this name: moved, renamed, or not deployed there.",
        "Bring it back, or give its name to what replaces it with @task(name=…), and start the workers anew.",
    ),
    Explanation(
        "TaskNotAllowed",
        "",
        "It is no @task, and not of the project or an installed app.",
        'Decorate it with @task, or add it to DJANGO_JOBS["ALLOWED_TASKS"], and start the workers anew.',
    ),
    Explanation(
        _DATABASE_ERROR,
        "is locked",
        "Another process was writing to SQLite for longer than this one waited.",
        'Set OPTIONS = {"timeout": 30, "transaction_mode": "IMMEDIATE"} in DATABASES, or use PostgreSQL.',
    ),
    Explanation(
        _DATABASE_ERROR,
        "",
        "A database was not reached, or broke the connection.",
        "See what is said of the database here, and its log. Declare the task with retry=Retry(…) to outlast "
        "restarts.",
    ),
    Explanation(
        "SynchronousOnlyOperation",
        "",
        "It called the ORM, or other code that blocks, inside a running event loop.",
        "In async code use the ORM's own async methods (await Model.objects.aget(…)), or await "
        "sync_to_async(function)(…); or write the task as a plain def.",
    ),
    Explanation(
        "RuntimeError",
        "cannot be called from a running event loop|event loop is already running|where an event loop runs"
        "|same thread as an async event loop|Cannot run the event loop while another loop is running",
        "It started an event loop where one runs already.",
        _EVENT_LOOP,
    ),
    Explanation(
        "RuntimeError",
        "event loop is closed|attached to a different (event )?loop|bound to a different event loop"
        "|no running event loop|no current event loop",
        "It used something, such as a client or a lock, with another event loop than the one it was made in.",
        f"Make it inside the coroutine that uses it. {_EVENT_LOOP}",
    ),
    Explanation(
        "ModuleNotFoundError|ImportError|SyntaxError",
        "",
        "Code could not be imported in the worker.",
        "Install in the worker's environment what is missing there, or correct the module named; then start "
        "the workers anew.",
    ),
    Explanation(
        "MemoryError",
        "",
        "It needed more memory than it may have.",
        "Give the worker more memory, or the task less at a time.",
    ),
]


def failures(now: datetime) -> Iterator[Finding]:
    newest = list(
        Job.objects.failed()
        .order_by("-id")
        .only("task", "queue", "error_type", "error_message", "traceback", "finished_at")[:MOST_READ]
    )
    recent = [job for job in newest if job.finished_at and job.finished_at > now - RECENT]
    if not recent:
        yield ok("failures", "No job failed in the last 24 hours.")
    recent.sort(key=_group)
    for _, jobs in groupby(recent, key=_group):
        yield _explained(list(jobs), now, is_all=len(newest) < MOST_READ)


def _group(job: Job) -> tuple[str, int]:
    """Jobs of one group have one error type and one explanation."""
    explained = (place for place, each in enumerate(EXPLANATIONS) if each.explains(job))
    return job.error_type, next(explained, -1)


def _explained(jobs: Sequence[Job], now: datetime, *, is_all: bool) -> Finding:
    last = max(jobs, key=lambda job: job.finished_at or now)
    error_type, place = _group(last)
    count = number(len(jobs), "job") if is_all else f"{len(jobs)} of the newest {MOST_READ} failed jobs"
    found = f"{count} failed with {quoted(error_type) or 'no error type'} in the last 24 hours."
    found += f" Last: {quoted(last.task)}, {ago(last.finished_at or now, now)}"
    found += f', "{quoted(redact_text(last.error_message))}"' if last.error_message else ""
    if where := _own_frame(last.traceback):
        found += f", in {where}"
    requeue = f"python manage.py requeue_failed {_which(jobs)}"
    if place < 0:
        return warning("failures", f"{found}.", f"Read its traceback in the admin; once mended: {requeue}")
    explanation = EXPLANATIONS[place]
    return warning("failures", f"{found}. {explanation.why}", f"{explanation.fix} Then: {requeue}")


def _which(jobs: Sequence[Job]) -> str:
    if len(jobs) <= MOST_NAMED:
        return " ".join(str(job.pk) for job in jobs)
    if jobs[0].error_type:
        return f"--since 1d --error {shlex.quote(jobs[0].error_type)}"
    return f"--since 1d --queue {shlex.quote(jobs[0].queue)}"


def _own_frame(traceback: str) -> str:
    """Where in the project's own code it was raised: the innermost frame of no installed package."""
    frames = re.findall(r'^ *File "([^"\n]+)", line (\d+), in (\S+)', traceback, re.MULTILINE)
    own = [
        frame
        for frame in frames
        if "site-packages" not in frame[0] and not re.search(r"/lib/python3|<frozen|/django_jobs/", frame[0])
    ]
    return f"{own[-1][0]}, line {own[-1][1]} ({own[-1][2]})" if own else ""
