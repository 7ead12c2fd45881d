"""Everything django_jobs raises. Wrong arguments raise Python's own `TypeError` and `ValueError`."""


class JobsError(Exception):
    """Base of all errors of django_jobs."""


class TaskNotAllowed(JobsError):
    """Raised when a function may not run as a job."""


class TaskNotFound(JobsError):
    """Raised when the code of a job's task cannot be imported, for example after a deploy removed it."""


class UnknownQueue(JobsError):
    """Raised when a queue is named that the project does not declare."""


class UnknownEngine(JobsError):
    """Raised when an engine is named that does not exist."""


class JobDoesNotExist(JobsError):
    """Raised when no job has the given id."""


class NotRequeueable(JobsError):
    """Raised when a job is asked to run again that has not ended."""


class WaitTimeout(JobsError, TimeoutError):
    """Raised when a job has not ended in the time its caller was willing to wait."""


class EngineUnavailable(JobsError):
    """Raised when an engine's server cannot be reached. Its message names the server, without secrets."""


class EmbeddedServerError(JobsError):
    """Raised when the embedded server cannot be started or found."""
