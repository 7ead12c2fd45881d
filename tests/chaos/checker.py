"""Compares what jobs did with what the database tells of them, and says where the two contradict each other.

Pure: it takes what others have read.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any
from uuid import UUID

from .effects import BADLY, BROKE, DONE, PLANNED, Execution
from .evidence import Loss, Record, Run, Trouble, stood_still

LONGEST_OVERLAP_SECONDS = 1
"""How long a process that was stopped for longer than the lease may go on after that beside its successor."""
LITTLE_SECONDS = 1
"""How long a claim may take until the function begins, and a report or the note that it must wait."""
MOST_LOSSES = 3
TERMINAL = ("finished", "failed", "canceled")
LOST = "WorkerLost"
KINDS = ("missing", "silent", "overlaps", "stuck", "wrong")


@dataclass(frozen=True)
class Finding:
    kind: str
    job_id: UUID | None
    what: str


def check(run: Run) -> list[Finding]:
    """Everything that must not be, whatever faults there were."""
    findings = []
    for job_id in sorted({*run.records, *run.enqueued, *run.by_job}):
        record, executions = run.records.get(job_id), run.by_job.get(job_id, [])
        if record is None:
            findings += _without_row(run, job_id, executions)
            continue
        found = [
            *_never_committed(run, job_id),
            *_missing(record, executions),
            *_silent(record, executions),
            *_overlapping(run, executions),
            *_wrong(run, record, executions),
        ]
        if record.status not in TERMINAL:
            found.append(("stuck", f"It is {record.status}, and nothing happens any more."))
        findings += [Finding(kind, job_id, what) for kind, what in found]
    for loss in run.losses:
        if _never_began(run, loss) and loss.ended - loss.began < LITTLE_SECONDS:
            what = (
                f"Attempt {loss.attempt} was lost at once, before its function began, and nobody killed it."
            )
            findings.append(Finding("wrong", loss.job_id, what))
    counts = Counter(record.status for record in run.records.values() if record.status in TERMINAL)
    if run.tallies is not None and counts != Counter(run.tallies):
        what = f"The tallies tell {dict(run.tallies)}, the rows {dict(counts)}."
        findings.append(Finding("wrong", None, what))
    outcomes = Counter(outcome for record in run.records.values() for outcome in record.attempts.values())
    del outcomes["elsewhere"]  # They have not ended.
    if run.figures is not None and outcomes != Counter(run.figures):
        what = f"The figures tell {dict(run.figures)}, the attempts {dict(outcomes)}."
        findings.append(Finding("wrong", None, what))
    return findings


def told_as_interrupted(run: Run) -> list[UUID]:
    """Jobs that failed as interrupted though their function had come to its end.

    Whoever is killed between its last deed and its report cannot report; others are findings as well.
    """
    return [
        record.id
        for record in run.records.values()
        if record.status == "failed"
        and record.error_type == LOST
        and any(each.end == DONE and each.attempt == record.attempt for each in run.by_job[record.id])
    ]


def without_cause(run: Run) -> list[Loss]:
    """The losses of workers that nobody had killed, stopped, or cut off from both stores."""
    return [loss for loss in run.losses if not _is_explained(loss, run.troubles)]


def _is_explained(loss: Loss, troubles: Sequence[Trouble]) -> bool:
    outages: dict[str, list[Trouble]] = defaultdict(list)
    for each in troubles:
        concerns = not each.worker_pids or loss.worker_pid in each.worker_pids
        if concerns and each.began < loss.ended and loss.began - BEFORE_SECONDS < each.ended:
            if not each.stores:
                return True
            for store in each.stores:
                outages[store].append(each)
    return any(
        min(first.ended, second.ended) + AFTER_SECONDS > max(first.began, second.began)
        for first in outages["redis"]
        for second in outages["database"]
    )


BEFORE_SECONDS, AFTER_SECONDS = 1, 2
"""How long a claim may take, and how long the reconnection to a store that is back."""


def _without_row(run: Run, job_id: UUID, executions: Sequence[Execution]) -> Iterable[Finding]:
    if run.enqueued.get(job_id):
        yield Finding("missing", job_id, "It was committed, and there is no row of it.")
    if executions:
        yield Finding(
            "missing", job_id, "It ran, and there is no row of it: it was rolled back, or never was."
        )


def _never_committed(run: Run, job_id: UUID) -> Iterable[tuple[str, str]]:
    if run.enqueued.get(job_id) is False:
        yield "wrong", "Its transaction was rolled back, and there is a row of it."


def _missing(record: Record, executions: Sequence[Execution]) -> Iterable[tuple[str, str]]:
    for number, outcome in record.attempts.items():
        ends = [each.end for each in executions if each.attempt == number]
        if outcome == "finished" and DONE not in ends:
            yield (
                "missing",
                f"Attempt {number} is recorded as finished, and its function did not come to its end.",
            )
    if record.status == "finished" and record.attempts.get(record.attempt) != "finished":
        yield "missing", f"It is finished, and its attempt {record.attempt} is not recorded as finished."


def _silent(record: Record, executions: Sequence[Execution]) -> Iterable[tuple[str, str]]:
    began: dict[int, int] = defaultdict(int)
    for each in executions:
        began[each.attempt] += 1
    for number, times in sorted(began.items()):
        if times > 1:
            yield "silent", f"Attempt {number} ran {times} times."
        is_over = number < record.attempt or record.status in TERMINAL
        if is_over and number not in record.attempts:
            yield "silent", f"Attempt {number} ran, and no attempt tells how it ended."
        if number > record.attempt:
            yield "silent", f"Attempt {number} ran, and its row knows attempts up to {record.attempt} only."
        if (
            number > record.max_attempts
            and not record.idempotent
            and number not in record.numbers("requeued")
        ):
            yield "silent", f"Attempt {number} ran, though none was left and nobody requeued it."
    for number, outcome in record.attempts.items():
        if outcome == "lost" and number not in record.numbers("worker_lost"):
            yield "silent", f"Attempt {number} was lost, and no event tells on what evidence."


def _overlapping(run: Run, executions: Sequence[Execution]) -> Iterable[tuple[str, str]]:
    for first, second in combinations(sorted(executions, key=lambda each: each.began), 2):
        until = min(first.last, second.last)
        seconds = until - second.began
        seconds -= stood_still(run.pauses, second.began, until)
        if seconds <= 0:
            continue
        paused = _longest_pause(run, first)
        if seconds > LONGEST_OVERLAP_SECONDS or paused < run.lease_seconds or first.attempt == second.attempt:
            yield (
                "overlaps",
                f"Attempts {first.attempt} and {second.attempt} ran at once for {seconds:.2f} s; the longest "
                f"pause of the first one was {paused:.1f} s.",
            )


def _longest_pause(run: Run, execution: Execution) -> float:
    """How long the process of an execution, its worker, or the whole machine stood still while it ran."""
    processes = {execution.pid, execution.worker_pid}
    pauses = [
        pause.ended - pause.began
        for pause in run.pauses
        if (not pause.pids or pause.pids & processes) and pause.within(execution.began, execution.last) > 0
    ]
    return max(pauses, default=0)


def _wrong(run: Run, record: Record, executions: Sequence[Execution]) -> Iterable[tuple[str, str]]:
    finished = [number for number, outcome in record.attempts.items() if outcome == "finished"]
    if len(finished) > 1:
        yield "wrong", f"Attempts {finished} are all recorded as finished."
    if finished and record.status != "finished":
        yield "wrong", f"Attempt {finished[0]} finished, and the job is {record.status}."
    asked = {*record.numbers("canceled"), *record.numbers("cancel_requested")}
    if record.status == "canceled" and not asked:
        yield "wrong", "It is canceled, and nobody asked for that."
    if record.status == "failed":
        yield from _wrongly_failed(run, record, executions)


def _wrongly_failed(run: Run, record: Record, executions: Sequence[Execution]) -> Iterable[tuple[str, str]]:
    ends = [each.end for each in executions if each.attempt == record.attempt]
    if record.error_type == LOST:
        if record.attempt < record.max_attempts:
            yield "wrong", "It failed as interrupted, though attempts were left."
        elif record.idempotent and record.losses <= MOST_LOSSES:
            yield "wrong", "It failed as interrupted, though it may run again."
        for each in executions:
            if each.attempt == record.attempt and each.end == DONE and not _could_not_report(run, each):
                yield "wrong", "It failed as interrupted, though it came to its end and could tell it."
    elif record.error_message != PLANNED:
        yield "wrong", f"It failed by no fault of its function: {record.error_type}: {record.error_message}"
    elif BROKE not in ends:
        yield "wrong", f"It failed as planned, and attempt {record.attempt} did not come so far."
    elif record.attempt < record.max_attempts:
        yield "wrong", "It failed, though attempts were left."
    elif record.end != BADLY:
        yield "wrong", f"It failed, and its function was to end {record.end}."


def _could_not_report(run: Run, execution: Execution) -> bool:
    """True if its worker was killed or stopped when its function had just ended.

    Stores that are away are no excuse: then the report is to wait.
    """
    return _was_touched(run, execution.worker_pid, execution.last)


def _never_began(run: Run, loss: Loss) -> bool:
    """True if its function never began, and its worker was not killed or stopped when it was claimed."""
    began = any(each.attempt == loss.attempt for each in run.by_job[loss.job_id])
    return not began and not _was_touched(run, loss.worker_pid, loss.began)


def _was_touched(run: Run, worker_pid: int, at: float) -> bool:
    """Whether a worker was killed or stopped about then."""
    return any(
        not each.stores
        and (not each.worker_pids or worker_pid in each.worker_pids)
        and each.began < at + LITTLE_SECONDS
        and each.ended > at - LITTLE_SECONDS
        for each in run.troubles
    )


def describe(run: Run, findings: Iterable[Finding], ledger: Mapping[UUID, Any]) -> str:
    """The findings for people, each job's with all that is known of it."""
    by_job: dict[UUID | None, list[Finding]] = defaultdict(list)
    for finding in findings:
        by_job[finding.job_id].append(finding)
    told = [f"{finding.kind}: {finding.what}" for finding in by_job.pop(None, [])]
    for job_id, found in by_job.items():
        told += [f"{finding.kind}: job {job_id}: {finding.what}" for finding in found]
        if record := run.records.get(job_id):
            told.append(record.told)
        told += [f"    load: {line}" for line in ledger.get(job_id, ["knows nothing of it"])]
        told += [f"    ran: {execution}" for execution in run.by_job[job_id]]
        processes = {pid for each in run.by_job[job_id] for pid in (each.pid, each.worker_pid)}
        for pause in run.pauses:
            if not pause.pids or pause.pids & processes:
                who = sorted(pause.pids & processes) or "all"
                told.append(f"    stood still: {who}, {pause.began:.2f} … {pause.ended:.2f}")
    return "\n".join(told)
