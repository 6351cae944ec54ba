"""Random runs by the million: up to eight readers, replicas up to five ticks behind, four commits, four faults.

A run is its number and the seed: `tally(kind, seed, range(n, n + 1))` repeats run n alone.
"""

import gc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from random import Random
from typing import Any

from invalidator.app.cache.freshness import Source
from tests.explorer import cases, tree
from tests.explorer.case import Case
from tests.explorer.cases import Kind
from tests.explorer.world import World

#: Places remembered before the trees are dropped and grown again: about 600 MB.
MOST_PLACES = 1_000_000
#: Runs that a process is given at once.
AT_ONCE = 10_000

#: The declared source, and the reads that it then allows, when replicas are up to `lag` ticks behind.
SOURCES: dict[str, Callable[[int], dict[str, Any]]] = {
    "primary": lambda lag: {"source": Source()},
    "positions": lambda lag: {"source": Source(has_position=True), "lag": lag, "tells": True},
    "old snapshots": lambda lag: {"source": Source(has_position=True), "lag": 12, "tells": True},
    "max_lag": lambda lag: {"source": Source(max_lag=lag), "lag": lag},
}


def tally(kind: Kind, seed: int, runs: Iterable[int]) -> Counter[str]:
    """Run these runs and count how they ended."""
    ends: Counter[str] = Counter()
    for number in runs:
        chance = Random((seed << 40) + number)
        source, case = random_case(kind, chance)
        world = World(case)
        steps = rest(world, chance)
        ends.update(("runs", f"{source}: {end_of(world)}"))
        ends["steps"] += steps
        if world.is_stale():
            ends[f"stale run {number}"] += 1
        tree.forget_beyond(MOST_PLACES)
    return ends


def random_case(kind: Kind, chance: Random) -> tuple[str, Case]:
    name = chance.choice(list(SOURCES))
    writers = tuple(chance.randrange(2) for _ in range(chance.randint(1, 4)))
    readers, reads, faults = chance.randint(1, 8), chance.randint(1, 2), chance.randint(0, 4)
    ticks = 0 if name == "primary" else chance.randint(1, 12)
    source = SOURCES[name](chance.randint(1, 5))
    return name, cases.case(readers, writers, reads=reads, kind=kind, faults=faults, ticks=ticks, **source)


def rest(world: World, chance: Random) -> int:
    """Step until everything is at rest, and return the number of steps."""
    uniform = chance.random

    def choose(n: int) -> int:
        return int(uniform() * n)

    steps = 0
    while world.step(choose):
        steps += 1
    return steps


def end_of(world: World) -> str:
    return "stale" if world.is_stale() else "filled" if world.is_filled() else "empty"


def tally_in_processes(kind: Kind, seed: int, runs: int, *, processes: int) -> Iterator[Counter[str]]:
    """Yield the sum so far each time a process finishes a chunk."""
    ends: Counter[str] = Counter()
    chunks = [range(start, min(start + AT_ONCE, runs)) for start in range(0, runs, AT_ONCE)]
    # The garbage collector would walk all the trees again and again and free nothing.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=gc.disable) as pool:
        for part in pool.map(tally, *zip(*((kind, seed, chunk) for chunk in chunks), strict=True)):
            ends.update(part)
            yield ends
