"""The rows of django_jobs. One file a noun's family: jobs and what happened to them; what runs them."""

from .jobs import Attempt, Job, JobEvent, JobQuerySet, get_job
from .workers import Installation, Lease, Queue, Worker

__all__ = [
    "Attempt",
    "Installation",
    "Job",
    "JobEvent",
    "JobQuerySet",
    "Lease",
    "Queue",
    "Worker",
    "get_job",
]
