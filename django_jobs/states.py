"""The states of a job and the one table of allowed transitions. Pure: no database, no engine."""

from django.db.models import TextChoices


class Status(TextChoices):
    """Where a job stands, in RQ's words."""

    QUEUED = "queued"
    SCHEDULED = "scheduled"
    DEFERRED = "deferred"
    STARTED = "started"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELED = "canceled"


QUEUED, SCHEDULED, DEFERRED, STARTED, FINISHED, FAILED, CANCELED = Status

TERMINAL = frozenset({FINISHED, FAILED, CANCELED})
UNFINISHED = frozenset(Status) - TERMINAL

TRANSITIONS: dict[Status, frozenset[Status]] = {
    # To finished or failed without having started: reported from elsewhere, or marked by a person.
    QUEUED: frozenset({STARTED, CANCELED, FINISHED, FAILED}),
    SCHEDULED: frozenset({QUEUED, CANCELED, FINISHED, FAILED}),
    DEFERRED: frozenset({QUEUED, SCHEDULED, CANCELED, FINISHED, FAILED}),
    # Back to queued or scheduled: given back, or the next attempt after a failed or lost one.
    STARTED: frozenset({FINISHED, FAILED, CANCELED, QUEUED, SCHEDULED}),
    FINISHED: frozenset(),
    # Finished: the report of an attempt that was taken for lost arrived after all.
    FAILED: frozenset({QUEUED, FINISHED}),
    CANCELED: frozenset({QUEUED}),
}


def sources(target: Status) -> list[Status]:
    """The states from which a job may move to `target`."""
    return [status for status in Status if target in TRANSITIONS[status]]
