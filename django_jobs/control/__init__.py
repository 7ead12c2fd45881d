"""Steering: what people and programs may do to jobs and queues.

Each verb checks the permission, guards the change by the state it finds, and leaves a trace with the user.
`by` is the user who asks; None means trusted code, which may do everything. The verbs for jobs take one job,
or a queryset of them, and say then how many were done and why the rest was not.
"""

from .jobs import cancel, delete, mark_failed, move, requeue, run_now, stop
from .queues import empty, pause, resume
from .reports import complete, fail, update_progress
from .steering import Steered

__all__ = [
    "Steered",
    "cancel",
    "complete",
    "delete",
    "empty",
    "fail",
    "mark_failed",
    "move",
    "pause",
    "requeue",
    "resume",
    "run_now",
    "stop",
    "update_progress",
]
