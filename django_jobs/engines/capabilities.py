"""What one engine can do and another cannot, and what people are told where it cannot.

Only what is the engine's own stands here. Delays, retries, pauses, moves, progress and all figures of our
jobs are in the database, and so the same on every engine.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from django.utils.translation import gettext_lazy as _

Capability = Literal["stop", "at_front", "orders", "plain_jobs", "server_facts"]
"""Each is a flag of the engine, `supports_stop` and so on."""


@dataclass(frozen=True, slots=True)
class Lack:
    """Why an engine cannot do something, and what to do instead: a sentence each, in the user's language."""

    engine: str
    reason: str
    instead: str

    @classmethod
    def of(cls, engine: str, capability: Capability) -> "Lack":
        reason, instead = _TOLD[capability]
        return cls(engine, str(reason).format(engine=engine), str(instead))


_TOLD: Mapping[Capability, tuple[Any, Any]] = {
    "stop": (
        _("The engine {engine} cannot stop a job that runs."),
        _("Wait until it has ended, or mark it as failed; its function goes on, but changes nothing more."),
    ),
    "at_front": (
        _("The engine {engine} lets no job go before the others of its queue."),
        _("Leave at_front out, or have a queue of its own for what is urgent."),
    ),
    "orders": (
        _("Workers of the engine {engine} take no orders."),
        _("Stop the worker where it was started."),
    ),
    "plain_jobs": (
        _("The engine {engine} does not tell of jobs that other code enqueues with its own library."),
        _("Look for them with its own tools."),
    ),
    "server_facts": (
        _("The engine {engine} does not tell how its server is."),
        _("Look at the server itself."),
    ),
}
