"""For the tests of projects: runs in the test's own process what was enqueued, and tells what was enqueued.

Needs no server and no worker. The pytest plugin offers the same as fixtures. See docs/howto/testing.md.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload
from unittest import TestCase
from uuid import UUID

from . import control, executor, registry, relay
from .models import Job, Queue
from .tasks import Task
from .values import did_you_mean

MOST_SHOWN = 30
"""How many jobs a failed assertion lists."""


def run_jobs(*, scheduled: bool = False, raise_errors: bool = True, limit: int = 1000) -> list[Job]:
    """Run the queued jobs here, and those that they enqueue, until none is left; return all as they are then.

    They run in the order in which they were enqueued, those `at_front` first; it does not matter whether
    their transaction commits. Jobs of paused queues stay. With `scheduled`, jobs and retries that wait for a
    time run too, as soon as no other is left; clocks are not changed.

    What a job's function raises is recorded and then raised here, so that no failure goes unnoticed; the jobs
    after it stay queued. With `raise_errors=False` it is only recorded. Raises `RuntimeError` when jobs are
    left after `limit` attempts.
    """
    __tracebackhide__ = True
    ran: dict[UUID, int] = {}  # {id: attempts made}
    with relay.withheld():
        while job := _next_job(scheduled):
            if sum(ran.values()) >= limit:
                raise RuntimeError(
                    f"run_jobs() made {limit} attempts, and {job.call} is still to run. Does a job enqueue "
                    "itself without end? If there are so many jobs, give a higher limit=."
                )
            attempt = job.attempt
            raised = executor.run_here(job)
            ran[job.pk] = ran.get(job.pk, 0) + 1
            if raised is not None and raise_errors:
                raised.add_note(f"Raised in attempt {attempt} of job {job.pk}, {job.call}, by run_jobs().")
                raise raised
            if Job.objects.queued().filter(pk=job.pk, attempt=attempt).exists():
                raise RuntimeError(f"{job.call} cannot be started: another transaction holds its row locked.")
    now = Job.objects.in_bulk(ran)
    return [now[job_id] for job_id in ran if job_id in now]


class EnqueuedJobs(Sequence[Job]):
    """The jobs in the database, in the order in which they were enqueued; those that have ended as well.

    Reads anew whenever it is asked.
    """

    def __iter__(self) -> Iterator[Job]:
        return iter(Job.objects.ours().order_by("id"))

    def __len__(self) -> int:
        return Job.objects.ours().count()

    @overload
    def __getitem__(self, index: int) -> Job: ...
    @overload
    def __getitem__(self, index: slice) -> list[Job]: ...
    def __getitem__(self, index: int | slice) -> Job | list[Job]:
        return list(self)[index]

    def __eq__(self, other: object) -> bool:
        return list(self) == other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"[{', '.join(job.call for job in self)}]"

    def of(self, task: Task[..., Any] | Callable[..., Any] | str, **expected: Any) -> list[Job]:
        """The jobs of a task whose columns are as expected: `of(send_invoice, args=[42], queue="mail")`."""
        name = _name_of(task)
        _check_columns(expected)
        return [job for job in self if job.task == name and _is_as(job, expected)]

    def one(self, task: Task[..., Any] | Callable[..., Any] | str, **expected: Any) -> Job:
        """The only job of a task whose columns are as expected.

        Raises `AssertionError` when there is none or more than one, and lists what was enqueued.
        """
        __tracebackhide__ = True
        jobs = self.of(task, **expected)
        if len(jobs) == 1:
            return jobs[0]
        wanted = _name_of(task) + (f" with {_told(expected)}" if expected else "")
        found = (
            f"{len(jobs)} jobs of {wanted} were enqueued, not one."
            if jobs
            else f"No job of {wanted} was enqueued."
        )
        raise AssertionError(f"{found} {self._listed(expected)}")

    def _listed(self, expected: dict[str, Any]) -> str:
        jobs = list(self)
        if not jobs:
            return "Nothing was enqueued."
        columns = dict.fromkeys(["queue", "status", *expected])
        for shown in ("args", "kwargs"):
            columns.pop(shown, None)
        lines = [f"  {job.call}: {_told({name: getattr(job, name) for name in columns})}" for job in jobs]
        cut = [f"  … and {len(lines) - MOST_SHOWN} more"] if len(lines) > MOST_SHOWN else []
        return "\n".join(["Enqueued were:", *lines[:MOST_SHOWN], *cut])


enqueued_jobs = EnqueuedJobs()


class JobsTestMixin(TestCase):
    """For Django's test cases, `class InvoiceTests(JobsTestMixin, TestCase)`: no test pushes to a server."""

    run_jobs = staticmethod(run_jobs)
    enqueued_jobs = enqueued_jobs

    @classmethod
    def setUpClass(cls) -> None:
        cls.enterClassContext(relay.withheld())
        super().setUpClass()


def _next_job(scheduled: bool) -> Job | None:
    paused = Queue.objects.filter(paused=True).values("name")
    waiting = Job.objects.ours().exclude(queue__in=paused)
    if queued := waiting.queued().order_by("-at_front", "id").first():
        return queued
    if scheduled and (later := waiting.scheduled().order_by("scheduled_for", "id").first()):
        return control.run_now(later)
    return None


def _name_of(task: Task[..., Any] | Callable[..., Any] | str) -> str:
    if isinstance(task, Task):
        return task.name
    if isinstance(task, str):
        registry.load(task)  # A name that is mistyped would never be found.
        return task
    return registry.path_of(task)


def _check_columns(expected: dict[str, Any]) -> None:
    known = [field.name for field in Job._meta.concrete_fields]
    for name in expected:
        if name not in known:
            raise TypeError(f'A job has no column "{name}"; {did_you_mean(name, known)}')


def _is_as(job: Job, expected: dict[str, Any]) -> bool:
    # The expected value stands on the left and may be one that equals many, such as unittest.mock.ANY.
    return all(_as_stored(value) == getattr(job, name) for name, value in expected.items())


def _as_stored(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _told(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())
