"""`manage.py jobs_prune`: delete jobs that have ended, in small batches."""

from argparse import ArgumentParser
from collections import Counter
from typing import Any

from django.core.management.base import CommandError

from ... import control, monitor, retention
from ...models.workers import MOST_COUNTED
from ...states import TERMINAL
from ..selection import point_in_time
from ..terminal import TerminalCommand, counted

_STATUSES = sorted(status.value for status in TERMINAL)
_LARGEST_BATCH = 5_000


class Command(TerminalCommand):
    help = (
        "Delete jobs that have ended and were kept as long as the settings say; "
        "with --older-than, those that ended before then, whatever the settings say."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--older-than",
            metavar="WHEN",
            help="Jobs that ended more than 90m, 12h, 3d, 1w ago, or before a date or date-time.",
        )
        parser.add_argument(
            "--status",
            action="append",
            choices=_STATUSES,
            help="Only jobs that ended so; may be repeated.",
        )
        parser.add_argument("--queue", metavar="NAME", help="Only jobs of this queue.")
        parser.add_argument("--task", metavar="NAME", help="Only jobs of this task.")
        parser.add_argument(
            "--batch-size",
            type=int,
            default=retention.PAGE,
            metavar="N",
            help=f"How many to read, and at most to delete, at once; {retention.PAGE} by default.",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="Delete nothing; count what would be deleted."
        )

    def handle(self, **options: Any) -> None:
        for name in ("older_than", "queue", "task"):
            if options[name] == "":  # As from an unset variable of a script, which means anything but all.
                raise CommandError(f"--{name.replace('_', '-')} is empty; give it a value or leave it out.")
        size, dry_run = options["batch_size"], options["dry_run"]
        if not dry_run:
            control.check_not_read_only()
        if not 1 <= size <= _LARGEST_BATCH:
            raise CommandError(
                f"--batch-size is {size}; allowed is a whole number from 1 to {_LARGEST_BATCH}."
            )
        older_than = options["older_than"] and point_in_time("--older-than", options["older_than"])
        try:
            jobs = monitor.matching_jobs(
                *(options["status"] or _STATUSES), queue=options["queue"], task=options["task"]
            )
        except ValueError as error:
            raise CommandError(str(error)) from error
        pruned: Counter[str] = Counter()
        with self.progress(MOST_COUNTED) as advance:
            for page in retention.prune(jobs, older_than, page_size=size, dry_run=dry_run):
                pruned += page
                advance(page.total())
        if self.wants_json:
            self.show_json({"dry_run": dry_run, "pruned": {status: pruned[status] for status in _STATUSES}})
            return
        parts = ", ".join(f"{pruned[status]} {status}" for status in _STATUSES if pruned[status])
        verbed = "would be deleted" if dry_run else "deleted"
        self.show(f"{counted(pruned.total(), 'job')} {verbed}{f': {parts}' if parts else ''}.")
