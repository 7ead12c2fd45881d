"""Tells the results as tables: ratios first, since times on another machine would be others."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.contestants import Contestant
from benchmarks.rounds import KINDS, MOST_COST_JOBS, PROCESSES, Results

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- make bench writes from here -->", "<!-- to here -->"
TITLES = {"noop": "no-op", "cpu": "1 ms CPU", "sleep": "10 ms sleep", "async sleep": "10 ms async sleep"}


def render(results: Results, circumstances: str) -> str:
    """All tables in Markdown."""
    parts = [
        circumstances,
        *_ratios(results),
        *_speeds(results),
        *_rest(results),
        *_costs(results),
    ]
    if results.memory:
        child, bare = results.memory
        parts.append(
            f"A process of ours that has run {MOST_COST_JOBS:,} jobs has {child / 1e6:.0f} MB (RSS), one "
            f"of the same project that has done nothing but `django.setup()` {bare / 1e6:.0f} MB."
        )
    if results.left_out:
        parts.append("\n".join(f"Left out: {title}: {why}." for title, why in results.left_out.items()))
    if results.failures:
        parts.append("\n".join(f"Failed: {_first_line(told)}" for told in results.failures))
    parts.append(
        f"After each run every row was looked at: {results.jobs_checked:,} jobs of ours, each finished with "
        "one attempt; a backlog with another outcome is no measurement."
    )
    return "\n\n".join(parts)


def write(text: str) -> None:
    """Put it into the page, in place of what stood there."""
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def _ratios(results: Results) -> Iterable[str]:
    base = next((each for each in results.contestants if each.is_ours), None)
    if base is None:
        return

    def ratio(contestant: Contestant, kind: str, processes: int) -> str:
        ours = _speed(results, base, kind, processes)
        peer = _speed(results, contestant, kind, processes)
        return _number(ours / peer) if ours and peer else "-"

    peers = [each for each in results.contestants if each is not base]
    if peers:
        yield f"How many times as many jobs a second {base.title}, does as:"
        yield _by_kind(peers, ratio)


def _speeds(results: Results) -> Iterable[str]:
    def speed(contestant: Contestant, kind: str, processes: int) -> str:
        return _number(_speed(results, contestant, kind, processes))

    yield "Jobs a second, draining a backlog, with one worker process (1p) and with two (2p):"
    yield _by_kind(results.contestants, speed)


def _rest(results: Results) -> Iterable[str]:
    header = ["", "enqueued/s", "in bulk/s", "start p50 ms", "p99 ms", "MB 1p", "MB 2p", "kept of a job"]
    rows = []
    for contestant in results.contestants:
        enqueued = results.enqueued[contestant.name]
        lone = sorted(
            seconds for drain in results.drains[contestant.name, "noop", 1] for seconds in drain.latencies
        )
        rows.append(
            [
                contestant.title,
                _number(_median(one for one, _ in enqueued)),
                _number(_median(bulk for _, bulk in enqueued if bulk)),
                _number(1000 * _quantile(lone, 0.5)),
                _number(1000 * _quantile(lone, 0.99)),
                *(_megabytes(results, contestant, processes) for processes in PROCESSES),
                contestant.keeps,
            ]
        )
    yield "Enqueueing, from the call until a lone job starts (one process), and the most memory taken (PSS):"
    yield _table(header, rows)


def _costs(results: Results) -> Iterable[str]:
    if results.costs:
        header = ["", "Valkey commands", "trips", "SQL statements"]
        titles = {each.name: each.title for each in results.contestants}
        yield "What a no-op job of a backlog costs, with what the worker does beside:"
        yield _table(
            header,
            [
                [
                    titles[name],
                    _number(cost.commands),
                    _number(cost.trips),
                    _number(cost.statements) if cost.statements is not None else "-",
                ]
                for name, cost in results.costs.items()
            ],
        )


def _by_kind(contestants: Sequence[Contestant], cell: Callable[[Contestant, str, int], str]) -> str:
    header = ["", *(f"{TITLES[kind]} {processes}p" for kind in KINDS for processes in PROCESSES)]
    rows = [
        [each.title, *(cell(each, kind, processes) for kind in KINDS for processes in PROCESSES)]
        for each in contestants
    ]
    return _table(header, rows)


def _speed(results: Results, contestant: Contestant, kind: str, processes: int) -> float:
    return _median(drain.jobs_a_second for drain in results.drains[contestant.name, kind, processes])


def _megabytes(results: Results, contestant: Contestant, processes: int) -> str:
    drains = [drain for kind in KINDS for drain in results.drains[contestant.name, kind, processes]]
    return _number(max((drain.peak_bytes for drain in drains), default=0) / 1e6)


def _median(values: Iterable[float]) -> float:
    """0 of none."""
    known = list(values)
    return statistics.median(known) if known else 0


def _quantile(ordered: Sequence[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0


def _number(value: float) -> str:
    """Two digits where they tell something; a dash for what was not measured."""
    if not value:
        return "-"
    if value >= 1000:
        return f"{round(value, -1):,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _first_line(told: str) -> str:
    return told.splitlines()[0]
