"""`manage.py jobs_status [--watch [SECONDS]]`: queues and workers at a glance."""

import time
from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError
from django.db import Error, connections
from django.utils.timezone import now

from ... import monitor
from ...monitor import QueueFigures, WorkerFigures
from ..terminal import Part, TerminalCommand, as_json, moment, queue_table, worker_table

_COUNTS = ("queued", "scheduled", "deferred", "started", "failed", "undelivered", "workers")
_LONGEST_WAIT_SECONDS = 86_400


class Command(TerminalCommand):
    help = "Show the queues with their jobs, and the workers."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--watch",
            type=float,
            nargs="?",
            const=2,
            metavar="SECONDS",
            help="Show it anew every so many seconds, 2 by default, until Ctrl-C.",
        )

    def handle(self, **options: Any) -> None:
        if (seconds := options["watch"]) is not None:
            self._watch(seconds, json=options["json"])
            return
        queues, workers = monitor.queues(), monitor.workers()
        if options["json"]:
            self.show_json(_told(queues, workers))
            return
        self.show(*_tables(queues, workers))
        for error in _errors(queues):
            self.stderr.write(error)

    def _watch(self, seconds: float, *, json: bool) -> None:
        if not 0.1 <= seconds <= _LONGEST_WAIT_SECONDS:
            raise CommandError(f"--watch is {seconds:g}; allowed are 0.1 to {_LONGEST_WAIT_SECONDS} seconds.")
        with suppress(KeyboardInterrupt), self.redrawn() as redraw:
            while True:
                redraw(*_block(json=json))
                time.sleep(seconds)


def _block(*, json: bool) -> Sequence[Part]:
    try:
        queues, workers = monitor.queues(), monitor.workers()
    except Error as error:  # Go on watching while the database is away.
        connections.close_all()
        problem = f"The database does not answer: {error}"
        return [as_json({"error": problem})] if json else [moment(now()), problem, ""]
    if json:
        return [as_json(_told(queues, workers))]
    return [moment(now()), *_tables(queues, workers), *_errors(queues), ""]


def _told(queues: Iterable[QueueFigures], workers: Iterable[WorkerFigures]) -> dict[str, Any]:
    return {"queues": [asdict(each) for each in queues], "workers": [asdict(each) for each in workers]}


def _tables(queues: Sequence[QueueFigures], workers: Sequence[WorkerFigures]) -> Sequence[Part]:
    return [queue_table(queues, *_COUNTS), "", worker_table(workers)]


def _errors(queues: Iterable[QueueFigures]) -> Sequence[str]:
    return list(dict.fromkeys(queue.error for queue in queues if queue.error))
