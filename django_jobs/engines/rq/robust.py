"""RQ's worker, made to outlive Redis going away or being full, and what others put into its queues.

A signal may raise `StopRequested` anywhere in it; that is never an error to outlive.
"""

import contextlib
import itertools
import logging
import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import Any
from uuid import uuid4

from redis import RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq import Worker
from rq.exceptions import StopRequested
from rq.executions import Execution
from rq.utils import as_text

from ..base import parse_delivery_id

LONGEST_BLOCK_SECONDS = 5
"""How long the worker blocks, in Redis or waiting for its child, before it looks around."""
LOOKED_THROUGH = 100
"""How many of the foremost jobs of a queue are looked at for deliveries while the server is full."""

_NO_EXPIRY = -1  # What Redis answers to TTL.

logger = logging.getLogger(__name__)


def outlives_redis(method: Callable[..., None]) -> Callable[..., None]:
    """A step of RQ's own record. It may fail in the worker, as the record that counts is in the database."""

    @wraps(method)
    def step(self: "RobustWorker", *args: Any, **kwargs: Any) -> None:
        try:
            method(self, *args, **kwargs)
        except (RedisConnectionError, RedisTimeoutError, OutOfMemoryError) as error:
            if self.is_horse:
                raise
            logger.info("Worker %s: RQ's %s failed: %s", self.name, method.__name__, error)

    return step


class RobustWorker(Worker):
    """RQ's fork-per-job worker; errors that would end its loop are logged, and the loop goes on."""

    max_connection_wait_time = LONGEST_BLOCK_SECONDS
    log_result_lifespan = False  # The result is in the row; RQ's copy says nothing.
    _is_recorded = True  # Whether RQ's record of the present job is whole, as far as is known.

    @property
    def dequeue_timeout(self) -> int:
        return min(super().dequeue_timeout, LONGEST_BLOCK_SECONDS)

    @outlives_redis
    def heartbeat(self, *args: Any, **kwargs: Any) -> None:
        super().heartbeat(*args, **kwargs)

    @outlives_redis
    def set_state(self, *args: Any, **kwargs: Any) -> None:
        super().set_state(*args, **kwargs)

    @outlives_redis
    def check_for_suspension(self, *args: Any, **kwargs: Any) -> None:
        super().check_for_suspension(*args, **kwargs)

    @outlives_redis
    def set_shutdown_requested_date(self) -> None:
        super().set_shutdown_requested_date()

    @outlives_redis
    def maintain_heartbeats(self, *args: Any, **kwargs: Any) -> None:
        super().maintain_heartbeats(*args, **kwargs)

    @outlives_redis
    def teardown(self) -> None:
        super().teardown()

    def unsubscribe(self) -> None:
        if self.pubsub_thread:
            # Before what wakes it, or it may sleep again, and RQ waits a second for it.
            self.pubsub_thread.stop()
        super().unsubscribe()

    def run_maintenance_tasks(self) -> None:
        try:
            self._drop_junk()
            super().run_maintenance_tasks()
        except StopRequested:
            raise
        except Exception:
            logger.warning("Worker %s: RQ's maintenance failed.", self.name, exc_info=True)
            self.last_cleaned_at = datetime.now(UTC)  # type: ignore[assignment]

    def dequeue_job_and_maintain_ttl(self, *args: Any, **kwargs: Any) -> Any:
        for pause in itertools.chain([0.1, 0.5, 1], itertools.repeat(LONGEST_BLOCK_SECONDS)):
            try:
                return super().dequeue_job_and_maintain_ttl(*args, **kwargs)
            except StopRequested:
                raise
            except OutOfMemoryError as error:
                logger.warning("Worker %s: Redis is full: %s", self.name, error)
                if taken := self._take_from_full_server():
                    return taken
                time.sleep(pause)
            except Exception:
                # Foreign bytes, a broken hash: whoever can write to Redis must not be able to end the worker.
                logger.warning("Worker %s: no job could be taken from its queues.", self.name, exc_info=True)
                time.sleep(pause)
        return None

    def execute_job(self, job: Any, queue: Any) -> None:
        self._is_recorded = True
        try:
            self._execute_job(job, queue)
        except StopRequested:
            raise
        except Exception as error:
            self._is_recorded = False
            is_expected = isinstance(error, RedisConnectionError | RedisTimeoutError | OutOfMemoryError)
            logger.log(
                logging.INFO if is_expected else logging.WARNING,
                "Worker %s: RQ's record of %s is not complete: %s",
                self.name,
                job.id,
                error,
                exc_info=not is_expected,
            )
        finally:
            if self.horse_pid:  # RQ stopped looking after its child, which lives.
                self.wait_for_horse()
                self._horse_pid = 0
            if not self._is_recorded:
                self._free(job, queue)
            self.executions.clear()  # One left by an error would be taken for the next job's.

    def _execute_job(self, job: Any, queue: Any) -> None:
        super().execute_job(job, queue)

    def prepare_execution(self, job: Any) -> Any:
        try:
            return super().prepare_execution(job)
        except RedisError as error:
            if not parse_delivery_id(job.id):
                raise
            # The claim decides whether a delivery runs; that RQ takes no note of it is no reason not to try.
            logger.info("Worker %s: RQ does not note that it runs %s: %s", self.name, job.id, error)
            self._is_recorded = False
            self.execution = Execution(uuid4().hex, job.id, self.connection, self.name)
            return self.execution

    def prepare_job_execution(self, job: Any, *args: Any, **kwargs: Any) -> None:
        try:
            super().prepare_job_execution(job, *args, **kwargs)
        except RedisError:
            if not parse_delivery_id(job.id):
                raise

    def register_birth(self) -> None:
        try:
            super().register_birth()
        except OutOfMemoryError as error:
            logger.warning("Worker %s is not among RQ's workers: %s", self.name, error)

    def _take_from_full_server(self) -> tuple[Any, Any] | None:
        """Take a delivery as a server takes it that has no room even for the list of what was taken.

        Plain jobs stay: without RQ's record they would be lost.
        """
        for queue in self._ordered_queues:
            try:
                for item in self.connection.lrange(queue.key, 0, LOOKED_THROUGH - 1):
                    job_id = as_text(item)
                    is_taken = parse_delivery_id(job_id) and self.connection.lrem(queue.key, 1, job_id)
                    if is_taken and (job := queue.fetch_job(job_id)):
                        return job, queue
            except StopRequested:
                raise
            except Exception:
                logger.warning("Worker %s: nothing could be taken.", self.name, exc_info=True)
        return None

    def _free(self, job: Any, queue: Any) -> None:
        """Remove what the server would keep for ever of a delivery that has run."""
        with contextlib.suppress(RedisError):
            if parse_delivery_id(job.id) and self.connection.ttl(job.key) == _NO_EXPIRY:
                self.connection.delete(job.key)
                self.connection.lrem(queue.intermediate_queue_key, 0, job.id)

    def _drop_junk(self) -> None:
        """Remove from the intermediate lists what RQ's maintenance would stumble over, each time anew."""
        for queue in self.queues:
            for item in self.connection.lrange(queue.intermediate_queue_key, 0, -1):
                try:
                    queue.fetch_job(as_text(item))
                except (StopRequested, RedisError):
                    raise
                except Exception as error:  # noqa: BLE001 - Anything that RQ makes of junk.
                    logger.warning("Worker %s: %r on %s is no job: %s", self.name, item, queue.name, error)
                    self.connection.lrem(queue.intermediate_queue_key, 1, item)  # type: ignore[arg-type]

    def kill_horse(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """Kill the child and its process group.

        Not RQ's way, which may take our own group for it: when the child has just ended, or has not made a
        group of its own yet.
        """
        pid = self.horse_pid
        if not pid:
            return
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(pid) == pid:
                os.killpg(pid, sig)
            else:
                os.kill(pid, sig)
