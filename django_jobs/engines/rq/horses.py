"""Plain jobs of RQ beside each other: each in a process of its own, forked, watched and settled by RQ's
code."""

import json
import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redis import RedisError
from rq.worker import WorkerStatus

from ...processes import how_it_ended
from .taking import Taken
from .worker import JobsWorker

OVERTIME_SECONDS = 60
"""How long after its time limit RQ kills the process of a job that does not heed it."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Horse:
    """The process of one job, by RQ's name."""

    pid: int
    job: Any
    queue: Any
    execution: Any
    since: float
    told_at: float
    ending: str = ""


class HorsesWorker(JobsWorker):
    """`start_plain` begins a job, `look_after_horses` and `bury_horses` see to those that run."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._horses: dict[int, Horse] = {}
        self._stopped_ids: set[str] = set()
        self._starting: Any = None
        self._ended_horse: tuple[int, int, Any] | None = None

    def fetch(self, taken: Taken) -> tuple[Any, Any] | None:
        """The job and its queue as RQ reads them; None for what is gone or no job. Raises `RedisError`."""
        key = f"{self.queue_class.redis_queue_namespace_prefix}{taken.queue}"
        try:
            found: tuple[Any, Any] | None = self.queue_class._fetch_dequeued_job(
                self.connection,
                key,
                taken.id,
                job_class=self.job_class,
                serializer=self.serializer,
                death_penalty_class=self.death_penalty_class,
            )
        except RedisError:
            raise
        except Exception as error:  # noqa: BLE001 - Whatever RQ makes of what somebody wrote there.
            logger.warning("Worker %s: %r on %s is no job: %s", self.name, taken.id, taken.queue, error)
            return None
        return found

    def start_plain(self, taken: Taken) -> bool:
        """Run this job; False if it is none."""
        fetched = self.fetch(taken)
        if fetched is None:
            key = f"{self.queue_class.redis_queue_namespace_prefix}{taken.queue}:intermediate"
            self.connection.lrem(key, 1, taken.id)
            return False
        job, queue = fetched
        job.redis_server_version = self.get_redis_server_version()
        told = job.description if self.log_job_description else "a plain job"
        logger.info("Worker %s: %s: %s (%s)", self.name, queue.name, told, job.id)
        if self._refuses_plain:
            self._refuse(job, queue)
            return True
        self._starting = self.prepare_execution(job)
        self.fork_work_horse(job, queue)
        at = time.monotonic()
        self._horses[self._horse_pid] = Horse(self._horse_pid, job, queue, self._starting, at, at)
        self._horse_pid = 0
        return True

    def look_after_horses(self) -> None:
        at = time.monotonic()
        for horse in list(self._horses.values()):
            limit = horse.job.timeout
            if limit and limit > 0 and at - horse.since > limit + OVERTIME_SECONDS:
                over = at - horse.since - limit
                self.kill_a_horse(horse, f"its function ran on {over:.0f} s after its time limit")
            if at - horse.told_at > self.job_monitoring_interval:
                horse.told_at = at
                self.maintain_heartbeats(horse.job, horse.execution)

    def bury_horses(self) -> None:
        for horse in list(self._horses.values()):
            try:
                ended = os.wait4(horse.pid, os.WNOHANG)
            except ChildProcessError:
                ended = None
            if ended is None or ended[0]:
                self._bury_horse(horse, ended)

    def kill_a_horse(self, horse: Horse, ending: str) -> None:
        horse.ending = horse.ending or ending
        self._horse_pid = horse.pid
        self.kill_horse()
        self._horse_pid = 0

    def kill_all_horses(self, ending: str) -> None:
        for horse in list(self._horses.values()):
            self.kill_a_horse(horse, ending)

    def _bury_horse(self, horse: Horse, ended: tuple[int, int, Any] | None) -> None:
        pid, status, usage = ended or (horse.pid, 0, None)
        del self._horses[horse.pid]
        self._ending = horse.ending or (how_it_ended(status, usage.ru_maxrss) if status and usage else "")
        if horse.job.id in self._stopped_ids:
            self._stopped_ids.discard(horse.job.id)
            self._stopped_job_id = horse.job.id
        self._ended_horse = pid, status, usage
        try:
            # RQ's monitor finds that it has ended, and does what is to be done then.
            self.monitor_work_horse(horse.job, horse.queue, horse.execution)
        except Exception as error:  # noqa: BLE001 - RQ's record is not the one that counts.
            logger.warning("Worker %s: RQ's record of %s is not complete: %s", self.name, horse.job.id, error)
        finally:
            self._ended_horse, self._ending = None, ""
            self.executions.pop(horse.execution.id, None)
        if not self._horses:
            self.set_state(WorkerStatus.IDLE)
        self.heartbeat()

    # What RQ calls

    def wait_for_horse(self) -> Any:
        return self._ended_horse or super().wait_for_horse()

    def main_work_horse(self, job: Any, queue: Any) -> None:
        if self._starting is not None:  # Others may run beside it.
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            self.executions = {self._starting.id: self._starting}
        super().main_work_horse(job, queue)

    def prepare_job_execution(self, job: Any, *args: Any, **kwargs: Any) -> None:
        super().prepare_job_execution(job, True)  # With several queues, too, there is such a list.

    def handle_payload(self, message: Any) -> None:
        job_id = asked_of(message, "stop-job", "job_id")
        if not self._stop_plain(lambda horse: horse.job.id == job_id):
            super().handle_payload(message)

    def request_stop_execution(self, execution_id: str) -> None:
        if not self._stop_plain(lambda horse: horse.execution.id == execution_id):
            super().request_stop_execution(execution_id)

    def _stop_plain(self, is_meant: Callable[[Horse], bool]) -> bool:
        for horse in list(self._horses.values()):
            if is_meant(horse):
                self._stopped_ids.add(horse.job.id)
                self.kill_a_horse(horse, "its process was ended on request")
                return True
        return False


def asked_of(message: Any, command: str, argument: str = "command") -> str:
    """What a message on a worker's channel tells with this command of RQ; empty if it is another."""
    try:
        asked = json.loads(message["data"])
        return str(asked[argument]) if asked["command"] == command else ""
    except (ValueError, TypeError, KeyError):
        return ""
