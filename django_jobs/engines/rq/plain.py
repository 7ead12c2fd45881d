"""What RQ knows of plain jobs: those that other code put on our queues with plain RQ or django-rq.

Their hashes are read, never unpickled and never cleaned up: whoever can write to Redis can write them. Of
their arguments nothing is taken, not even where those are JSON.
"""

import json
import pickletools
import re
import zlib
from base64 import b64decode
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from redis import Redis
from rq.executions import ExecutionRegistry
from rq.job import JOB_ID_PATTERN
from rq.job import Job as RQJob
from rq.queue import Queue as RQQueue
from rq.registry import DeferredJobRegistry, ScheduledJobRegistry, StartedJobRegistry
from rq.results import Result
from rq.utils import parse_timeout

from ...models import Attempt
from ...models.jobs import WORKER_LOST
from ...states import CANCELED, DEFERRED, FAILED, FINISHED, QUEUED, SCHEDULED, STARTED, Status
from ...values import kept_begin, short
from ..base import Run, Seen, Spot, parse_delivery_id

MOST = 500
"""How many jobs of each queue are found at a time: waiting, running, scheduled and deferred ones, each."""

NO_ERROR = ("", "", "")
ASKED_AGAIN = ("Retry", "The task asked for another attempt.", "")
STOPPED = ("", "It was stopped on request.", "")

_BATCH = 100  # jobs in one run of the script, which holds up the server meanwhile
_LONGEST_ID = 255
_LONGEST_TIMEOUT_SECONDS = 2**31 - 1
_HEAD_BYTES = 2_000  # of a call, unpacked: its first text is the function's path
_MOST_PACKED = 100_000  # characters of a traceback
_MOST_UNPACKED_BYTES = 1_000_000

_STATUSES: dict[str, Status] = {
    "": QUEUED,  # Of a job that an RQ before 2.5 has written.
    "created": QUEUED,
    "queued": QUEUED,
    "scheduled": SCHEDULED,
    "deferred": DEFERRED,
    "rate_limited": DEFERRED,
    "ready_to_enqueue": DEFERRED,
    "started": STARTED,
    "finished": FINISHED,
    "failed": FAILED,
    "stopped": CANCELED,
    "canceled": CANCELED,
}
_OUTCOMES: dict[str, Attempt.Outcome] = {
    str(Result.Type.SUCCESSFUL.value): Attempt.Outcome.FINISHED,
    str(Result.Type.FAILED.value): Attempt.Outcome.FAILED,
    str(Result.Type.STOPPED.value): Attempt.Outcome.CANCELED,
    str(Result.Type.RETRIED.value): Attempt.Outcome.RETRIED,
    str(Result.Type.MAX_RETRIES_EXCEEDED.value): Attempt.Outcome.FAILED,
}
_ENDS: dict[str, Attempt.Outcome] = {
    "finished": Attempt.Outcome.FINISHED,
    "failed": Attempt.Outcome.FAILED,
    "stopped": Attempt.Outcome.CANCELED,
}
_FIELDS = (
    *("status", "origin", "created_at", "enqueued_at", "started_at", "ended_at", "timeout", "worker_name"),
    *("description", "data"),
)

_LOOK_UP = """
-- KEYS  for each job: its hash, its executions, its results, the schedule of its queue
-- ARGV  for each job: its id
-- Arguments and results may be large: of the last two fields, the texts, only the beginning is told, and of
-- the latest result all but the value.
local function ask(...)
    local reply = redis.pcall(...)
    if type(reply) == 'table' and reply.err then return {} end  -- A key of another type than RQ's.
    return reply
end
local told = {}
for i, id in ipairs(ARGV) do
    local fields = ask('HMGET', KEYS[4 * i - 3], FIELDS)
    for n = #fields - 1, #fields do
        if fields[n] then fields[n] = string.sub(fields[n], 1, 4000) end
    end
    local result = {}
    local latest = ask('XREVRANGE', KEYS[4 * i - 1], '+', '-', 'COUNT', 1)[1]
    local pairs_of_latest = latest and latest[2] or {}
    for n = 1, #pairs_of_latest, 2 do
        if pairs_of_latest[n] ~= 'return_value' then
            result[#result + 1] = pairs_of_latest[n]
            result[#result + 1] = string.sub(pairs_of_latest[n + 1], 1, MOST_PACKED)
        end
    end
    local score = ask('ZSCORE', KEYS[4 * i], id)
    told[i] = {
        fields, ask('ZREVRANGE', KEYS[4 * i - 2], 0, 0), result, type(score) == 'string' and score or '',
    }
end
return told
""".replace("FIELDS", ", ".join(f"'{name}'" for name in _FIELDS)).replace("MOST_PACKED", str(_MOST_PACKED))


def is_plain(job_id: str) -> bool:
    """True for the id of a job of RQ that carries no delivery of ours."""
    return (
        parse_delivery_id(job_id) is None
        and len(job_id) <= _LONGEST_ID
        and JOB_ID_PATTERN.fullmatch(job_id) is not None
    )


def spots(client: Redis, queues: Sequence[str]) -> Collection[Spot]:
    """The foremost plain jobs of each queue, in two round trips."""
    found: dict[str, tuple[str, Status]] = {}
    with client.pipeline(transaction=False) as pipeline:
        for queue in queues:
            pipeline.lrange(RQQueue(queue, connection=client).key, 0, MOST - 1)
            for registry in (StartedJobRegistry, ScheduledJobRegistry, DeferredJobRegistry):
                pipeline.zrange(registry(queue, connection=client).key, 0, MOST - 1)
        replies = iter(pipeline.execute(raise_on_error=False))
        for queue in queues:
            for status in (QUEUED, STARTED, SCHEDULED, DEFERRED):
                reply = next(replies)
                for item in (
                    reply if isinstance(reply, list) else ()
                ):  # Else it is an error: junk under the key.
                    job_id = _text(item).partition(":")[0]  # Of a running one: job, execution.
                    if is_plain(job_id):
                        found[job_id] = queue, status
        for job_id in found:
            pipeline.hget(RQJob.key_for(job_id), "created_at")
        created = pipeline.execute(raise_on_error=False) if found else []
    return [
        Spot(job_id, moment, *where)
        for (job_id, where), reply in zip(found.items(), created, strict=True)
        if isinstance(reply, bytes) and (moment := _moment(_text(reply)))
    ]


def look_up(client: Redis, queues: Mapping[str, str]) -> Mapping[str, Seen]:
    """What RQ tells of these jobs, {id: queue}, in one round trip. Leaves out what is gone, or is no job."""
    ids = list(queues)
    with client.pipeline(transaction=False) as pipeline:
        for start in range(0, len(ids), _BATCH):
            batch = ids[start : start + _BATCH]
            keys = [key for job_id in batch for key in _keys(client, job_id, queues[job_id])]
            pipeline.eval(_LOOK_UP, len(keys), *keys, *batch)
        replies = [told for batch in pipeline.execute() for told in batch]
    seen = (_seen(job_id, queues[job_id], told) for job_id, told in zip(ids, replies, strict=True))
    return {job.id: job for job in seen if job}


def seen(job: RQJob, run: Run | None, error: tuple[str, str, str]) -> Seen:
    """What the worker that has a job at hand knows of it."""
    status = _STATUSES[job.get_status(refresh=False).value]
    task, description = describe(job.data, job.description or "")
    score = None
    if status == SCHEDULED:
        score = job.connection.zscore(ScheduledJobRegistry(job.origin, connection=job.connection).key, job.id)
    kind, message, traceback = error
    return Seen(
        engine="rq",
        id=job.id,
        created_at=job.created_at,
        queue=short(job.origin, 100),
        status=status,
        task=task,
        description=description,
        timeout_seconds=seconds(job.timeout),
        queued_at=job.enqueued_at,
        scheduled_for=None if score is None else _from_seconds(str(score)),
        run=run,
        error=(short(kind, 255), message, traceback),
    )


def describe(data: bytes, description: str) -> tuple[str, str]:
    """The path of the function that a plain job calls, and its description without arguments.

    `data` is the call as its serializer packed it, or only the beginning of that. RQ's own description of a
    job is the call with its arguments; one that the job was given stays.
    """
    called = re.match(r"([\w.<>]+)\(", description)
    path = _first_text(data[:_HEAD_BYTES]) or (called[1] if called else "")
    if (called and called[1] == path) or not description:
        return short(path, 255), short(f"{path}(…)", 255) if path else ""
    return short(path, 255), kept_begin(description, 255)


def describe_error(text: str) -> tuple[str, str, str]:
    """Type, message and traceback of an error of which RQ has kept a text."""
    *_, last = text.rpartition("Traceback (most recent call last):\n")
    is_traceback = len(last) < len(text)
    told = "".join(_unindented(last)).strip() if is_traceback else ""
    kind, _, message = (told or text.strip()).partition(": ")
    if not re.fullmatch(r"[\w.]+", kind):
        # Without a traceback it is RQ's own text on an execution whose worker or process was lost.
        kind, message = "" if told else WORKER_LOST, told or text.strip()
    return short(kind, 255), message, text if told else ""


def seconds(timeout: Any) -> int | None:
    """A time limit as RQ keeps it; None for no limit, and for one that is none."""
    try:
        limit = parse_timeout(timeout) or 0
    except Exception:  # noqa: BLE001 - Whatever RQ makes of junk.
        return None
    return min(limit, _LONGEST_TIMEOUT_SECONDS) if limit > 0 else None


def _keys(client: Redis, job_id: str, queue: str) -> list[str]:
    return [
        RQJob.key_for(job_id),
        ExecutionRegistry(job_id, client).key,
        Result.get_key(job_id),
        ScheduledJobRegistry(queue, connection=client).key,
    ]


def _seen(job_id: str, queue: str, told: Any) -> Seen | None:
    values, executions, result_pairs, score = told
    fields = dict(zip(_FIELDS, values, strict=False))
    word = _text(fields.get("status"))
    created_at, status = _moment(_text(fields.get("created_at"))), _STATUSES.get(word)
    if created_at is None or status is None:
        return None
    execution = _id(_text(executions[0])) if executions else None
    if word == "canceled" and execution:
        status = STARTED  # RQ cancels a job that runs in name only: it goes on.
    result = {_text(name): _text(value) for name, value in zip(*[iter(result_pairs)] * 2, strict=True)}
    task, description = describe(unpacked(fields["data"] or b"", _HEAD_BYTES), _text(fields["description"]))
    return Seen(
        engine="rq",
        id=job_id,
        created_at=created_at,
        queue=short(_text(fields["origin"]) or queue, 100),
        status=status,
        task=task,
        description=description,
        timeout_seconds=seconds(fields["timeout"]),
        queued_at=_moment(_text(fields["enqueued_at"])),
        scheduled_for=_from_seconds(_text(score)) if status == SCHEDULED else None,
        run=_run(word, status, fields, execution, result),
        error=_error(word, result),
    )


def _run(
    word: str, status: Status, fields: dict[str, Any], execution: UUID | None, result: dict[str, str]
) -> Run | None:
    """The latest execution: the one that runs, else the one that left a result, else what the hash tells."""
    started_at = _moment(_text(fields["started_at"]))
    worker_name = short(_text(fields["worker_name"]), 255)
    if status == STARTED:
        return Run(execution, worker_name, started_at=started_at) if execution or started_at else None
    if word == "canceled":
        return None
    ended = _id(result.get("execution_id", ""))
    if ended:
        return Run(
            ended,
            short(result.get("worker_name", ""), 255),
            started_at=_from_seconds(result.get("execution_started_at", "")),
            ended_at=_from_seconds(result.get("execution_ended_at", "")),
            outcome=_outcome(word, result),
        )
    if word in _ENDS and started_at:
        ended_at = _moment(_text(fields["ended_at"]))
        return Run(
            None, worker_name, started_at=started_at, ended_at=ended_at, outcome=_outcome(word, result)
        )
    return None


def _outcome(word: str, result: dict[str, str]) -> str:
    outcome = _ENDS.get(word) or _OUTCOMES.get(result.get("type", ""), Attempt.Outcome.FAILED)
    is_lost = outcome == Attempt.Outcome.FAILED and _error(word, result)[0] == WORKER_LOST
    return Attempt.Outcome.LOST if is_lost else outcome


def _error(word: str, result: dict[str, str]) -> tuple[str, str, str]:
    if word == "stopped":
        return STOPPED
    if word == "canceled":
        return "", "It was canceled in RQ.", ""
    if packed := result.get("exc_string"):
        try:
            data = unpacked(b64decode(packed[: len(packed) // 4 * 4]), _MOST_UNPACKED_BYTES)
        except ValueError:
            data = b""
        if len(packed) >= _MOST_PACKED or len(data) >= _MOST_UNPACKED_BYTES:
            data = data.rpartition(b"\n")[0]  # Half a secret, where a line is cut through, is not recognized.
        return describe_error(data.decode(errors="replace"))
    if result.get("type") == str(Result.Type.MAX_RETRIES_EXCEEDED.value):
        return ASKED_AGAIN
    return "", "RQ keeps no text of its error." if word == "failed" else "", ""


def _first_text(data: bytes) -> str:
    """The text with which a pickle or JSON begins. Taking a pickle apart for it runs nothing of it."""
    try:
        if data.startswith(b'["'):
            path, _ = json.JSONDecoder().raw_decode(data.decode(errors="replace"), 1)
            return str(path)
        for opcode, argument, _ in pickletools.genops(data):
            if "UNICODE" in opcode.name:
                return str(argument)
            if opcode.name not in {"PROTO", "FRAME", "MARK"}:
                break
    except Exception:  # noqa: BLE001 - Anything that comes of junk; another serializer's bytes are such.
        return ""
    return ""


def _unindented(text: str) -> Iterator[str]:
    """What follows after the frames of a traceback: the error's type and message."""
    lines = iter(text.splitlines(keepends=True))
    for line in lines:
        if not line.startswith(" "):
            yield line
            break
    yield from lines


def unpacked(data: bytes, most: int) -> bytes:
    """What RQ compressed, or was given plain, which it reads as well; at most so many bytes."""
    try:
        return zlib.decompressobj().decompress(data, most)
    except zlib.error:
        return data[:most]


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _from_seconds(text: str) -> datetime | None:
    try:
        return datetime.fromtimestamp(float(text), UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return "" if value is None else str(value)
