"""Steering: what people and programs may do to jobs, queues and workers.

Each verb checks the permission, guards the change by the state it finds, and leaves a trace with the user.
`by` is the user who asks; None means trusted code, which may do everything. A job that this user may not
see does not exist for any verb. A verb raises `PermissionDenied`, `ReadOnly`, `JobDoesNotExist`, or
`NotPossible` when it does not apply. The verbs for jobs take one job, or a queryset of them, and say then
how many were done and why the rest was not.
"""

from .calls import enqueue, requeue_edited
from .jobs import cancel, delete, mark_failed, move, requeue, run_now, stop
from .queues import empty, pause, resume
from .reports import complete, fail, update_progress
from .steering import Steered, check_not_read_only
from .workers import quiet_worker, stop_worker, unquiet_worker

__all__ = [
    "Steered",
    "cancel",
    "check_not_read_only",
    "complete",
    "delete",
    "empty",
    "enqueue",
    "fail",
    "mark_failed",
    "move",
    "pause",
    "quiet_worker",
    "requeue",
    "requeue_edited",
    "resume",
    "run_now",
    "stop",
    "stop_worker",
    "unquiet_worker",
    "update_progress",
]
