"""`dev bench --follow`: the follower's speed, memory and latency, the log that it keeps, and what its gates cost.

Speeds are medians of rounds in which every contestant takes part. `follow.json` is written into .dev/bench.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

import msgspec

from tests.benchmarks.followed.evictions import GATED, UNGATED, WITH_OUTBOX, evictions
from tests.benchmarks.followed.gate import WITH, WITHOUT, gate
from tests.benchmarks.followed.place import Servers
from tests.benchmarks.followed.retained import Retained, retained
from tests.benchmarks.followed.speed import MANY, ONE_TRANSACTION, Speed, floor, speed
from tests.benchmarks.report import table

PARTS = "speeds", "latencies", "log", "million"
ROWS, MILLION, RATE, TURNS = 100_000, 1_000_000, 500, 6
#: Megabytes of unrelated log a second, and seconds of it.
WRITTEN, SECONDS = 50.0, 20.0
FLOOR = "publish --from-file"
NAMES = {
    GATED: "follower",
    UNGATED: "follower without its gate",
    WITH_OUTBOX: "outbox and relay",
    WITH: "Debezium's event, with the gate",
    WITHOUT: "Debezium's event, without it",
}


@dataclass
class Figures:
    """All that was measured."""

    speeds: dict[str, list[Speed]] = field(default_factory=dict)
    million: Speed | None = None
    #: Milliseconds, by way.
    taken: dict[str, list[float]] = field(default_factory=dict)
    retained: Retained | None = None


def follow(out: Path, *, rounds: int, rows: int = ROWS, parts: Sequence[str] = PARTS) -> None:
    """Measure these parts, print and write."""
    figures = Figures()
    with Servers() as servers:
        if "speeds" in parts:
            _measure_speeds(servers, figures, rounds=rounds, rows=rows)
        if "latencies" in parts:
            figures.taken = evictions(servers, rate=RATE, turns=TURNS) | gate(servers, rate=RATE, turns=TURNS)
        if "log" in parts:
            figures.retained = retained(servers, rate=WRITTEN, seconds=SECONDS)
        if "million" in parts:
            figures.million = speed(servers, ONE_TRANSACTION, rows=MILLION)
    out.mkdir(parents=True, exist_ok=True)
    (out / "follow.json").write_bytes(msgspec.json.encode(figures) + b"\n")
    targets = table(("target", "is", "should be", ""), list(_targets(figures)))
    print("\n\n".join(filter(None, (_speeds(figures), _latencies(figures), targets))))


def _measure_speeds(servers: Servers, figures: Figures, *, rounds: int, rows: int) -> None:
    contestants: dict[str, Callable[[], Speed]] = {
        FLOOR: lambda: floor(servers, rows=rows),
        "one transaction": lambda: speed(servers, ONE_TRANSACTION, rows=rows),
        "a transaction for each row": lambda: speed(servers, MANY, rows=rows),
        "one transaction, evicted too": lambda: speed(servers, ONE_TRANSACTION, rows=rows, evicted=True),
    }
    for round in range(rounds):
        for name, measure in contestants.items():
            found = measure()
            figures.speeds.setdefault(name, []).append(found)
            print(f"{round + 1} of {rounds}: {name}: {found.rows_per_second:,.0f} rows/s", file=sys.stderr, flush=True)


def _speeds(figures: Figures) -> str:
    reference = median(one.rows_per_second for one in figures.speeds.get(FLOOR, [Speed(1, 0, 0)]))
    rows = [
        (
            name,
            f"{median(one.rows_per_second for one in found):,.0f}",
            f"{median(one.rows_per_second for one in found) / reference:.2f}",
            f"{median(one.cpu for one in found):.2f}",
            f"{median(one.memory for one in found):.0f}",
        )
        for name, found in figures.speeds.items()
    ]
    return table(("publishing rows", "rows/s", "of file's", "CPU s/100k", "MB"), rows)


def _latencies(figures: Figures) -> str:
    rows = [
        (NAMES[way], *(f"{figure:.2f}" for figure in (*percentiles(taken), max(taken))))
        for way, taken in figures.taken.items()
    ]
    return table((f"milliseconds to evicted, {RATE}/s", "p50", "p99", "max"), rows)


def percentiles(milliseconds: list[float]) -> tuple[float, float]:
    """Return the 50th and the 99th."""
    cuts = quantiles(milliseconds, n=100)
    return cuts[49], cuts[98]


def _targets(figures: Figures) -> Iterator[tuple[str, str, str, str]]:
    def at_most(what: str, figure: float, limit: float) -> tuple[str, str, str, str]:
        return what, f"{figure:,.3g}", f"<= {limit:,g}", "met" if figure <= limit else "MISSED"

    for name, found in figures.speeds.items():
        if name == FLOOR:
            continue
        rows = median(one.rows_per_second for one in found)
        yield f"rows/s, {name}", f"{rows:,.0f}", ">= 20,000", "met" if rows >= 20_000 else "MISSED"
    if figures.taken:
        p50, p99 = percentiles(figures.taken[GATED])
        yield at_most("COMMIT to evicted, p50 in ms", p50, 3)
        yield at_most("COMMIT to evicted, p99 in ms", p99, 25)
        yield at_most("the follower's gate, ms at the median", p50 - median(figures.taken[UNGATED]), 0.3)
        cost = median(figures.taken[WITH]) - median(figures.taken[WITHOUT])
        yield at_most("Debezium's gate, ms at the median", cost, 0.3)
    if figures.million:
        yield at_most("MB resident, a transaction of a million rows", figures.million.memory, 80)
    if figures.retained:
        written = f"{figures.retained.written:.0f} MB/s of unrelated log"
        yield at_most(f"MB not confirmed, {written}", figures.retained.unconfirmed, 64)
        share = figures.retained.kept / figures.retained.kept_for_peer
        yield at_most(f"{figures.retained.kept:.0f} MB kept by the server, of those for pg_recvlogical", share, 1.1)
