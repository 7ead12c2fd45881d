"""The rows of django_jobs. One file a noun's family: jobs and what happened to them; what runs them."""

from .history import Attempt, JobEvent
from .jobs import Job, JobQuerySet, get_job, new_job
from .tallies import Tally
from .workers import Installation, Lease, Queue, QueueEvent, Worker

__all__ = [
    "Attempt",
    "Installation",
    "Job",
    "JobEvent",
    "JobQuerySet",
    "Lease",
    "Queue",
    "QueueEvent",
    "Tally",
    "Worker",
    "get_job",
    "new_job",
]
