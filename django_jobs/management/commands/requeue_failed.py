"""`manage.py requeue_failed ID… | filters | --all`: run failed jobs once more."""

from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.db.models import QuerySet

from ... import control, monitor
from ...exceptions import JobsError
from ...models import Job
from ...states import FAILED
from ..selection import add_choice, check_choice, count, selected, steer_named, steer_selected
from ..terminal import TerminalCommand, bounded, counted, job_table

_MOST_SHOWN = 20
_WORDS = {"noun": "failed job", "verbed": "requeued"}


class Command(TerminalCommand):
    help = "Requeue failed jobs: those with the given ids, those that filters let through, or all."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_choice(parser)
        parser.add_argument(
            "--dry-run", action="store_true", help="Requeue nothing; show which would be requeued."
        )

    def handle(self, **options: Any) -> None:
        check_choice(options, "dry_run")
        if not options["dry_run"]:
            control.check_not_read_only()
        if options["ids"]:
            steer_named(self, options["ids"], _requeue, **_WORDS)
            return
        failed = selected(options, FAILED)
        if options["dry_run"]:
            self._show(failed, options["limit"])
        else:
            steer_selected(self, failed, control.requeue, options["limit"], **_WORDS)

    def _show(self, failed: QuerySet[Job], limit: int | None) -> None:
        would_be = count(failed, limit)
        jobs = monitor.lines(failed.order_by("id")[: min(would_be, _MOST_SHOWN)])
        if self.wants_json:
            self.show_json({"would_requeue": would_be, "jobs": [asdict(job) for job in jobs]})
            return
        if jobs:
            self.show(job_table(jobs))
        self.show(f"{counted(bounded(would_be), 'failed job')} would be requeued.")


def _requeue(job: Job) -> None:
    if job.status != FAILED:
        raise JobsError(f"Job {job.pk} is {job.status}, not failed; only failed jobs are requeued here.")
    control.requeue(job)
