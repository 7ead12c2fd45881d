"""How commands talk: to people on a terminal, in plain aligned text to pipes, in JSON to programs."""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any, cast

from django.core.management.base import BaseCommand, CommandError, OutputWrapper
from django.core.serializers.json import DjangoJSONEncoder
from django.utils.timezone import localtime
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table as RichTable
from rich.text import Text

from ..exceptions import JobsError
from ..models.workers import MOST_COUNTED
from ..monitor import JobFigures, QueueFigures, WorkerFigures


@dataclass(frozen=True)
class Table:
    """What stands in columns. What may be long stands in the last one."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


Part = Table | str

_LEAST = 40


class TerminalCommand(BaseCommand):
    """A command with `--json`, whose errors are a line instead of a traceback."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print JSON for programs.")

    def execute(self, *args: Any, **options: Any) -> str | None:
        self.wants_json: bool = options["json"]
        try:
            return super().execute(*args, **options)
        except JobsError as error:
            raise CommandError(str(error)) from error

    def show(self, *parts: Part) -> None:
        if self.stdout.isatty():
            self.stdout.write(_drawn(parts, _console(self.stdout).width), ending="")
        else:
            self.stdout.write(_plain(parts))

    def show_json(self, told: Any) -> None:
        self.stdout.write(as_json(told, indent=2))

    @contextmanager
    def redrawn(self) -> Iterator[Callable[..., None]]:
        """A function that shows parts in the place of those it showed before; in a pipe, below them."""
        console = _console(self.stdout)
        if self.wants_json or not self.stdout.isatty() or console.is_dumb_terminal:
            yield self._print
            return
        with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
            yield lambda *parts: live.update(_cropped(_drawn(parts, console.width)), refresh=True)

    def _print(self, *parts: Part) -> None:
        self.stdout.write(_plain(parts))
        self.stdout.flush()

    @contextmanager
    def progress(self, total: int) -> Iterator[Callable[[int], None]]:
        """A function that moves a bar on by so many; it is seen only where errors go to a terminal."""
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        bar = Progress(*columns, console=_console(self.stderr), disable=not self.stderr.isatty())
        with bar:
            task = bar.add_task("", total=None if total >= MOST_COUNTED else total)
            yield lambda count: bar.advance(task, count)

    def confirmed(self, question: str) -> bool:
        """Whether a person at the terminal says yes; False where there is none to ask."""
        if not (sys.stdin.isatty() and self.stdout.isatty()):
            return False
        self.stdout.write(f"{question} [y/N] ", ending="")
        self.stdout.flush()
        return sys.stdin.readline().strip().lower() in {"y", "yes"}


def as_json(told: Any, *, indent: int | None = None) -> str:
    return json.dumps(told, cls=DjangoJSONEncoder, indent=indent)


def queue_table(queues: Sequence[QueueFigures], *columns: str) -> Table:
    rows = [[_name(queue), *(_cell(queue, column) for column in columns)] for queue in queues]
    return Table(["queue", *columns], rows)


def worker_table(workers: Sequence[WorkerFigures]) -> Part:
    if not workers:
        return "No worker runs; start one with: manage.py rqworker"
    head = ["worker", "state", "current job", "host", "pid", "last seen", "finished", "failed", "queues"]
    rows = [
        [
            worker.name,
            worker.state if worker.alive else "silent",
            str(worker.job_id or "-"),
            worker.hostname,
            str(worker.pid),
            moment(worker.seen_at),
            str(worker.finished_count),
            str(worker.failed_count),
            ", ".join(worker.queues),
        ]
        for worker in workers
    ]
    return Table(head, rows)


def job_table(jobs: Sequence[JobFigures]) -> Table:
    head = ["id", "task", "queue", "failed at", "attempts", "error"]
    rows = [
        [str(job.id), job.task, job.queue, moment(job.finished_at), str(job.attempts), job.error]
        for job in jobs
    ]
    return Table(head, rows)


def moment(at: datetime | None) -> str:
    """A time in the project's time zone."""
    return f"{localtime(at):%Y-%m-%d %H:%M:%S %Z}" if at else "-"


def counted(count: int | str, noun: str) -> str:
    """For example "1 job", "2 jobs"."""
    return f"{count} {noun}" if str(count) == "1" else f"{count} {noun}s"


def bounded(count: int) -> str:
    """A count that goes no further than `MOST_COUNTED`: "10000+" there."""
    return f"{count}+" if count >= MOST_COUNTED else str(count)


def _name(queue: QueueFigures) -> str:
    return f"{queue.name} (paused)" if queue.paused else queue.name


def _cell(queue: QueueFigures, column: str) -> str:
    value = getattr(queue, column)
    if isinstance(value, int) and column in {"queued", "scheduled", "deferred", "started", "undelivered"}:
        return bounded(value)
    return "?" if value is None else str(value)


def _console(out: OutputWrapper) -> Console:
    # Django's wrapper would end each piece that rich writes with a newline.
    return Console(file=cast(IO[str], out._out))


def _cropped(drawn: str) -> Text:
    """What is drawn again and again must not be broken by the terminal, or its place is lost."""
    text = Text.from_ansi(drawn)
    text.no_wrap, text.overflow = True, "crop"
    return text


def _drawn(parts: Sequence[Part], width: int) -> str:
    """These parts for a terminal of this width."""
    return "".join(_drawn_table(part, width) if isinstance(part, Table) else f"{part}\n" for part in parts)


def _drawn_table(table: Table, width: int) -> str:
    """Only the last column is broken, and into no less than `_LEAST` letters.

    What is too wide all the same is left to the terminal: lines that it breaks can still be read and copied,
    columns of three letters cannot.
    """
    rows = [[_one_line(cell) for cell in row] for row in table.rows]
    widths = [max(map(cell_len, column)) for column in zip(table.head, *rows, strict=True)]
    widths[-1] = min(widths[-1], _LEAST)
    drawn = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for position, (name, least) in enumerate(zip(table.head, widths, strict=True), start=1):
        drawn.add_column(name, min_width=least, no_wrap=position < len(widths), overflow="fold")
    for row in rows:
        drawn.add_row(*map(Text, row))
    needed = sum(widths) + 3 * (len(widths) - 1)
    console = Console(force_terminal=True, width=max(width, needed))
    with console.capture() as capture:
        console.print(drawn)
    return capture.get()


def _plain(parts: Sequence[Part]) -> str:
    return "\n".join(_plain_table(part) if isinstance(part, Table) else part for part in parts)


def _plain_table(table: Table) -> str:
    lines = [table.head, *([_one_line(cell) for cell in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def _one_line(text: str) -> str:
    """Errors hold what they like: here neither line breaks nor what steers a terminal."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
