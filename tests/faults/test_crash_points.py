"""Whoever is killed at whichever point of a job's way: the row tells the truth, and no attempt runs twice."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from django_jobs import Retry, enqueue_many, relay, reports, spool
from django_jobs.leftovers import Leftovers
from django_jobs.models import Attempt, Job, JobEvent, Lease
from django_jobs.models.tallies import totals
from django_jobs.outcomes import Outcome
from django_jobs.reconciler import Reconciler
from django_jobs.states import CANCELED, FINISHED, QUEUED, SCHEDULED, STARTED
from tests import tasks
from tests.conftest import fresh, lines, make_worker, remember_witnesses, wait_until
from tests.faults.crashing import CHILD, WORKER, plan
from tests.faults.killing import killed_in_turn
from tests.faults.stalls import unless_stalled

pytestmark = pytest.mark.django_db(transaction=True)

UNCLAIMED, CLAIMED, GIVEN_BACK = "unclaimed", "claimed", "given back"
BEGUN, ENDED, REPORTED = "begun", "ended", "reported"
"""How far an attempt has come; of what is given back it is known that it has not begun."""

FORK, PREFORK = "fork", "prefork"
POINTS = {
    FORK: {
        "taken": UNCLAIMED,
        "noted by RQ": UNCLAIMED,
        "forked": UNCLAIMED,
        "claimed": CLAIMED,
        "about to run": CLAIMED,
        "running": BEGUN,
        "done": ENDED,
        "about to report": ENDED,
        "reporting": ENDED,
        "about to commit": ENDED,
        "reported": REPORTED,
        "RQ told": REPORTED,
    },
    PREFORK: {
        "taken": UNCLAIMED,
        "claimed": GIVEN_BACK,
        "handed": GIVEN_BACK,
        "about to run": GIVEN_BACK,
        "running": BEGUN,
        "done": ENDED,
        "told": ENDED,
        "about to report": ENDED,
        # On PostgreSQL one statement does it all.
        **({} if connection.vendor == "postgresql" else {"reporting": ENDED, "about to commit": ENDED}),
        "reported": REPORTED,
        "RQ told": REPORTED,
    },
}
NOT_IN_CHILD = {
    FORK: {"taken", "noted by RQ"},
    PREFORK: POINTS[PREFORK].keys() - {"about to run", "running", "done", "told"},
}

KINDS = {
    "plain": {},
    "idempotent": {"idempotent": True},
    "retried": {"retry": Retry(max=1)},
    "failing": {"retry": Retry(max=1)},
}
KINDS_OF = {
    UNCLAIMED: ["plain"],
    CLAIMED: ["plain", "idempotent", "retried"],
    GIVEN_BACK: ["plain"],
    BEGUN: ["plain", "idempotent", "retried"],
    ENDED: ["plain", "idempotent", "failing"],
    REPORTED: ["plain", "failing"],
}


def deaths_of_children(isolation):
    """{(point, kind): ([(where who dies)], how far the attempt has come)}"""
    stages = dict(POINTS[isolation])
    if isolation == PREFORK:
        stages["told"] = REPORTED  # Its worker lives, and hears it.
    return {
        (point, kind): ([(point, CHILD)], stage)
        for point, stage in stages.items()
        if point not in NOT_IN_CHILD[isolation]
        for kind in KINDS_OF[stage]
    }


def deaths_of_workers(isolation):
    # In the instant before all die a child may begin what it was handed, and its worker record what it was
    # told; what comes of that is well, but not always the same.
    stages = {point: stage for point, stage in POINTS[isolation].items() if point not in ("handed", "told")}
    return {
        **{(point, "plain"): ([(point, WORKER)], stage) for point, stage in stages.items()},
        ("running", "idempotent"): ([("running", WORKER)], BEGUN),
        ("about to report", "idempotent"): ([("about to report", WORKER)], ENDED),
        ("reported", "failing"): ([("reported", WORKER)], REPORTED),
        # The child is killed, and then its worker while it ends the attempt.
        ("loss half reported", "plain"): ([("running", CHILD), ("reporting", WORKER)], BEGUN),
        ("loss reported", "idempotent"): ([("running", CHILD), ("loss reported", WORKER)], BEGUN),
    }


@pytest.fixture
def doomed(tmp_path):
    """Jobs at whose first attempt somebody dies, and what became of them."""
    return Doomed(tmp_path)


class Doomed:
    def __init__(self, tmp_path):
        self.effects, self.plans = tmp_path / "effects", tmp_path / "plans"
        self.plans.mkdir()
        self.jobs = {}

    def enqueue(self, deaths):
        with transaction.atomic():
            for label, (points, _) in deaths.items():
                _, kind = label
                task = tasks.leave_marks.using(**KINDS[kind])
                self.jobs[label] = task.enqueue(str(self.effects), "/".join(label), int(kind == "failing"))
                for point, who in points:
                    plan(self.plans, self.jobs[label], point, who)

    def have_ended(self):
        return not Job.objects.unfinished().exists()

    def fates(self):
        return {label: self._fate(label) for label in self.jobs}

    def forget(self, label):
        name = "/".join(label) + " "
        left = [line for line in lines(self.effects) if not line.startswith(name)]
        self.effects.write_text("".join(f"{line}\n" for line in left))
        self.jobs.pop(label).delete()

    def _fate(self, label):
        job, name = fresh(self.jobs[label]), "/".join(label) + " "
        return (
            "interrupted" if job.is_interrupted else job.status,
            list(job.attempts.values_list("number", "outcome")),
            [line.removeprefix(name) for line in lines(self.effects) if line.startswith(name)],
            # A delivery may also be taken for gone because the machine stood still between queue and claim.
            [event.kind for event in job.events.exclude(kind="redelivered")],
        )


def expected_fate(kind, stage):
    """State, attempts, what its function recorded, and events of a job whose first attempt came so far."""
    ran_once, ran_twice = ["1 began", "1 ended"], ["2 began", "2 ended"]
    if stage in (UNCLAIMED, GIVEN_BACK):
        return FINISHED, [(1, "finished")], ran_once, []
    if stage == REPORTED:
        if kind == "failing":
            return FINISHED, [(1, "failed"), (2, "finished")], ran_once + ran_twice, []
        return FINISHED, [(1, "finished")], ran_once, []
    runs = {CLAIMED: [], BEGUN: ["1 began"], ENDED: ran_once}[stage]
    if kind == "plain":
        return "interrupted", [(1, "lost")], runs, ["worker_lost"]
    return FINISHED, [(1, "lost"), (2, "finished")], runs + ran_twice, ["worker_lost"]


def check_fates(doomed, deaths):
    # All died who were to; but for what a worker would have told Redis, had it not died of its next job.
    assert [path.name for path in doomed.plans.iterdir() if not path.name.endswith("RQ told")] == []
    assert doomed.fates() == {label: expected_fate(label[1], stage) for label, (_, stage) in deaths.items()}
    for label, (_, stage) in deaths.items():
        if stage == UNCLAIMED:
            assert doomed.jobs[label].events.filter(kind="redelivered").exists()
    counted = {status: total for (_, status), total in totals().items()}
    assert counted == {status: Job.objects.filter(status=status).count() for status in counted}
    assert sum(counted.values()) == len(deaths)


@pytest.mark.parametrize("isolation", [FORK, PREFORK])
def test_a_child_killed_at_any_point_leaves_what_its_worker_settles(start_worker, doomed, isolation):
    deaths = deaths_of_children(isolation)
    doomed.enqueue(deaths)

    environment = {"CRASH_AT": str(doomed.plans), "LEASE_SECONDS": "30"}
    worker = start_worker("file_processing", f"--isolation={isolation}", **environment)
    wait_until(doomed.have_ended)

    check_fates(doomed, deaths)
    assert worker.process.poll() is None
    for event in JobEvent.objects.filter(kind="worker_lost"):
        assert "its process was ended by signal 9 (Killed)" in event.message


@pytest.mark.parametrize("isolation", [FORK, PREFORK])
@unless_stalled(3)
def test_a_worker_killed_with_all_its_processes_at_any_point_leaves_what_others_settle(
    start_worker, doomed, isolation
):
    deaths = deaths_of_workers(isolation)
    doomed.enqueue(deaths)
    start_worker("vectorization")  # It heals, and runs none of these.
    wait_until(Lease.objects.exists)
    workers = []
    options = [f"--isolation={isolation}", *(["--processes=1"] if isolation == PREFORK else [])]

    def supervise():
        """As a supervisor of three workers does."""
        workers[:] = [each for each in workers if each.process.poll() is None]
        while len(workers) < 3:
            workers.append(start_worker("file_processing", *options, CRASH_AT=str(doomed.plans)))
        return doomed.have_ended()

    wait_until(supervise, timeout_seconds=240)  # Eighteen workers start, three at a time.
    # A worker that dies of one job takes along what it has just heard of another: those once more, alone.
    for label, fate in doomed.fates().items():
        if fate != expected_fate(label[1], deaths[label][1]):
            doomed.forget(label)
            doomed.enqueue({label: deaths[label]})
            wait_until(supervise, timeout_seconds=120)

    check_fates(doomed, deaths)
    evidence = {
        label: job.events.get(kind="worker_lost").message
        for label, job in doomed.jobs.items()
        if deaths[label][1] in (CLAIMED, BEGUN, ENDED)
    }
    assert "ended by signal 9 (Killed)" in evidence.pop(("loss reported", "idempotent"))
    assert [label for label, told in evidence.items() if "last answered at" not in told] == []


def deliver_all():
    wait_until(lambda: relay.run_once() == 0)


@pytest.fixture
def undelivered(job_factory, valkey):
    """Rows for each step of the relay, on a server that knows none of them."""

    def make():
        Job.objects.all().delete()
        valkey.flushall()
        return [
            job_factory(status=SCHEDULED, scheduled_for=Now() - timedelta(hours=1)),
            job_factory(),
            job_factory(attempt=2, max_attempts=2),
            job_factory(delivered_at=Now(), delivered_epoch="of a server that is gone"),
            job_factory(queue="vectorization"),
        ]

    return make


def test_a_relay_killed_between_any_two_steps_leaves_one_delivery_of_each_job(undelivered, queued_ids):
    operations = []
    for operation, jobs in killed_in_turn(relay.run_once, given=undelivered):
        operations.append(operation)

        deliver_all()

        waiting = [*queued_ids("file_processing"), *queued_ids("vectorization")]
        assert sorted(waiting) == sorted(f"{job.pk.hex}-{job.attempt}-0" for job in jobs), operation
        assert Job.objects.queued().exclude(delivered_at=None).count() == len(jobs), operation

    assert sum("EVALSHA" in operation for operation in operations) >= 2
    assert operations.count("COMMIT") >= 3  # What is due, and the marks of two attempts.


@pytest.fixture
def lost(job_factory, valkey):
    """Jobs of a worker that is gone, one for each way an attempt may end then."""
    values = {
        "interrupted": {},
        "rerun": {"idempotent": True},
        "canceled": {"max_attempts": 2, "cancel_requested_at": Now()},
    }

    def make():
        Job.objects.all().delete()
        worker = make_worker(leased_until=Now() - timedelta(hours=1), seen_at=Now() - timedelta(hours=1))
        remember_witnesses(valkey)
        return {name: job_factory(status=STARTED, worker=worker, **each) for name, each in values.items()}

    return make


def heal():
    """A pass of a reconciler that has been in contact with the database for long."""
    healer = Reconciler()
    healer._contact_since = float("-inf")
    healer.run_once()


def test_a_reconciler_killed_between_any_two_steps_ends_each_lost_attempt_once(lost):
    operations = []
    for operation, jobs in killed_in_turn(Reconciler().end_lost_attempts, given=lost):
        operations.append(operation)

        Reconciler().end_lost_attempts()

        found = {name: fresh(job) for name, job in jobs.items()}
        assert {name: (job.status, job.attempt, job.losses) for name, job in found.items()} == {
            "interrupted": ("failed", 1, 1),
            "rerun": (QUEUED, 2, 1),
            "canceled": ("canceled", 1, 0),
        }, operation
        for name, job in found.items():
            kind = "canceled" if name == "canceled" else "lost"
            assert [each.outcome for each in job.attempts.all()] == [kind], (name, operation)
            (event,) = job.events.all()
            assert "last answered at" in event.message, (name, operation)
        assert totals() == {("file_processing", "failed"): 1, ("file_processing", "canceled"): 1}, operation

    assert operations.count("COMMIT") >= len(jobs)


@pytest.fixture
def absent(job_factory, valkey):
    """A delivered job whose delivery is gone, and one whose delivery waits."""

    def make():
        Job.objects.all().delete()
        valkey.flushall()
        gone, waiting = job_factory(), job_factory()
        relay.run_once()
        Job.objects.update(delivered_at=Now() - timedelta(hours=1))
        valkey.lrem("rq:queue:file_processing", 1, f"{gone.pk.hex}-1-0")
        return gone, waiting

    return make


def look_twice():
    healer = Reconciler()
    healer.run_once()
    healer.run_once()


def test_a_reconciler_killed_between_any_two_steps_has_what_is_gone_delivered_once(absent, queued_ids):
    operations = []
    for operation, (gone, waiting) in killed_in_turn(look_twice, given=absent):
        operations.append(operation)

        look_twice()
        deliver_all()

        assert queued_ids("file_processing") == [f"{waiting.pk.hex}-1-0", f"{gone.pk.hex}-1-1"], operation
        assert (fresh(gone).delivery, fresh(waiting).delivery) == (1, 0), operation
        assert [(event.kind, event.job) for event in JobEvent.objects.all()] == [("redelivered", gone)], (
            operation
        )

    assert "COMMIT" in operations


@pytest.fixture
def unawaited(job_factory, valkey):
    """A job that waits, and what a server keeps of one that was canceled while it was away."""

    def make():
        Job.objects.all().delete()
        valkey.flushall()
        waiting, canceled = job_factory(), job_factory()
        relay.run_once()
        Job.objects.filter(pk=canceled.pk).update(status=CANCELED)
        return waiting

    return make


def tidy():
    leftovers = Leftovers()
    leftovers.run_once()
    leftovers.run_once()


def test_who_is_killed_while_it_removes_what_nobody_awaits_leaves_the_rest_to_the_next(
    unawaited, valkey, queued_ids
):
    operations = []
    for operation, waiting in killed_in_turn(tidy, given=unawaited):
        operations.append(operation)

        tidy()

        delivery_id = f"{waiting.pk.hex}-1-0"
        assert queued_ids("file_processing") == [delivery_id], operation
        assert valkey.keys("rq:job:*") == [f"rq:job:{delivery_id}".encode()], operation

    assert any("DEL" in operation for operation in operations)


@pytest.fixture
def kept(job_factory, settings, tmp_path):
    """A report that waits in a file, as its worker has ended."""
    folder = tmp_path / "spool"
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "SPOOL_DIRECTORY": folder}

    def make():
        Job.objects.all().delete()
        job = job_factory(status=STARTED)
        path = reports.keep(reports.document(job, Outcome.finished(result=1), "w1"))
        path.rename(path.with_name(f"{job.claim_id}.{2**22 + 1}-1.json"))  # No process has this number.
        return job

    return make


def test_a_worker_killed_while_it_delivers_a_report_that_was_kept_records_it_once(kept):
    operations = []
    for operation, job in killed_in_turn(reports.deliver_kept, given=kept):
        operations.append(operation)

        # The database may still have to notice that who held the row is gone.
        wait_until(lambda: reports.deliver_kept() or not list(spool.kept()))

        assert (fresh(job).status, fresh(job).result) == (FINISHED, 1), operation
        assert job.attempts.get().outcome == Attempt.Outcome.FINISHED, operation
        assert not job.events.exists(), operation
        assert list(spool.kept()) == [], operation
        assert totals() == {("file_processing", "finished"): 1}, operation

    assert "COMMIT" in operations


def one_after_another(path):
    for _ in range(2):
        tasks.leave_marks.enqueue(path, str(uuid4()))


def at_once(path):
    enqueue_many(tasks.leave_marks.call(path, str(uuid4())) for _ in range(2))


@pytest.mark.parametrize("enqueue_two", [one_after_another, at_once])
def test_of_a_process_killed_while_it_enqueues_all_that_is_committed_runs_once(
    start_worker, queued_ids, tmp_path, enqueue_two
):
    effects, operations = tmp_path / "effects", []

    def enqueue_and_commit():
        with transaction.atomic():
            enqueue_two(str(effects))

    for operation, before in killed_in_turn(enqueue_and_commit, given=lambda: Job.objects.count()):
        enqueued = Job.objects.count() - before
        assert enqueued == (2 if "COMMIT" in operations else 0), operation
        operations.append(operation)
    assert operations.index("COMMIT") < len(operations) - 2  # Somebody was killed at the push.
    pushed, committed = queued_ids("file_processing"), {f"{job.pk.hex}-1-0" for job in Job.objects.all()}
    assert set(pushed) < committed
    assert len(set(pushed)) == len(pushed) == 2  # Of the process that came to its end.

    start_worker("file_processing", LEASE_SECONDS="30")
    wait_until(lambda: not Job.objects.unfinished().exists())

    ran = [f"{job.args[1]} 1 {step}" for job in Job.objects.all() for step in ("began", "ended")]
    assert sorted(lines(effects)) == sorted(ran)
    assert set(Attempt.objects.values_list("number", "outcome")) == {(1, "finished")}
