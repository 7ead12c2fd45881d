"""Draws the progress of the demo: moving bars in a terminal, plain lines anywhere else."""

import time

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

PLAIN_LINE_INTERVAL_SECONDS = 1


class Display:
    """A context manager; `show()` draws a state in place of the one before.

    What is printed to the same console meanwhile stands above it.
    """

    def __init__(self, console, queues):
        self._console = console
        self._queues = queues
        self._live = Live(
            console=console,
            auto_refresh=False,
        )
        self._last_line = ""
        self._last_line_at = float("-inf")

    def __enter__(self):
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception):
        if self._console.is_terminal:
            self._live.stop()

    def show(self, state):
        if self._console.is_terminal:
            self._live.update(Group(_bars(self._queues, state), _in_work(state)), refresh=True)
            return
        line = ", ".join(f"{queue} {_finished(state, queue)}" for queue in self._queues)
        due = time.monotonic() - self._last_line_at > PLAIN_LINE_INTERVAL_SECONDS
        if line != self._last_line and (due or not state.unfinished):
            self._console.print(line, highlight=False, soft_wrap=True)
            self._last_line, self._last_line_at = line, time.monotonic()


def print_table(console, rows):
    """Print what became of each document, and the totals."""
    table = Table(show_footer=True)
    table.add_column("Document", f"Total of {len(rows)}", overflow="fold")
    for title in ("chunks", "vectors", "triples"):
        table.add_column(title.capitalize(), str(sum(getattr(row, title) for row in rows)), justify="right")
    for row in rows:
        table.add_row(Text(row.name), str(row.chunks), str(row.vectors), str(row.triples))
    console.print(table)


def _bars(queues, state):
    table = Table.grid(padding=(0, 2))
    for queue in queues:
        by_status = state.counts.get(queue, {})
        bar = ProgressBar(
            total=max(1, sum(by_status.values())), completed=by_status.get("finished", 0), width=30
        )
        others = (
            f"{number} {status}" for status, number in sorted(by_status.items()) if status != "finished"
        )
        table.add_row(queue, bar, f"{_finished(state, queue)} finished", ", ".join(others))
    return table


def _in_work(state):
    lines = (f"  {work.name}: {work.stage or work.queue} {work.percent} %" for work in state.in_work)
    return Text("\n".join(lines), style="dim", no_wrap=True, overflow="ellipsis")


def _finished(state, queue):
    by_status = state.counts.get(queue, {})
    return f"{by_status.get('finished', 0)}/{sum(by_status.values())}"
