"""The relay beside the usual loop and `publish --from-file`, on three databases: events per second.

    ./dev bench --relay              5 rounds; 20,000 and 200,000 waiting; then 2,000,000, vacuum, commit to evicted
    ./dev bench --relay --quick      2 rounds, and nothing after them
    ./dev bench --relay --publish    writes the picture to conf/pictures/relay.png

A round measures each contestant once, in an order that differs by round. Printed are medians and ranges, and the ratios
that are promised beside their targets. `relay.json` and `relay.png` are written into .dev/bench.
"""

import random
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from tests.benchmarks.commit_to_evicted import commit_to_evicted
from tests.benchmarks.outboxes import DATABASES, DISTINCT, SPREADS, Outboxes
from tests.benchmarks.plot_relay import draw
from tests.benchmarks.report import table
from tests.benchmarks.results import about
from tests.benchmarks.vacuum import Backlog, Size, backlog, kept_busy

#: Waiting events. The loop has to publish fewer, since it is slow.
SMALL, LARGE, HUGE, LOOP = 20_000, 200_000, 2_000_000, 3000
#: Commits a second, and seconds.
COMMITS, COMMIT_SECONDS = 100, 20.0
#: The same while the table's size is watched, over two rounds of autovacuum.
BUSY, BUSY_SECONDS = 2000, 130.0
#: Seconds that autovacuum may take to come.
VACUUM_WITHIN = 150.0

FLOOR = "publish --from-file"
LARGE_FLOOR = f"{FLOOR}, {LARGE:,}"


@dataclass
class Measured:
    about: dict[str, Any]
    #: Events per second of each round, by contestant.
    speeds: dict[str, list[float]] = field(default_factory=dict)
    huge: Backlog | None = None
    #: The table's size, one a second, while events are committed and published at `BUSY` a second.
    busy: list[Size] = field(default_factory=list)
    #: Milliseconds from commit to evicted: median and 99th percentile.
    evicted: list[float] = field(default_factory=list)

    def median(self, name: str) -> float:
        return statistics.median(self.speeds[name])


def relay(out: Path, *, rounds: int, quick: bool, only: list[str] | None, picture: Path) -> None:
    """Measure, print and draw."""
    with ExitStack() as stack:
        outboxes = Outboxes(stack)
        measured = Measured(about(outboxes.broker))
        for round in range(rounds):
            for name, act in _in_another_order(contestants(outboxes), round):
                if not only or any(word in name for word in only):
                    measured.speeds.setdefault(name, []).append(act())
                    print(f"{name}: {measured.speeds[name][-1]:,.0f} events/s", flush=True)
        if not quick and not only:
            measured.evicted = commit_to_evicted(outboxes, rate=COMMITS, seconds=COMMIT_SECONDS)
            measured.busy = kept_busy(outboxes, rate=BUSY, seconds=BUSY_SECONDS)
            measured.huge = backlog(outboxes, HUGE, vacuum_within=VACUUM_WITHIN)
    out.mkdir(parents=True, exist_ok=True)
    (out / "relay.json").write_bytes(msgspec.json.format(msgspec.json.encode(measured), indent=1) + b"\n")
    print("\n" + report(measured))
    draw(measured.about, measured.speeds, list(DATABASES.values()), picture)


def contestants(outboxes: Outboxes) -> Iterator[tuple[str, Callable[[], float]]]:
    yield FLOOR, partial(outboxes.from_file, SMALL)
    yield LARGE_FLOOR, partial(outboxes.from_file, LARGE)
    for database, name in DATABASES.items():
        yield f"{name}, the usual loop", partial(outboxes.looped, database, LOOP)
        for spread in SPREADS:
            yield f"{name}, {spread}", partial(outboxes.relayed, database, SMALL, spread)
        yield f"{name}, {LARGE:,} waiting", partial(outboxes.relayed, database, LARGE)
        if database != "sqlite":  # where one relay works at a time
            yield f"{name}, {LARGE:,} waiting, two relays", partial(outboxes.relayed, database, LARGE, relays=2)


def _in_another_order(
    contestants: Iterator[tuple[str, Callable[[], float]]], seed: int
) -> list[tuple[str, Callable[[], float]]]:
    return random.Random(seed).sample(ordered := list(contestants), len(ordered))


def report(measured: Measured) -> str:
    rounds = max(map(len, measured.speeds.values()))
    heading = f"{measured.about['cpu']}, {measured.about['cores']} cores, load {measured.about['load']:.1f}"
    tables = [
        table((f"medians of {rounds} rounds", "events/s", "from to", f"of {FLOOR}"), _speeds(measured)),
        table(("besides", ""), _besides(measured)),
        table(("target", "is", "should be", ""), _targets(measured)),
    ]
    return "\n\n".join([heading, *filter(None, tables)])


def _speeds(measured: Measured) -> Iterator[list[str]]:
    for name in sorted(measured.speeds, key=measured.median, reverse=True):
        speeds, ratio = measured.speeds[name], _ratio(measured, name, FLOOR)
        middle = f"{measured.median(name):,.0f}"
        yield [name, middle, f"{min(speeds):,.0f} to {max(speeds):,.0f}", "" if ratio is None else f"{ratio:.2f}"]


def _besides(measured: Measured) -> Iterator[list[str]]:
    if huge := measured.huge:
        yield [f"PostgreSQL, {HUGE:,} waiting, events/s", f"{huge.events_per_second:,.0f}"]
        for what, size in (("full", huge.full), ("emptied", huge.empty), ("vacuumed", huge.vacuumed)):
            yield [f"the table, {what}", f"{size.megabytes:,.0f} MB, {size.dead:,} dead rows"]
    if busy := measured.busy:
        what = f"the table at {BUSY:,} commits/s for {BUSY_SECONDS:g} s, at most"
        yield [what, f"{max(s.megabytes for s in busy):,.0f} MB, {max(s.dead for s in busy):,} dead rows"]
        yield ["the same in the last minute", f"{max(s.megabytes for s in busy[-60:]):,.0f} MB"]
    if measured.evicted:
        yield [f"commit to evicted at {COMMITS}/s, ms", "p50 {:.1f}, p99 {:.1f}".format(*measured.evicted)]


def _targets(measured: Measured) -> Iterator[list[str]]:
    for what, figure, limit, at_least in _aims(measured):
        if figure is not None:
            met = figure >= limit if at_least else figure <= limit
            yield [what, f"{figure:,.2f}", f"{'>=' if at_least else '<='} {limit:g}", "met" if met else "MISSED"]


def _aims(measured: Measured) -> Iterator[tuple[str, float | None, float, bool]]:
    for database, name in DATABASES.items():
        least = 0.4 if database == "postgresql" else 0.25
        for spread in SPREADS:
            yield f"{name}, {spread}, of {FLOOR}'s", _ratio(measured, f"{name}, {spread}", FLOOR), least, True
    for name in DATABASES.values():
        waiting, fewer = f"{name}, {LARGE:,} waiting", f"{name}, {DISTINCT}"
        yield f"{waiting}, of {SMALL:,}", _ratio(measured, waiting, fewer), 0.8, True
        yield f"{waiting}, two relays, of one's", _ratio(measured, f"{waiting}, two relays", waiting), 1.3, True
    few = measured.speeds.get(f"PostgreSQL, {DISTINCT}")
    if measured.huge and few:
        ratio = measured.huge.events_per_second / statistics.median(few)
        yield f"PostgreSQL, {HUGE:,} waiting, of {SMALL:,}", ratio, 0.8, True
    if measured.evicted:
        yield "commit to evicted, p50, ms", measured.evicted[0], 5, False
        yield "commit to evicted, p99, ms", measured.evicted[1], 60, False


def _ratio(measured: Measured, one: str, other: str) -> float | None:
    if one not in measured.speeds or other not in measured.speeds:
        return None
    return measured.median(one) / measured.median(other)
