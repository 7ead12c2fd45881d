"""What is promised holds after faults in any order, and these runs would notice if it did not."""

import logging
import os
from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from types import SimpleNamespace

import pytest
import redis
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from django_jobs import reconciler
from django_jobs.engines.rq import connections, engine
from tests.faults import mutants
from tests.faults.state_machine import Faults
from tests.faults.world import LEASE, QUEUE

pytestmark = pytest.mark.django_db(transaction=True)

EXAMPLES = int(os.environ.get("STATE_MACHINE_EXAMPLES", "0"))
"""Asks for more runs than CI has time for, others each time; one that fails is then made short as well, which
takes minutes: pytest needs `-o faulthandler_timeout=0`."""
PORTION = 10


@pytest.fixture
def run_faults(
    valkey: redis.Redis, settings: object, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[int], None]]:
    """Run so many sequences of faults.

    What depends on the clock and on chance is fixed: a sequence does the same each time, on a machine that
    stalls as well.
    """
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "LEASE_SECONDS": LEASE.total_seconds()}
    settings.RQ_QUEUES = {QUEUE: settings.RQ_QUEUES[QUEUE]}  # For speed.
    monkeypatch.setattr(reconciler, "SETTLED", LEASE)
    monkeypatch.setattr(connections, "_TIMEOUT_SECONDS", 60)
    monkeypatch.setattr(connections, "_clients", {})
    logging.disable(logging.CRITICAL)

    def machine() -> Faults:
        chance = Random(0)
        told = SimpleNamespace(token_hex=lambda size: f"{chance.getrandbits(8 * size):x}")
        monkeypatch.setattr(engine, "secrets", told)
        return Faults(valkey)

    def run(examples: int) -> None:
        # In small portions: in larger ones Hypothesis repeats most sequences with little changes.
        first = Random().randrange(10**9) if EXAMPLES else 0
        for number in range(first, first + examples // PORTION):
            print(f"These sequences are those of seed {number}.")
            run_state_machine_as_test(seed(number)(partial(machine)), settings=_SETTINGS)

    yield run
    logging.disable(logging.NOTSET)


_SETTINGS = settings(
    max_examples=PORTION,
    stateful_step_count=40,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate, Phase.shrink] if EXAMPLES else [Phase.generate],
    report_multiple_bugs=False,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)


def test_what_is_promised_holds_after_faults_in_any_order(run_faults):
    run_faults(EXAMPLES or 50)


WRONG = {
    mutants.claims_ask_for_nothing: "an attempt ran twice|what ended stays",
    mutants.reports_ask_for_nothing: "what ended|was taken from it|a report|a run |not owed|ran twice",
    mutants.relay_trusts_its_pushes: "stuck|the relay left the server without",
    mutants.relay_ignores_the_epoch: "the relay left the server without",
    mutants.relay_marks_whatever_is_awaited: "the relay left the server without",
    mutants.reconciler_trusts_timestamps: "what a live worker holds was taken from it",
    mutants.reconciler_ignores_contact: "what a live worker holds was taken from it",
    mutants.reconciler_ignores_witnesses: "what a live worker holds was taken from it",
    mutants.redelivery_keeps_the_number: "stuck",
    mutants.requeue_keeps_the_attempt: "an attempt ran twice|is not owed",
}


@pytest.mark.parametrize("mutant", WRONG, ids=lambda mutant: mutant.__name__)
def test_code_made_wrong_is_noticed(run_faults, monkeypatch, mutant):
    mutant(monkeypatch)

    with pytest.raises(AssertionError, match=WRONG[mutant]):
        run_faults(100)
