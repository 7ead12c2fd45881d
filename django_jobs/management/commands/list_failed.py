"""`manage.py list_failed`: the jobs that failed, newest first."""

from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from ... import monitor
from ...models.counting import bounded_count
from ...states import FAILED
from ..selection import add_filters, selected
from ..terminal import TerminalCommand, bounded, job_table


class Command(TerminalCommand):
    help = "List failed jobs, newest first; filters narrow them down."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_filters(parser, limit=20)

    def handle(self, **options: Any) -> None:
        failed, limit = selected(options, FAILED), options["limit"]
        jobs = monitor.lines(failed[:limit])
        if options["json"]:
            self.show_json([asdict(job) for job in jobs])
            return
        self.show(job_table(jobs) if jobs else "No such job.")
        if len(jobs) == limit and (there_are := bounded_count(failed)) > limit:
            self.stderr.write(f"The newest {limit} of {bounded(there_are)}; --limit shows more.")
