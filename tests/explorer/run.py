"""dev explore: every interleaving of the small cases, each guard removed, then any number of random runs.

dev explore                                    a minute
dev explore --runs 10000000 --seed 1           the long run: hours on two cores
"""

import argparse
import logging
import os
import sys
import time
from collections import Counter

from invalidator.app.cache.reader import Reader
from tests.explorer.cases import COUNTEREXAMPLES, EVERY
from tests.explorer.chance import tally_in_processes
from tests.explorer.sabotage import PlainLookAside
from tests.explorer.search import search, story


def main() -> int:
    parser = argparse.ArgumentParser(prog="dev explore", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100_000, help="random interleavings (default 100000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    logging.getLogger("invalidator").setLevel(logging.CRITICAL)  # each refused value is a warning
    stale = every_interleaving()
    stale += undetected()
    stale += at_random(Reader, asked.seed, asked.runs, asked.processes)
    at_random(PlainLookAside, asked.seed, min(asked.runs, 100_000), asked.processes)
    return 1 if stale else 0


def every_interleaving() -> int:
    """Print the results, and return the number of cases in which a key was stale."""
    print("Every interleaving of 2 readers, 2 writers and 1 worker with faults")
    stale = 0
    for name, case in EVERY.items():
        started = time.monotonic()
        found = search(case)
        print(f"  {name:14} {found.states:>9,} states, {0 if found.stale is None else 1} stale; "
              f"at rest {found.filled:,} with the value cached, {found.empty:,} without "
              f"({time.monotonic() - started:.0f} s)", flush=True)  # fmt: skip
        stale += found.stale is not None
    return stale


def undetected() -> int:
    """Print how the absence of each guard is detected, and return the number of those that are not."""
    missed = 0
    for name, case in COUNTEREXAMPLES.items():
        found = search(case)
        print(f"Without {name}:" + (" NOTHING FOUND" if found.stale is None else ""))
        for line in story(case, found.stale or ()):
            print(f"  {line}")
        missed += found.stale is None
    return missed


def at_random(kind: type[Reader], seed: int, runs: int, processes: int) -> int:
    """Print the sums, and return the number of runs in which a key was stale."""
    started = time.monotonic()
    ends: Counter[str] = Counter()
    for ends in tally_in_processes(kind, seed, runs, processes=processes):
        print(f"\r{kind.__name__}: {ends['runs']:,} of {runs:,} runs", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    stale = [name for name in ends if name.startswith("stale run")]
    print(f"{kind.__name__}: {ends['runs']:,} random runs (seed {seed}), {ends['steps']:,} steps, {len(stale):,} stale "
          f"({time.monotonic() - started:.0f} s)")  # fmt: skip
    for name in sorted(ends):
        if ": " in name:
            print(f"  {name:24} {ends[name]:>11,}")
    if kind is Reader and stale:
        print(f"  {', '.join(stale[:20])}")
    return len(stale)


if __name__ == "__main__":
    sys.exit(main())
