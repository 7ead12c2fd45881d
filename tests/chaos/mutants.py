"""Breaks the product on purpose, in processes that are asked to by the environment: the check must see it."""

import os

from django.apps import AppConfig


class Chaos(AppConfig):
    name = "tests.chaos"

    def ready(self) -> None:
        if mutant := os.environ.get("CHAOS_MUTANT"):
            MUTANTS[mutant]()


def _claim_unguarded() -> None:
    """Whoever has a delivery runs it, whatever the row says."""
    from django_jobs import sql

    guarded = "AND (id, attempt) IN (VALUES {wanted}) AND status || '' = '{queued}'"
    assert guarded in sql._CLAIM
    sql._CLAIM = sql._CLAIM.replace(guarded, "AND (true OR (id, attempt) IN (VALUES {wanted}))")


def _keep_open() -> None:
    """A worker that reaches neither store lets its job run on."""
    from django_jobs import fences

    fences.Fence.has_closed = lambda self: False


UNGUARDED_CLAIM, NO_FENCE = "unguarded-claim", "no-fence"
MUTANTS = {UNGUARDED_CLAIM: _claim_unguarded, NO_FENCE: _keep_open}
