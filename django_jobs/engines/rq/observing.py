"""The worker's way with plain jobs: RQ's own code runs them, and what becomes of them is told."""

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db import connections, router
from rq.exceptions import StopRequested
from rq.job_lifecycle import record_job_failure
from rq.rate_limit import release_slot
from rq.serializers import JSONSerializer

from ...conf import settings
from ...models import Attempt, Job
from ...models.jobs import WORKER_LOST
from ...patience import patience
from ...processes import disconnect_databases
from ...reporter import LogCapture
from ..base import Run, Seen, parse_delivery_id
from . import plain
from .robust import RobustWorker

START_PATIENCE_SECONDS = 1
"""How long a plain job waits at most for the record of its start."""
END_PATIENCE_SECONDS = 10
"""How long its process stays at most for the record of its end."""
REFUSED = "PlainJobRefused"
"""The error type of a plain job that was not run."""

logger = logging.getLogger(__name__)


def refuses_plain() -> bool:
    return settings.PLAIN_JOBS == "refuse"


class InertMixin:
    """A job class of RQ for workers that refuse plain jobs.

    Nothing that somebody wrote to Redis is unpickled, called as a callback, or sent anywhere.
    """

    success_callback = failure_callback = stopped_callback = None

    def __init__(self, id: str | None = None, connection: Any = None, serializer: Any = None) -> None:  # noqa: A002
        super().__init__(id, connection, JSONSerializer)  # type: ignore[call-arg]

    def send_webhooks(self, *args: Any, **kwargs: Any) -> None:
        pass


class ObservingWorker(RobustWorker):
    """Tells `observe` of each execution of a plain job; refuses to run them where the setting says so.

    RQ's own record is made first. What fails here is logged and no more: the look at Redis that the
    maintainer takes finds out as well, though with less detail.
    """

    observe: Callable[[Seen], None] | None = None

    worker_id: UUID
    """The id of this worker's row."""
    fork_lock: AbstractContextManager[Any]
    """Held while forking: then no connection to the database is open."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._refuses_plain = refuses_plain()
        if self._refuses_plain:
            kwargs["serializer"] = JSONSerializer
        super().__init__(*args, **kwargs)
        self._log: LogCapture | None = None
        self._ending = ""

    def prepare_job_execution(self, job: Any, *args: Any, **kwargs: Any) -> None:
        super().prepare_job_execution(job, *args, **kwargs)
        self._tell(job, self.execution)
        if plain.is_plain(job.id):
            self._log = LogCapture()
            # RQ's own lines hold the calls of jobs with their arguments.
            self._log.addFilter(lambda record: record.name.partition(".")[0] != "rq")
            logging.getLogger().addHandler(self._log)

    def handle_job_success(self, job: Any, *args: Any, **kwargs: Any) -> None:
        execution = self.execution  # RQ forgets it with its own record.
        super().handle_job_success(job, *args, **kwargs)
        self._tell(job, execution, Attempt.Outcome.FINISHED)

    def handle_job_retry(self, job: Any, *args: Any, **kwargs: Any) -> None:
        execution = self.execution
        super().handle_job_retry(job, *args, **kwargs)
        is_last = job.get_status(refresh=False) == "failed"
        outcome = Attempt.Outcome.FAILED if is_last else Attempt.Outcome.RETRIED
        self._tell(job, execution, outcome, plain.ASKED_AGAIN)

    def handle_job_failure(self, job: Any, *args: Any, **kwargs: Any) -> None:
        super().handle_job_failure(job, *args, **kwargs)
        execution, text = kwargs.get("execution"), kwargs.get("exc_string", "")
        if job.get_status(refresh=False) == "stopped":
            self._tell(job, execution, Attempt.Outcome.CANCELED, plain.STOPPED)
        elif self.is_horse:
            self._tell(job, execution, Attempt.Outcome.FAILED, plain.describe_error(text))
        else:
            evidence = f"Worker {self.name}: {self._ending}." if execution and self._ending else text.strip()
            self._tell(job, execution, Attempt.Outcome.LOST, (WORKER_LOST, evidence, ""))

    def _execute_job(self, job: Any, queue: Any) -> None:
        if self._refuses_plain and not parse_delivery_id(job.id):
            self._refuse(job, queue)
        else:
            super()._execute_job(job, queue)

    def _refuse(self, job: Any, queue: Any) -> None:
        """Move a plain job to RQ's failed ones, complete and with its retries unspent."""
        message = (
            'It was not run: DJANGO_JOBS["PLAIN_JOBS"] is "refuse", so this worker runs only jobs of '
            "django_jobs. RQ has it among its failed jobs; requeue it there for a worker that may run it."
        )
        logger.warning("Worker %s: RQ job %s: %s", self.name, job.id, message)
        with self.connection.pipeline() as pipeline:
            record_job_failure(job, f"{REFUSED}: {message}", pipeline)
            pipeline.lrem(queue.intermediate_queue_key, 1, job.id)
            pipeline.execute()
        queue.enqueue_dependents(job)
        release_slot(job)
        self._tell(job, None, Attempt.Outcome.FAILED, (REFUSED, message, ""))

    def _tell(
        self, job: Any, execution: Any, outcome: str = "", error: tuple[str, str, str] = plain.NO_ERROR
    ) -> None:
        if self.observe is None or not plain.is_plain(job.id):
            return
        try:
            run = self._run(job, execution, outcome) if execution else None
            seen = plain.seen(job, run, error)
            if self.is_horse:
                self._observe_beside(seen, has_ended=bool(outcome))
            else:
                with self.fork_lock, patience(router.db_for_write(Job), END_PATIENCE_SECONDS):
                    self._observe(seen, disconnect_databases)
        except StopRequested:
            raise
        except Exception:
            logger.warning("Worker %s: RQ job %s is not recorded.", self.name, job.id, exc_info=True)

    def _run(self, job: Any, execution: Any, outcome: str) -> Run:
        log = ""
        if outcome and self._log:
            logging.getLogger().removeHandler(self._log)
            log = self._log.text()
        # The job may still carry the end of an earlier execution.
        ended_now = not job.ended_at or job.ended_at < execution.created_at
        return Run(
            id=UUID(execution.id),
            worker_name=self.name,
            worker_id=self.worker_id,
            started_at=execution.created_at,
            ended_at=(datetime.now(UTC) if ended_now else job.ended_at) if outcome else None,
            outcome=outcome,
            log=log,
        )

    def _observe_beside(self, seen: Seen, *, has_ended: bool) -> None:
        """Record in a thread, which has a connection of its own: the job finds its process as RQ made it, and
        a database that hangs holds up nothing for long."""
        if has_ended:
            # As the process's end would do: a transaction that the job left open locks others out on SQLite.
            connections.close_all()
        thread = threading.Thread(
            target=self._observe, args=[seen, connections.close_all], name="django-jobs-observer", daemon=True
        )
        thread.start()
        thread.join(END_PATIENCE_SECONDS if has_ended else START_PATIENCE_SECONDS)
        if thread.is_alive():
            logger.warning("Worker %s: the record of RQ job %s is not waited for.", self.name, seen.id)

    def _observe(self, seen: Seen, disconnect: Callable[[], None]) -> None:
        try:
            if self.observe:
                self.observe(seen)
        except StopRequested:
            raise
        except Exception as error:  # noqa: BLE001 - No error in a record may become the job's.
            logger.warning("Worker %s: RQ job %s is not recorded: %s", self.name, seen.id, error)
        finally:
            disconnect()
