"""`manage.py jobs_status [--json]`: queues and workers at a glance."""

import json
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand
from django.core.serializers.json import DjangoJSONEncoder

from ... import monitor

_COUNTS = ("queued", "scheduled", "deferred", "started", "failed", "undelivered", "workers")


class Command(BaseCommand):
    help = "Show the queues with their jobs, and the workers."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print JSON for programs.")

    def handle(self, **options: Any) -> None:
        queues, workers = monitor.queues(), monitor.workers()
        if options["json"]:
            told = {
                "queues": [asdict(queue) for queue in queues],
                "workers": [asdict(each) for each in workers],
            }
            self.stdout.write(json.dumps(told, cls=DjangoJSONEncoder, indent=2))
            return
        rows = [[_name(queue), *(_number(getattr(queue, count)) for count in _COUNTS)] for queue in queues]
        self._table(["queue", *_COUNTS], rows)
        self.stdout.write("")
        self._table(
            ["worker", "state", "queues", "pid", "last seen"],
            [
                [
                    worker.name,
                    worker.state if worker.alive else "silent",
                    ", ".join(worker.queues),
                    str(worker.pid),
                    f"{worker.seen_at:%Y-%m-%d %H:%M:%S %Z}",
                ]
                for worker in workers
            ],
        )
        if not workers:
            self.stdout.write("No worker runs; start one with: manage.py rqworker")
        for error in dict.fromkeys(queue.error for queue in queues if queue.error):
            self.stderr.write(error)

    def _table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        for row in (head, *rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self.stdout.write("  ".join(cells).rstrip())


def _name(queue: monitor.QueueFigures) -> str:
    return f"{queue.name} (paused)" if queue.paused else queue.name


def _number(count: int | None) -> str:
    if count is None:
        return "?"
    return f"{count}+" if count >= monitor.MOST_COUNTED else str(count)
