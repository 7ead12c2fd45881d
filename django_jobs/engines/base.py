"""What an engine does for django_jobs: hand deliveries to its server, and say what became of them.

Time and policy are in the database: engines know nothing of retries, delays or limits.
"""

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from typing import ClassVar, Self
from uuid import UUID

from ..exceptions import EngineUnavailable, UnknownQueue
from ..models import Job
from ..states import Status
from .capabilities import Capability, Lack

_DELIVERY_ID = re.compile(r"([0-9a-f]{32})-([0-9]{1,9})-([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class Delivery:
    """A request in an engine's queue that one attempt of a job may run now. Carries no arguments."""

    job_id: UUID
    attempt: int
    number: int
    queue: str
    task: str
    timeout_seconds: int | None
    at_front: bool = False

    COLUMNS: ClassVar = ("pk", "attempt", "delivery", "queue", "task", "timeout_seconds", "at_front")
    """Those of a job that make its delivery, in the order of the fields."""

    @classmethod
    def of(cls, job: Job) -> Self:
        """The delivery that `job` awaits."""
        return cls(job.pk, job.attempt, job.delivery, job.queue, job.task, job.timeout_seconds, job.at_front)

    @property
    def id(self) -> str:
        return f"{self.job_id.hex}-{self.attempt}-{self.number}"


def parse_delivery_id(text: str) -> tuple[UUID, int] | None:
    """The (job id, attempt) that a delivery's id asks for; None when it is not the id of a delivery."""
    match = _DELIVERY_ID.fullmatch(text)
    return (UUID(match[1]), int(match[2])) if match else None


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """What a server knows of one queue."""

    workers: Collection[str] = ()
    """The names of those who are registered as taking from it, ours and others."""
    installations: Mapping[str, int] = field(default_factory=dict)
    """{installation id: how many of its deliveries are among the oldest, the refused and the parked ones}."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server tells of itself and of its queues. None and empty mean that it does not tell."""

    address: str
    queues: Mapping[str, QueueFacts]
    trouble: str = ""
    """Why it was not reached: refused, no socket, permission, name, timeout, password, certificate, closed,
    clients, loading, database, no Redis, other; empty if it was."""
    message: str = ""
    """What was raised then."""
    version: str = ""
    lacks: str = ""
    """What is needed and its version does not have; empty if it has all."""
    latency_seconds: float = 0
    ahead_seconds: float | None = None
    """How far its clock is ahead of this machine's."""
    epoch: str = ""
    namespace: str = ""
    """What our keys begin with."""
    suspended: bool = False
    """True while all workers are told to take nothing."""
    role: str = ""
    memory_policy: str = ""
    used_bytes: int | None = None
    most_bytes: int | None = None
    append_only: bool | None = None
    disk_errors: Collection[str] = ()

    @property
    def deletes_any_keys(self) -> bool:
        """True if it makes room by deleting whatever it likes: deliveries and queues."""
        return self.memory_policy.startswith("allkeys-")

    @property
    def deletes_expiring_keys(self) -> bool:
        """True if it makes room by deleting keys that have an expiry: the life signs of workers."""
        return self.memory_policy.startswith("volatile-")


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a job stands that other code enqueued with the engine's own library: a plain job."""

    id: str
    created_at: datetime
    queue: str
    status: Status


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a plain job, as far as the engine tells. Times are its worker's clock."""

    id: UUID | None = None
    worker_name: str = ""
    worker_id: UUID | None = None
    """Our row of the worker; None for a worker that is not ours."""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    outcome: str = ""
    """An `Attempt.Outcome`; empty while it runs."""
    log: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A plain job at one moment, without its arguments and its result. A row takes all its texts but those of
    the error, which are whole: they are masked before they are cut."""

    engine: str
    id: str
    created_at: datetime
    queue: str
    status: Status
    task: str
    description: str
    timeout_seconds: int | None
    queued_at: datetime | None
    scheduled_for: datetime | None = None
    run: Run | None = None
    error: tuple[str, str, str] = ("", "", "")
    """Type, message and traceback of the error with which the run, or the job, ended."""


class BaseEngine(ABC):
    """One engine. Calls that reach a server take at most a second and raise `EngineUnavailable`.

    What no job needs in order to run may be left out: it does nothing then.
    """

    name: str
    queues_setting: str
    """Name of the setting that declares this engine's queues."""

    supports_stop = False
    """True if its workers end a job that runs when that was asked to stop."""
    supports_at_front = False
    """True if a delivery can go before the others of its queue."""
    supports_orders = False
    """True if its workers obey the order in their row: to be quiet, to stop."""
    supports_plain_jobs = False
    """True if it tells of plain jobs, by `plain_jobs` and `look_up`."""
    supports_server_facts = False
    """True if `examine` tells more of a server than whether it is reached."""

    def lack_of(self, capability: Capability) -> Lack | None:
        """Why it cannot do this; None if it can."""
        return None if getattr(self, f"supports_{capability}") else Lack.of(self.name, capability)

    @property
    def declared_in(self) -> str:
        """Where this project declares them, as Python code."""
        return self.queues_setting

    @abstractmethod
    def servers(self) -> Mapping[str, Sequence[str]]:
        """The declared queues by the server that holds them: {server: [queue, …]}.

        A server is named by its address, without secrets.
        """

    @abstractmethod
    def default_timeout_seconds(self, queue: str) -> int | None:
        """The time limit of a job on this queue that names none itself; None for no limit."""

    @abstractmethod
    def epoch(self, queue: str) -> str:
        """The present epoch of the queue's server: another one after it was emptied, restored or replaced."""

    @abstractmethod
    def push(self, deliveries: Sequence[Delivery]) -> str:
        """Hand over deliveries for queues of one server, and return the epoch in which that was done.

        A delivery that the server knows already is not pushed again.
        """

    @abstractmethod
    def foremost(self, queue: str, most: int) -> Collection[str]:
        """The ids of the deliveries that stand foremost in this queue."""

    @abstractmethod
    def absent(self, queue: str, deliveries: Sequence[Delivery]) -> Collection[Delivery]:
        """Those of the deliveries that wait in this queue no longer. It is looked through for them: ask
        for few, or seldom."""

    def withdraw(self, delivery: Delivery) -> None:  # noqa: B027 - May be left out.
        """Remove a delivery that still waits. Best effort: its claim would fail anyway."""

    def taken(self, queue: str, most: int) -> Collection[str]:
        """The ids of deliveries that were taken from this queue, as far as its server keeps them: the first
        `most` of what is noted as running, and as many of what is not noted yet."""
        return ()

    def kept(self, queue: str, start: int, most: int) -> tuple[Collection[str], bool]:
        """The ids of deliveries that this queue's server keeps among the `most` places from `start` and among
        as many jobs that were taken; and whether the queue goes on behind these places."""
        return (), False

    def discard(self, queue: str, delivery_ids: Collection[str]) -> int:
        """Remove whatever the server keeps of these deliveries, but of other installations; only of some
        where the queue is long. Of how many."""
        return 0

    def let_expire(self, delivery: Delivery) -> None:  # noqa: B027 - May be left out.
        """Have the server forget a delivery that is gone from its queue, if nobody runs it meanwhile."""

    def alert(self, worker_name: str, delivery: Delivery) -> None:  # noqa: B027 - May be left out.
        """Have a worker look at the database now: what it runs for this delivery may be void. Best effort:
        it looks every few seconds anyway."""

    @abstractmethod
    def witness(self, queue: str, worker_id: UUID) -> None:
        """Have the queue's server remember for one lease that this worker lives."""

    @abstractmethod
    def witnessed(self, queue: str, worker_ids: Collection[UUID]) -> Collection[UUID]:
        """Those of these workers of whose life the queue's server is a witness.

        All of them if it was emptied or replaced less than a lease ago: then it can have forgotten them.
        """

    def examine(self, queues: Sequence[str]) -> ServerFacts:
        """What the server of these queues tells, or why it tells nothing. Changes nothing, raises nothing."""
        address = next(server for server, names in self.servers().items() if queues[0] in names)
        unknown = {queue: QueueFacts() for queue in queues}
        began = time.monotonic()
        try:
            epoch = self.epoch(queues[0])
        except EngineUnavailable as error:
            return ServerFacts(address, unknown, trouble="other", message=str(error))
        return ServerFacts(address, unknown, latency_seconds=time.monotonic() - began, epoch=epoch)

    def plain_jobs(self, queues: Sequence[str]) -> Collection[Spot]:
        """The foremost plain jobs of these queues, which one server holds: a bounded number of those that
        wait, run, or are planned. Changes nothing."""
        return ()

    def look_up(self, queues: Mapping[str, str]) -> Mapping[str, Seen]:
        """Plain jobs by their ids, asked for as {id: queue} of one server; without those that are gone.

        Changes nothing, and reads no argument.
        """
        return {}

    def configuration_errors(self) -> list[str]:
        """What is wrong with the declared queues, a sentence each; found without asking a server."""
        return []

    def queue_names(self) -> list[str]:
        return [queue for queues in self.servers().values() for queue in queues]

    def check_queue(self, queue: str) -> None:
        """Raise `UnknownQueue` unless the project declares this queue for this engine."""
        names = self.queue_names()
        if queue in names:
            return
        guess = get_close_matches(str(queue), names, n=1)
        hint = f'Did you mean "{guess[0]}"? ' if guess else ""
        raise UnknownQueue(
            f'Unknown queue "{queue}". {hint}Declared are: {", ".join(names) or "none"}. '
            f"Declare it in {self.declared_in}."
        )
