"""What must hold whatever happens: of the rows, and of what was seen to run.

What was seen is kept here, outside both stores, which may both be wrong.
"""

from collections import Counter
from dataclasses import dataclass, field
from uuid import UUID

from django_jobs.models import Attempt, FigureDelta, Job, JobEvent, Rollup, Worker, tallies
from django_jobs.models.jobs import WORKER_LOST
from django_jobs.outcomes import MOST_LOSSES, Outcome
from django_jobs.states import CANCELED, FAILED, FINISHED, STARTED, TERMINAL

MOST_RETRIES_ASKED = 2
"""With how many at most a task asks for another attempt in these runs."""


@dataclass(eq=False)
class Execution:
    """One run of a job's function, which began with a claim that returned this `job`."""

    job: Job
    worker: Worker
    is_running: bool = True
    is_cut_off: bool = False
    """Its worker reached neither store for a lease, or its job was ended from outside: it may run on, but
    perhaps holds nothing."""
    told: Outcome | None = None
    """What it has reported."""

    @property
    def key(self) -> tuple[UUID, int]:
        return self.job.pk, self.job.attempt


@dataclass
class Wanted:
    """What people, and programs outside, wanted of one job."""

    requeued: set[int] = field(default_factory=set)
    """The attempts that a requeue has asked for."""
    canceled: set[int] = field(default_factory=set)
    """The attempts that were awaited or running when somebody canceled."""
    ended: dict[int, str] = field(default_factory=dict)
    """{attempt: how it was reported, or marked, from outside}"""


class Record:
    """What was seen, and whether the promises are kept by what the database says now."""

    def __init__(self) -> None:
        self.executions: list[Execution] = []
        self.wanted: dict[UUID, Wanted] = {}  # of all jobs that were committed and are not deleted
        self.ended: dict[UUID, dict] = {}  # rows as they were when their jobs had ended
        self.gone: Counter[str] = Counter()  # outcomes of the attempts that went with deleted jobs
        self.is_broken = False
        self.look()

    def look(self) -> None:
        """Read the rows as they are now."""
        columns = ["status", "attempt", "max_attempts", "idempotent", "losses", "claim_id", "error_type"]
        self.rows = {row["pk"]: row for row in Job.objects.order_by("pk").values("pk", "queue", *columns)}
        told = Attempt.objects.values_list("job_id", "number", "claim_id", "outcome", "worker_name")
        self.attempts = {(job_id, number): how for job_id, number, *how in told}
        self.events = Counter(JobEvent.objects.order_by().values_list("job_id", "kind", "attempt"))

    def check(self) -> None:
        self.look()
        try:
            self._check_rows()
            self._check_executions()
            self._check_attempts()
            self._check_tallies()
            self._check_figures()
        except AssertionError:
            self.is_broken = True
            raise
        self.ended = {pk: row for pk, row in self.rows.items() if row["status"] in TERMINAL}

    def fail(self, what: str) -> None:
        self.is_broken = True
        raise AssertionError(what)

    def forget(self, job_id: UUID) -> None:
        """It was deleted, as somebody wanted. What its attempts counted stays counted."""
        self.gone += self._counted(job_id)
        del self.wanted[job_id]

    def in_state(self, *states: str) -> list[UUID]:
        return [pk for pk, row in self.rows.items() if row["status"] in states]

    def running(self) -> list[Execution]:
        return [execution for execution in self.executions if execution.is_running]

    def _check_rows(self) -> None:
        assert self.rows.keys() == self.wanted.keys(), "there are just the jobs that were committed"
        for pk, row in self.rows.items():
            if before := self.ended.get(pk):
                stays = row == before or self._was_interrupted(before, row)
                assert stays, f"what ended stays: {before} {row}"
            if row["status"] == FINISHED:
                assert self._has_finished(pk, row), f"what is finished has reported so: {row}"
            elif row["status"] == FAILED:
                assert self._has_reason_to_fail(pk, row), f"nothing is given up early: {row}"
            elif row["status"] == CANCELED:
                assert row["attempt"] in self.wanted[pk].canceled, f"nobody canceled this: {row}"

    def _check_executions(self) -> None:
        keys = [execution.key for execution in self.executions]
        assert len(keys) == len(set(keys)), f"an attempt ran twice: {keys}"
        for execution in self.executions:
            row = self.rows.get(execution.job.pk)
            if row is None:
                continue
            assert execution.job.attempt <= row["attempt"], f"an attempt ran that is not counted: {row}"
            is_held = (row["status"], row["claim_id"]) == (STARTED, execution.job.claim_id)
            if execution.is_running and not execution.is_cut_off:
                # A row has one claim: so no two of them run at a time.
                assert is_held, f"what a live worker holds was taken from it: {row}"
            elif execution.told:
                self._check_report(execution, row)
            elif not is_held:
                claim_id, outcome, _ = self._attempt(execution.key)
                assert claim_id == execution.job.claim_id, f"a run is silent: {execution.key} {row}"
                is_known = outcome in ("lost", "canceled") or self._is_ended_from_outside(execution.key)
                assert is_known, f"a run was never reported as {outcome}: {execution.key} {row}"

    def _check_report(self, execution: Execution, row: dict) -> None:
        _, outcome, _ = self._attempt(execution.key)
        is_late = self.events[execution.job.pk, "late_report", execution.job.attempt] > 0
        if self._counts(execution):
            asked_too_often = execution.told.retry and execution.job.attempt > MOST_RETRIES_ASKED
            kind = "failed" if asked_too_often else execution.told.kind
            assert (outcome, is_late) == (kind, False), f"a report was not heeded: {execution.key} {row}"
        else:
            assert is_late, f"a report left no trace: {execution.key} {row}"
        if execution.told.kind == FINISHED and row["attempt"] == execution.job.attempt:
            assert row["error_type"] != WORKER_LOST, f"done work is called interrupted: {row}"

    def _check_attempts(self) -> None:
        for pk, row in self.rows.items():
            for number in range(2, row["attempt"] + 1):
                assert self._is_owed(pk, number, row), f"attempt {number} is not owed: {row}"
        for (pk, number), (_, outcome, _) in self.attempts.items():
            if outcome in ("lost", "canceled"):
                kind = "worker_lost" if outcome == "lost" else "canceled"
                assert self.events[pk, kind, number], f"an attempt was cut without a word: {self.rows[pk]}"

    def _check_tallies(self) -> None:
        counted = Counter(
            (row["queue"], row["status"]) for row in self.rows.values() if row["status"] in TERMINAL
        )
        assert tallies.totals() == counted, f"the tallies are what there is: {tallies.totals()} {counted}"

    def _check_figures(self) -> None:
        counted = self.gone + self._counted(*self.rows)
        told: Counter[str] = Counter()
        for outcome, amount in FigureDelta.objects.values_list("outcome", "amount"):
            told[outcome] += amount
        for day in Rollup.objects.filter(period="day", queue="", task=""):
            told.update(finished=day.finished, failed=day.failed - day.lost, lost=day.lost)
            told.update(retried=day.retried, canceled=day.canceled)
        assert told == counted, f"the figures are what the attempts tell: {told} {counted}"

    def _counted(self, *job_ids: UUID) -> Counter[str]:
        return Counter(
            outcome
            for (pk, _), (_, outcome, _) in self.attempts.items()
            if pk in job_ids and outcome != "elsewhere"
        )

    def _was_interrupted(self, before: dict, row: dict) -> bool:
        """True if the report of what was taken for lost has arrived after all."""
        kept = {"attempt": before["attempt"], "claim_id": before["claim_id"], "status": FINISHED}
        return before["error_type"] == WORKER_LOST and row == {**before, **kept, "error_type": ""}

    def _has_finished(self, pk: UUID, row: dict) -> bool:
        return self.wanted[pk].ended.get(row["attempt"]) == FINISHED or any(
            execution.key == (pk, row["attempt"])
            and execution.job.claim_id == row["claim_id"]
            and execution.told
            and execution.told.kind == FINISHED
            for execution in self.executions
        )

    def _has_reason_to_fail(self, pk: UUID, row: dict) -> bool:
        if row["attempt"] in self.wanted[pk].ended:
            return True
        if self._asked_for_retry(pk, row["attempt"]):
            return row["attempt"] > MOST_RETRIES_ASKED
        if row["attempt"] < row["max_attempts"]:
            return False
        return not (row["error_type"] == WORKER_LOST and row["idempotent"] and row["losses"] <= MOST_LOSSES)

    def _asked_for_retry(self, pk: UUID, number: int) -> bool:
        """True if what counts of this attempt is that its task asked for another one."""
        return any(
            execution.told and execution.told.retry and self._counts(execution)
            for execution in self.executions
            if execution.key == (pk, number)
        )

    def _counts(self, execution: Execution) -> bool:
        """True if its job's attempt ended as this execution has reported, and not otherwise before."""
        claim_id, outcome, worker_name = self._attempt(execution.key)
        return (
            claim_id == execution.job.claim_id and outcome not in ("lost", "canceled") and worker_name != ""
        )

    def _is_ended_from_outside(self, key: tuple[UUID, int]) -> bool:
        return key[1] in self.wanted[key[0]].ended and self._attempt(key)[2] == ""

    def _attempt(self, key: tuple[UUID, int]) -> tuple[UUID | None, str | None, str | None]:
        """The claim, the outcome and the worker's name that are stored of an attempt."""
        return self.attempts.get(key, (None, None, None))

    def _is_owed(self, pk: UUID, number: int, row: dict) -> bool:
        """True if attempt `number` may follow the one before it."""
        if number in self.wanted[pk].requeued:
            return self.events[pk, "requeued", number] > 0
        before = number - 1
        _, outcome, _ = self._attempt((pk, before))
        if before in self.wanted[pk].canceled:
            return False
        if outcome == "lost":
            return before < row["max_attempts"] or row["idempotent"]
        if outcome == "retried":
            return before <= MOST_RETRIES_ASKED
        return outcome == "failed" and before < row["max_attempts"]
