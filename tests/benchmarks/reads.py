"""Reads through the caches beside the plain clients, on private nodes: CPU microseconds of this process for each read.

    ./dev bench --reads              5 rounds; nodes 3, 12, 40; keys 1, 10, 100; then herds (see `herds`)

A round measures every contestant once, so that all of them meet the same noise. Printed are medians, and the ratios
that are promised beside their targets. `reads.json` and `reads.png` are written into .dev/bench.
"""

import asyncio
import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec

from tests.benchmarks.herds import herds
from tests.benchmarks.plot_reads import draw
from tests.benchmarks.readers import (
    CLIENT,
    HASH_CLIENT,
    LOCKED,
    OURS,
    OURS_ASYNC,
    OURS_ASYNC_AUDITED,
    OURS_AUDITED,
    OURS_NEAR,
    STREAMS,
    measure,
    near_readers,
    readers,
)
from tests.benchmarks.report import table
from tests.servers import Memcached

NODES, KEYS = (3, 12, 40), (1, 10, 100)
#: Seconds for which a contestant reads, in each round.
SECONDS = 0.3

#: Medians in microseconds, by name, nodes and keys.
Figures = dict[tuple[str, int, int], float]


def reads(out: Path, *, rounds: int, seconds: float = SECONDS) -> None:
    """Measure, print and draw."""
    figures = measured(rounds, seconds)
    rows = [msgspec.json.encode({"name": n, "nodes": m, "keys": k, "us": us}) for (n, m, k), us in figures.items()]
    out.mkdir(parents=True, exist_ok=True)
    (out / "reads.json").write_bytes(b"\n".join(rows) + b"\n")
    draw(figures, out / "reads.png")
    print(f"CPU microseconds a read, medians of {rounds} rounds")
    print(
        table(("", *(f"{n} nodes, {k} keys" if n else "in process" for n, k in _situations(figures))), _rows(figures))
    )
    print("\n" + table(("target", "is", "should be", ""), list(_targets(figures))))
    print("\n" + herds())


def measured(rounds: int, seconds: float) -> Figures:
    taken: dict[tuple[str, int, int], list[float]] = {}
    with ExitStack() as stack:
        nodes = [stack.enter_context(Memcached("-t", "1")) for _ in range(max(NODES))]
        runner = stack.enter_context(asyncio.Runner())
        contestants = near_readers()
        for number in NODES:
            for keys in KEYS:
                contestants += readers(nodes[:number], keys, stack, runner)
        for round in range(rounds):
            for who in contestants:
                taken.setdefault((who.name, who.nodes, who.keys), []).append(measure(who, seconds))
            print(f"round {round + 1} of {rounds}", file=sys.stderr, flush=True)
    return {who: statistics.median(figures) for who, figures in taken.items()}


def _situations(figures: Figures) -> list[tuple[int, int]]:
    return list(dict.fromkeys((nodes, keys) for _, nodes, keys in figures))


def _rows(figures: Figures) -> Iterator[list[str]]:
    for name in dict.fromkeys(name for name, _, _ in figures):
        cells = [figures.get((name, nodes, keys)) for nodes, keys in _situations(figures)]
        yield [name, *("" if cell is None else f"{cell:.2f}" if cell < 1 else f"{cell:.1f}" for cell in cells)]


def _targets(figures: Figures) -> Iterator[list[str]]:
    for what, ours, theirs, limit in (
        ("a hit, of Client's", (OURS, 3, 1), (CLIENT, 3, 1), 0.9),
        ("a hit, of HashClient's", (OURS, 3, 1), (HASH_CLIENT, 3, 1), 0.5),
        ("100 keys on 3 nodes, of Client's on one", (OURS, 3, 100), (CLIENT, 3, 100), 0.6),
        ("an asyncio hit, of bare streams'", (OURS_ASYNC, 3, 1), (STREAMS, 3, 1), 1.3),
        ("a hit with audit=0.001, of one without", (OURS_AUDITED, 3, 1), (OURS, 3, 1), 1.05),
        ("an asyncio hit with audit=0.001, of one without", (OURS_ASYNC_AUDITED, 3, 1), (OURS_ASYNC, 3, 1), 1.05),
        ("a near hit, of TTLCache's under a lock", (OURS_NEAR, 0, 1), (LOCKED, 0, 1), 0.3),
    ):
        ratio = figures[ours] / figures[theirs]
        yield [what, f"{ratio:.2f}", f"<= {limit}", "met" if ratio <= limit else "MISSED"]
