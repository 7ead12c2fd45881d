"""Faults between any two steps of real code: Hypothesis chooses the steps, `promises` says what must hold."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import TypeVar

import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from django_jobs import control, figures, relay
from django_jobs.engines.rq.engine import EPOCH_KEY
from django_jobs.exceptions import NotPossible
from django_jobs.models import Job, Worker, get_job, tallies
from django_jobs.reconciler import Reconciler
from django_jobs.reports import report
from django_jobs.states import STARTED, TERMINAL, UNFINISHED
from tests.faults.promises import Execution, Wanted
from tests.faults.world import LIST, OUTCOMES, World

MOST_JOBS = 4
ROUNDS = 8
"""After the last fault, within how many rounds of relay, workers and reconciler all jobs have ended."""

KINDS = st.tuples(st.booleans(), st.integers(1, 3))
"""Of jobs: idempotent or not, how many attempts."""
NUMBERS = st.integers(0, 7)
PUSHES = st.sampled_from(["arrives", "arrives", "is lost", "loses its reply", "is outrun by a worker"])

T = TypeVar("T")


def pick(items: Sequence[T], number: int) -> T:
    """One of the items; 0 is the newest."""
    return items[-1 - number % len(items)]


class Faults(RuleBasedStateMachine):
    def __init__(self, valkey: redis.Redis) -> None:
        super().__init__()
        self.valkey = valkey
        self.world = World(valkey)
        self.record = self.world.record
        self.taken: list[str] = []  # deliveries that a worker has popped and not claimed yet
        self.orphans: list[Job] = []  # rows as a worker read them whose child had died
        self.snapshot: dict[bytes, tuple[int, bytes]] = {}  # {key: (time to live, content)}

    @initialize(jobs=st.lists(KINDS, min_size=1, max_size=3))
    def begin(self, jobs: list[tuple[bool, int]]) -> None:
        """Hypothesis leaves out some of the rules in each run; without jobs it would be of no use."""
        for kind in jobs:
            self.world.enqueue(*kind)

    # Enqueueing and delivering

    @precondition(lambda self: len(self.record.wanted) < MOST_JOBS)
    @rule(
        kind=KINDS,
        delay=st.sampled_from([None, 3600]),
        push=PUSHES,
        then=st.sampled_from(["commits", "commits", "dies after its commit", "rolls back"]),
    )
    def enqueue(self, kind: tuple[bool, int], delay: int | None, push: str, then: str) -> None:
        dies = then == "dies after its commit"
        with relay.withheld() if dies else self.world.pushing(push):
            self.world.enqueue(*kind, delay, rolls_back=then == "rolls back")

    @rule(push=PUSHES)
    def relay_pass(self, push: str) -> None:
        if push == "arrives":
            self.world.deliver()
            return
        if len(self.record.wanted) < MOST_JOBS:  # So that there is something to push.
            with relay.withheld():
                self.world.enqueue(False, 2)
        with self.world.pushing(push):
            relay.run_once()

    @rule(dies=st.booleans())
    def take(self, dies: bool) -> None:
        """A worker pops a delivery, and is slow to claim it or dies before that."""
        popped = self.next_of_queue()
        if not dies:
            self.taken += popped

    @precondition(lambda self: self.world.known)
    @rule(which=NUMBERS, forged_attempts=st.sampled_from([0, 0, 1]))
    def repeat(self, which: int, forged_attempts: int) -> None:
        """A delivery comes once more, or one that somebody made up."""
        job_id, attempt, delivery = pick(self.world.known, which).split("-")
        self.valkey.lpush(LIST, f"{job_id}-{int(attempt) + forged_attempts}-{delivery}")

    # Workers

    @precondition(lambda self: self.world.idle())
    @rule(which=NUMBERS, reply_lost=st.booleans())
    def claim(self, which: int, reply_lost: bool) -> None:
        """What was taken longest ago, or else the next of the queue; the worker may have been paused."""
        for delivery in [self.taken.pop(0)] if self.taken else self.next_of_queue():
            self.world.claim(delivery, pick(self.world.idle(), which), reply_lost=reply_lost)

    @rule(which=NUMBERS, outcome=st.sampled_from(sorted(OUTCOMES)), late=st.booleans())
    def report(self, which: int, outcome: str, late: bool) -> None:
        cut_off = [execution for execution in self.record.running() if execution.is_cut_off]
        for execution in [pick(cut_off, which)] if late and cut_off else self.running(which):
            self.world.tell(execution, outcome)

    @precondition(lambda self: self.told())
    @rule(which=NUMBERS)
    def report_once_more(self, which: int) -> None:
        """The reply to a report was lost."""
        execution = pick(self.told(), which)
        report(execution.job, execution.told, worker_name=execution.worker.name)

    @rule(which=NUMBERS, at_once=st.booleans())
    def kill_child(self, which: int, at_once: bool) -> None:
        """Its worker sees that, reads what it has left, and ends it at once or later."""
        for execution in self.running(which):
            execution.is_running = False
            self.orphans += self.world.orphans_of(execution.worker)
        if at_once and self.orphans:
            self.end_orphan(0)

    @precondition(lambda self: self.orphans)
    @rule(which=NUMBERS)
    def end_orphan(self, which: int) -> None:
        """Whatever has become of it since it was read."""
        self.world.end_orphan(self.orphans.pop(which % len(self.orphans)))

    @rule(which=NUMBERS, row_is_deleted=st.booleans(), noticed=st.booleans())
    def kill_worker(self, which: int, row_is_deleted: bool, noticed: bool) -> None:
        """Its child dies with it; another worker is started."""
        self.running(which)
        process = pick(self.world.busy() or self.world.processes, which)
        self.world.kill(process)
        if row_is_deleted:
            Worker.objects.filter(pk=process.worker.pk).delete()
        if noticed:
            self.world.let_hours_pass()
            self.world.heal()

    @rule(which=NUMBERS, stores=st.sampled_from(["both", "database", "redis"]), noticed=st.booleans())
    def cut_off_worker(self, which: int, stores: str, noticed: bool) -> None:
        """From one store or both, for a lease."""
        self.running(which)
        process = pick(self.world.busy() or self.world.processes, which)
        self.world.cut_off(process, database=stores != "redis", redis=stores != "database")
        if noticed:
            self.world.let_hours_pass()
            self.world.heal()

    @rule()
    def bring_workers_back(self) -> None:
        self.world.bring_back()

    # Healing

    @rule(
        passes=st.integers(1, 2),
        by_another=st.sampled_from([False, False, True]),
        hours_passed=st.sampled_from([True, True, False]),
        redis_answers=st.sampled_from([True, True, False]),
    )
    def reconcile(self, passes: int, by_another: bool, hours_passed: bool, redis_answers: bool) -> None:
        if by_another:
            self.world.healer = Reconciler()
        if hours_passed:
            self.world.let_hours_pass()
            for process in self.world.processes:
                if not redis_answers:  # Nor did it to the workers, all the time.
                    self.world.cut_off(process, database=False, redis=True)
        for _ in range(passes):
            self.world.heal(redis_answers=redis_answers)
        tallies.fold()
        figures.fold()

    @rule()
    def wake_up(self) -> None:
        """All machines but the servers have slept; the reconciler is the first to be awake."""
        self.running(0)
        self.world.let_hours_pass()
        for process in self.world.processes:
            self.world.end_lease(process)
            self.world.end_witness(process)
        self.world.healer.note_contact(lost=True)
        self.world.healer.run_once()
        for process in self.world.processes:
            process.show_life()

    # Redis

    @rule()
    def empty_redis(self) -> None:
        self.valkey.flushall()

    @rule()
    def take_snapshot(self) -> None:
        self.snapshot = {
            key: (max(self.valkey.pttl(key), 0), self.valkey.dump(key)) for key in self.valkey.scan_iter()
        }

    @precondition(lambda self: self.snapshot)
    @rule()
    def restore_snapshot(self) -> None:
        self.valkey.flushall()
        for key, (time_to_live, content) in self.snapshot.items():
            self.valkey.restore(key, time_to_live, content)
        self.valkey.delete(EPOCH_KEY)  # The server started anew has another run id.

    # People

    @precondition(lambda self: self.record.in_state(*UNFINISHED))
    @rule(which=NUMBERS, stop=st.booleans())
    def cancel(self, which: int, stop: bool) -> None:
        job = self.job_in(UNFINISHED, which)
        self.record.wanted[job.pk].canceled.add(job.attempt)
        if stop and job.status == STARTED:
            control.stop(job)
        else:
            assert control.cancel(job), f"a job that has not ended was not canceled: {job}"

    @precondition(lambda self: self.record.in_state(*UNFINISHED))
    @rule(which=NUMBERS, how=st.sampled_from(["finished", "failed", "marked as failed"]))
    def end_from_outside(self, which: int, how: str) -> None:
        job = self.job_in(UNFINISHED, which)
        self.record.wanted[job.pk].ended[job.attempt] = how
        for execution in self.record.running():
            execution.is_cut_off |= execution.job.pk == job.pk
        if how == "finished":
            control.complete(job)
        elif how == "failed":
            control.fail(job, "broken elsewhere")
        else:
            control.mark_failed(job)

    @precondition(lambda self: self.record.in_state(*TERMINAL))
    @rule(which=NUMBERS, push=PUSHES)
    def requeue(self, which: int, push: str) -> None:
        job = self.job_in(TERMINAL, which)
        attempt = job.attempt
        del self.record.ended[job.pk]
        with self.world.pushing(push):
            again = control.requeue(job)
        if again.pk == job.pk:
            self.record.wanted[job.pk].requeued.add(attempt + 1)
        else:
            self.record.wanted[again.pk] = Wanted()

    @precondition(lambda self: self.record.rows)
    @rule(which=NUMBERS, ended=st.booleans())
    def delete_or_requeue_wrongly(self, which: int, ended: bool) -> None:
        job = self.job_in(TERMINAL | UNFINISHED, which)
        if job.has_ended or ended:
            control.delete(job)
            self.record.forget(job.pk)
        else:
            with suppress(NotPossible):
                control.requeue(job)
                raise AssertionError(f"a job that has not ended was requeued: {job}")

    # Without this one, what takes many steps would be reached too rarely.

    @rule(outcome=st.sampled_from(["run on", "run on", *OUTCOMES]))
    def settle_a_bit(self, outcome: str) -> None:
        self.world.deliver()
        self.world.work_off(outcome)

    @invariant()
    def promises_are_kept(self) -> None:
        self.record.check()

    def teardown(self) -> None:
        """Faults stop; workers who are cut off from both stores are gone, all others finish."""
        if self.record.is_broken:
            return
        for execution in self.record.running():
            if execution.is_cut_off:
                execution.is_running = False
            else:
                self.world.tell(execution, "finished")
        self.world.bring_back()
        self.record.check()
        for _ in range(ROUNDS):
            if not self.record.in_state(*UNFINISHED):
                return
            self.world.pump()
            self.record.check()
        stuck = [self.record.rows[pk] for pk in self.record.in_state(*UNFINISHED)]
        assert not stuck, f"stuck after {ROUNDS} rounds: {stuck}"

    def next_of_queue(self) -> list[str]:
        if not self.valkey.exists(LIST):
            self.world.deliver()
        return self.world.pop()

    def running(self, which: int) -> list[Execution]:
        """One that runs, in a list. If none does, the next job begins, a new one if all have ended."""
        if not self.record.running():
            if not self.record.in_state(*UNFINISHED) and len(self.record.wanted) < 2 * MOST_JOBS:
                self.world.enqueue(which % 2 == 0, 1 + which % 3)
            self.claim(0, False)
        return [pick(self.record.running(), which)] if self.record.running() else []

    def told(self) -> list[Execution]:
        return [execution for execution in self.record.executions if execution.told]

    def job_in(self, states: Collection[str], which: int) -> Job:
        return get_job(pick(self.record.in_state(*states), which))
