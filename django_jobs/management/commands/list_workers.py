"""`manage.py list_workers`: every worker, and what it does."""

from dataclasses import asdict
from typing import Any

from ... import monitor
from ..terminal import TerminalCommand, worker_table


class Command(TerminalCommand):
    help = "List the workers: their state, queues, place, and the job they run."

    def handle(self, **options: Any) -> None:
        workers = monitor.workers()
        if options["json"]:
            self.show_json([asdict(worker) for worker in workers])
        else:
            self.show(worker_table(workers))
