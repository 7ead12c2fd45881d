"""The rows of django_jobs. One file a noun's family: jobs and what happened to them; what runs them."""

from .errors import ErrorCount, ErrorGroup
from .figures import Census, Dashboard, FigureDelta, Rollup
from .history import Attempt, JobEvent
from .jobs import Job, get_job, new_job
from .operations import Operation
from .querysets import JobQuerySet
from .tallies import Tally
from .workers import Installation, Lease, Queue, QueueEvent, Worker

__all__ = [
    "Attempt",
    "Census",
    "Dashboard",
    "ErrorCount",
    "ErrorGroup",
    "FigureDelta",
    "Installation",
    "Job",
    "JobEvent",
    "JobQuerySet",
    "Lease",
    "Operation",
    "Queue",
    "QueueEvent",
    "Rollup",
    "Tally",
    "Worker",
    "get_job",
    "new_job",
]
