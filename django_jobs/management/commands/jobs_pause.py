"""`manage.py jobs_pause QUEUE…`: let no further job of these queues start."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from ... import control, monitor
from ...exceptions import JobsError
from ..terminal import TerminalCommand, bounded


class Command(TerminalCommand):
    help = "Pause queues: their jobs wait until jobs_resume; those that run finish."
    verb = staticmethod(control.pause)
    changed, unchanged = "is paused", "was paused already"

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("queues", nargs="+", metavar="QUEUE", help="Names of queues.")

    def handle(self, **options: Any) -> None:
        control.check_not_read_only()
        told, problems = [], []
        for name in dict.fromkeys(options["queues"]):
            try:
                changed = self.verb(name)
                told.append({"queue": name, "changed": changed, "queued": monitor.get_task_queue(name).count})
            except JobsError as error:
                problems.append(str(error))
        if self.wants_json:
            self.show_json(told)
        for each in [] if self.wants_json else told:
            self.show(self._sentence(**each))
        if problems:
            raise CommandError("\n".join(problems))

    def _sentence(self, queue: str, changed: bool, queued: int) -> str:
        waiting = "1 job waits" if queued == 1 else f"{bounded(queued)} jobs wait"
        return f"{queue} {self.changed if changed else self.unchanged}; {waiting}."
