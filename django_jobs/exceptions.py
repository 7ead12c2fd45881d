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


class NotEnqueued(JobsError):
    """Raised when a unique job can neither be written nor found."""


class JobDoesNotExist(JobsError):
    """Raised when no job has the given id."""


class ReadOnly(JobsError):
    """Raised when a user or a command asks for a change while the setting READ_ONLY is True."""


class NotPossible(JobsError):
    """Raised when a job, queue or group of errors is not in a state in which the asked-for verb applies.

    `reason` is that state in two or three words, by which refusals of many jobs are counted.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class UnsupportedByEngine(NotPossible):
    """Raised when an engine cannot do what is asked for: put a job before the others of its queue, stop one
    that runs, give orders to a worker. Its message tells why, and what to do instead."""


class NotRequeueable(NotPossible):
    """Raised when a job may not run again: it has not ended, or its unique key is held by another."""


class JobFailed(JobsError):
    """Raised by `TaskResult.raise_for_error` for a job that failed or was canceled."""


class CpuLimitExceeded(JobsError):
    """Raised in a job that has used more CPU time than its task or its queue allows."""


class MemoryLimitExceeded(JobsError):
    """Raised for a job that wanted more memory than its task or its queue allows; its cause tells where."""


class JobCanceled(JobsError):
    """Raised where a coroutine is waited for, once it has ended because its job was canceled."""


class ResultExpired(JobsError):
    """Raised when a result is asked for after the time that `keep_result_for` gave it."""


class WaitTimeout(JobsError, TimeoutError):
    """Raised when a job has not ended in the time its caller was willing to wait."""


class SearchError(JobsError):
    """Raised when a search cannot be understood. Its message names what was found and what is allowed."""


class EngineUnavailable(JobsError):
    """Raised when an engine's server cannot be reached. Its message names the server, without secrets."""


class EmbeddedServerError(JobsError):
    """Raised when the embedded server cannot be started or found."""
