"""Real code made wrong, one promise at a time: runs that do not notice that would prove nothing."""

import pytest
from django.db.models import F
from django.db.models.functions import Now

from django_jobs import outcomes, reconciler, relay, reports, sql
from django_jobs.control import jobs as control_jobs
from django_jobs.models import Job, JobQuerySet
from django_jobs.models.figures import add_attempt
from django_jobs.models.jobs import NEXT_DELIVERY
from django_jobs.models.tallies import tally
from django_jobs.reconciler import Reconciler

Patch = pytest.MonkeyPatch


def claims_ask_for_nothing(patch: Patch) -> None:
    """Whichever delivery comes, the attempt that the row tells is started."""
    guard = "AND (id, attempt) IN (VALUES {wanted}) AND status || '' = '{queued}'"
    assert guard in sql._CLAIM
    patch.setattr(
        sql, "_CLAIM", sql._CLAIM.replace(guard, "AND ((id, attempt) IN (VALUES {wanted}) OR true)")
    )


def reports_ask_for_nothing(patch: Patch) -> None:
    """The last report counts, whoever it comes from."""

    def record(job, outcome, worker_name):
        update = outcomes._next_state(job, outcome) | outcome.told
        before = Job.objects.filter(pk=job.pk).first()
        if before is None:
            return outcome
        Job.objects.filter(pk=job.pk).update(**update)
        tally({(job.queue, before.status): -1})
        tally({(job.queue, update["status"]): 1})
        told = {"claim_id": job.claim_id, "worker_name": worker_name, "started_at": job.started_at}
        told["outcome"] = outcome.kind
        for stored in job.attempts.filter(number=job.attempt).exclude(outcome="elsewhere"):
            add_attempt(job, stored.outcome, at=stored.finished_at, amount=-1)
        job.attempts.update_or_create(number=job.attempt, defaults=told)
        outcomes._count(job, outcome, worker_name)
        return outcome

    patch.setattr(reports, "record", record)


def relay_trusts_its_pushes(patch: Patch) -> None:
    """What was pushed counts as delivered, though it did not arrive, and nobody looks for it again."""

    def push_undelivered(engine, queues):
        jobs = Job.objects.queued().filter(queue__in=queues, delivered_at__isnull=True)
        deliveries = [relay.Delivery.of(job) for job in jobs]
        jobs.update(delivered_at=Now())
        if deliveries:
            engine.push(deliveries)
        return len(deliveries)

    patch.setattr(relay, "_push_undelivered", push_undelivered)
    patch.setattr(Reconciler, "_missing", lambda self, engine, queue, epoch: [])


def reconciler_trusts_timestamps(patch: Patch) -> None:
    """What has run for long counts as lost, though its worker lives."""

    def end_lost_attempts(self):
        old = Job.objects.started().filter(started_at__lt=Now() - reconciler.SETTLED)
        return sum(outcomes.lose(job, "It runs for long.") for job in old)

    patch.setattr(Reconciler, "end_lost_attempts", end_lost_attempts)


def reconciler_ignores_contact(patch: Patch) -> None:
    """Leases that nobody could renew count as over."""
    really_note = Reconciler.note_contact

    def note_contact(self, *, lost=False):
        really_note(self)
        self._contact_since = float("-inf")

    patch.setattr(Reconciler, "note_contact", note_contact)


def reconciler_ignores_witnesses(patch: Patch) -> None:
    """Who cannot reach the database counts as dead."""
    patch.setattr(Reconciler, "_witnessed", lambda self, asked: set())


def requeue_keeps_the_attempt(patch: Patch) -> None:
    patch.setattr(control_jobs, "F", lambda name: F(name) - 1)  # To which the requeue adds 1.


def relay_ignores_the_epoch(patch: Patch) -> None:
    """What was delivered once is not looked up on a server that was emptied since."""

    def next_undelivered(self, queue, epoch, most, *columns):
        return list(self.queued().filter(queue=queue, delivered_epoch="").values_list(*columns)[:most])

    patch.setattr(JobQuerySet, "next_undelivered", next_undelivered)


def redelivery_keeps_the_number(patch: Patch) -> None:
    """The server knows this delivery, and does nothing."""
    patch.setattr(reconciler, "NEXT_DELIVERY", {**NEXT_DELIVERY, "delivery": F("delivery")})


def relay_marks_whatever_is_awaited(patch: Patch) -> None:
    """A job that was run and is to run again counts as delivered."""

    def mark(deliveries, epoch):
        ids = [delivery.job_id for delivery in deliveries]
        return Job.objects.filter(pk__in=ids).update(delivered_at=Now(), delivered_epoch=epoch)

    patch.setattr(relay, "_mark", mark)
