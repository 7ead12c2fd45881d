from uuid import UUID, uuid4

import pytest

from .checker import check, told_as_interrupted, without_cause
from .effects import BADLY, BROKE, DONE, PLANNED, Execution, read
from .evidence import Loss, Pause, Record, Run, Trouble

JOB = UUID(int=7)
LEASE = 2


def ran(attempt=1, *, began=10.0, last=11.0, end=DONE, pid=100):
    return Execution(JOB, attempt, pid + attempt, 50 + attempt, began, last, end)


def kinds(record, *executions, enqueued=True, pauses=(), troubles=()):
    records = {JOB: record} if record else {}
    known = {} if enqueued is None else {JOB: enqueued}
    run = Run(records, executions, known, pauses, troubles, lease_seconds=LEASE)
    return [finding.kind for finding in check(run)]


def finished(**values):
    return Record(JOB, attempts=values.pop("attempts", {1: "finished"}), **values)


def lost_and_finished(**values):
    values = {"max_attempts": 2, "attempt": 2, "events": [("worker_lost", 1)], **values}
    return finished(attempts={1: "lost", 2: "finished"}, **values)


def failed(error_type="ValueError", error_message=PLANNED, **values):
    values = {"status": "failed", "end": BADLY, "attempts": {1: "failed"}, **values}
    return Record(JOB, error_type=error_type, error_message=error_message, **values)


@pytest.mark.parametrize(
    ("record", "executions"),
    [
        (finished(), [ran()]),
        (failed(), [ran(end=BROKE)]),
        (lost_and_finished(), [ran(end=""), ran(2, began=20, last=21)]),
        (lost_and_finished(), [ran(2, began=20, last=21)]),  # The first was lost before its function began.
        (Record(JOB, status="canceled", events=[("canceled", 1)]), []),
        (
            Record(JOB, status="canceled", attempts={1: "canceled"}, events=[("cancel_requested", 1)]),
            [ran(end="")],
        ),
        (
            finished(attempt=2, attempts={1: "failed", 2: "finished"}, events=[("requeued", 2)]),
            [ran(end=BROKE), ran(2, began=20, last=21)],
        ),
        (
            failed("WorkerLost", attempts={1: "lost"}, events=[("worker_lost", 1)], losses=1),
            [ran(end="")],
        ),
    ],
)
def test_what_is_told_by_rows_is_no_finding(record, executions):
    assert kinds(record, *executions) == []


def test_a_job_whose_commit_is_unclear_may_be_there_or_not():
    assert kinds(finished(), ran(), enqueued=None) == []
    assert kinds(None, enqueued=None) == []


def test_committed_jobs_without_a_row_and_without_an_effect_are_missing():
    assert kinds(None) == ["missing"]
    assert kinds(finished()) == ["missing"]
    assert kinds(finished(), ran(end="")) == ["missing"]
    assert kinds(Record(JOB), ran())[0] == "missing"


def test_a_job_that_was_rolled_back_and_ran_is_found():
    assert kinds(None, ran(), enqueued=False) == ["missing"]
    assert kinds(finished(), ran(), enqueued=False) == ["wrong"]


def test_an_attempt_that_ran_twice_is_silent():
    assert kinds(finished(), ran(), ran(pid=200, began=20, last=21)) == ["silent"]


def test_an_execution_that_no_row_tells_of_is_silent():
    record = finished(attempt=2, attempts={2: "finished"}, max_attempts=2)
    assert kinds(record, ran(), ran(2, began=20, last=21)) == ["silent"]
    assert "silent" in kinds(finished(), ran(), ran(2, began=20, last=21))


def test_a_loss_without_evidence_is_silent():
    assert kinds(lost_and_finished(events=[]), ran(end=""), ran(2, began=20, last=21)) == ["silent"]


def test_a_job_that_is_not_idempotent_does_not_run_once_more_than_it_may():
    executions = [ran(end=""), ran(2, began=20, last=21)]

    assert kinds(lost_and_finished(max_attempts=1), *executions) == ["silent"]
    assert kinds(lost_and_finished(max_attempts=1, idempotent=True), *executions) == []


def test_executions_at_once_are_an_overlap():
    assert kinds(lost_and_finished(), ran(end=""), ran(2, began=10.5, last=12)) == ["overlaps"]


def test_a_pause_longer_than_the_lease_explains_an_overlap_of_a_second():
    long, short = [Pause(5, 15, frozenset({101}))], [Pause(8, 9.9, frozenset({101}))]
    another = [Pause(5, 15, frozenset({200}))]
    executions = [ran(end="", began=6, last=15), ran(2, began=14.2, last=20)]

    assert kinds(lost_and_finished(), *executions, pauses=long) == []
    assert kinds(lost_and_finished(), *executions, pauses=short) == ["overlaps"]
    assert kinds(lost_and_finished(), *executions, pauses=another) == ["overlaps"]
    longer = [ran(end="", began=6, last=15.5), executions[1]]
    assert kinds(lost_and_finished(), *longer, pauses=long) == ["overlaps"]


def test_the_time_in_which_the_machine_stood_still_is_no_overlap():
    executions = [ran(end="", began=6, last=15), ran(2, began=11, last=20)]

    assert kinds(lost_and_finished(), *executions, pauses=[Pause(10, 14.5)]) == []
    assert kinds(lost_and_finished(), *executions, pauses=[Pause(10, 13.5)]) == ["overlaps"]
    assert kinds(lost_and_finished(), *executions, pauses=[Pause(10, 13.5), Pause(10, 12)]) == ["overlaps"]


@pytest.mark.parametrize("status", ["queued", "scheduled", "deferred", "started"])
def test_a_job_that_has_not_ended_is_stuck(status):
    assert kinds(Record(JOB, status=status)) == ["stuck"]


def test_a_verdict_that_what_happened_contradicts_is_wrong():
    assert kinds(Record(JOB, status="canceled")) == ["wrong"]
    assert kinds(failed(), ran(end="")) == ["wrong"]
    assert kinds(failed(error_message="server closed the connection"), ran(end="")) == ["wrong"]
    assert kinds(failed(end="well"), ran(end=BROKE)) == ["wrong"]
    assert kinds(failed(max_attempts=2), ran(end=BROKE)) == ["wrong"]
    assert kinds(finished(attempt=2, status="failed", error_message=PLANNED), ran())[0] == "wrong"


def test_a_job_is_not_given_up_while_it_may_run_again():
    def kinds_of_lost(**values):
        lost = {"attempts": {1: "lost"}, "events": [("worker_lost", 1)], "losses": 1, **values}
        return kinds(failed("WorkerLost", **lost), ran(end=""))

    assert kinds_of_lost(max_attempts=2) == ["wrong"]
    assert kinds_of_lost(idempotent=True) == ["wrong"]
    assert kinds_of_lost(idempotent=True, losses=4) == []


def test_tallies_that_differ_from_the_rows_are_wrong():
    run = Run({JOB: finished()}, [ran()], {JOB: True}, tallies={"finished": 1})
    assert check(run) == []

    run.tallies = {"finished": 1, "failed": 1}
    assert [finding.kind for finding in check(run)] == ["wrong"]


def test_figures_that_differ_from_the_attempts_are_wrong():
    record = finished(attempts={1: "retried", 2: "elsewhere", 3: "finished"}, attempt=3, max_attempts=3)
    run = Run({JOB: record}, [ran(attempt=3)], {JOB: True}, figures={"retried": 1, "finished": 1, "lost": 0})
    assert check(run) == []

    run.figures = {"retried": 1, "finished": 2}
    assert [finding.kind for finding in check(run)] == ["wrong"]


def test_finished_work_is_not_told_as_interrupted_unless_its_worker_was_killed_at_once():
    record = failed("WorkerLost", attempts={1: "lost"}, events=[("worker_lost", 1)], losses=1)

    assert kinds(record, ran(last=11), troubles=[Trouble(11.2, 14, frozenset({51}))]) == []
    assert kinds(record, ran(last=11), troubles=[Trouble(11.2, 14, frozenset({52}))]) == ["wrong"]
    away = Trouble(10, 14, frozenset(), frozenset({"database", "redis"}))
    assert kinds(record, ran(last=11), troubles=[away]) == ["wrong"]
    assert told_as_interrupted(Run({JOB: record}, [ran()], {})) == [JOB]
    assert told_as_interrupted(Run({JOB: record}, [ran(end="")], {})) == []


def test_a_loss_is_explained_by_what_befell_its_worker_or_both_stores():
    loss = Loss(JOB, 1, worker_pid=51, began=10, ended=15)

    def explains(*troubles):
        run = Run({}, [], {}, troubles=[Trouble(*each) for each in troubles], losses=[loss])
        return without_cause(run) == []

    assert explains((12, 12, frozenset({51})))
    assert explains((12, 14))
    assert explains(
        (8, 11, frozenset(), frozenset({"redis"})), (11, 12, frozenset(), frozenset({"database"}))
    )
    assert not explains((12, 12, frozenset({52})))
    assert not explains((16, 17, frozenset({51})))
    assert not explains((11, 14, frozenset(), frozenset({"database"})))
    assert not explains(
        (10, 11, frozenset(), frozenset({"redis"})), (14, 15, frozenset(), frozenset({"database"}))
    )


def test_an_attempt_is_not_lost_at_once_unless_its_worker_was_killed():
    record = failed("WorkerLost", attempts={1: "lost"}, events=[("worker_lost", 1)], losses=1)
    loss = Loss(JOB, 1, worker_pid=51, began=10, ended=10.1)

    def kinds_of_loss(*executions, troubles=()):
        run = Run({JOB: record}, executions, {}, troubles=troubles, losses=[loss])
        return [finding.kind for finding in check(run)]

    assert kinds_of_loss() == ["wrong"]
    assert kinds_of_loss(troubles=[Trouble(8, 9.5, frozenset(), frozenset({"redis", "database"}))]) == [
        "wrong"
    ]
    assert kinds_of_loss(troubles=[Trouble(10, 12, frozenset({51}))]) == []
    assert kinds_of_loss(ran(end="")) == []


def test_effects_are_read_as_executions(tmp_path):
    other = uuid4()
    (tmp_path / "effects").write_text(
        f"began {JOB} 1 101 51 10.0\n"
        f"began {other} 3 102 52 10.5\n"
        f"lives {JOB} 1 101 51 10.2\n"
        f"done {JOB} 1 101 51 11.0\n"
        f"lives {other} 3 102 52 12.0\n"
    )

    assert read(tmp_path / "effects") == [ran(), Execution(other, 3, 102, 52, 10.5, 12.0)]
    assert read(tmp_path / "nothing") == []
