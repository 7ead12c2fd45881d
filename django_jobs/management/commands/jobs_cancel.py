"""`manage.py jobs_cancel ID… | filters | --all`: cancel jobs that wait or run."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from ... import control
from ...exceptions import JobsError
from ...models import Job
from ...states import DEFERRED, QUEUED, SCHEDULED, UNFINISHED
from ..selection import add_choice, check_choice, count, selected, steer_named, steer_selected
from ..terminal import TerminalCommand, bounded, counted

_WAITING = [QUEUED, SCHEDULED, DEFERRED]
_WORDS = {"noun": "job", "verbed": "canceled or asked to stop"}


class Command(TerminalCommand):
    help = (
        "Cancel jobs: those with the given ids, those that filters let through, or all. "
        "Running ones are stopped by their workers."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_choice(parser, "queue", "task")
        parser.add_argument(
            "--status",
            action="append",
            choices=[status.value for status in sorted(UNFINISHED)],
            help="Only jobs in this state; may be repeated. By default all that wait, but no started ones.",
        )
        parser.add_argument("--yes", action="store_true", help="Do not ask whether --all is meant.")

    def handle(self, **options: Any) -> None:
        control.check_not_read_only()
        check_choice(options, "status")
        if options["ids"]:
            steer_named(self, options["ids"], _cancel, **_WORDS)
            return
        statuses = options["status"] or _WAITING
        jobs = selected(options, *statuses)
        if options["all"] and not options["yes"]:
            all_of_them = f"{counted(bounded(count(jobs, options['limit'])), 'job')} of all queues"
            if not self.confirmed(f"Cancel {all_of_them} ({', '.join(statuses)})?"):
                raise CommandError(f"Nothing was canceled; --yes cancels {all_of_them} without asking.")
        steer_selected(self, jobs, control.cancel, options["limit"], **_WORDS)


def _cancel(job: Job) -> None:
    if not control.cancel(job):
        raise JobsError(f"Job {job.pk} is {job.status}; only jobs that have not ended can be canceled.")
