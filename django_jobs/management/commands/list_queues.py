"""`manage.py list_queues`: every queue with the numbers of its jobs."""

from dataclasses import asdict
from typing import Any

from ... import monitor
from ..terminal import TerminalCommand, queue_table

_COLUMNS = ("queued", "started", "finished", "failed", "deferred", "scheduled", "canceled", "workers")


class Command(TerminalCommand):
    help = "List the queues: how many of their jobs stand in each state, and how many workers they have."

    def handle(self, **options: Any) -> None:
        queues = monitor.queues()
        if options["json"]:
            self.show_json([asdict(queue) for queue in queues])
            return
        self.show(queue_table(queues, *_COLUMNS, "server"))
        for error in dict.fromkeys(queue.error for queue in queues if queue.error):
            self.stderr.write(error)
