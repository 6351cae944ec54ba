"""`dev faults`, the ledger: publishers, workers and readers run while a seeded schedule of faults happens.

Exit status 0 if nothing was lost, nothing unexpected happened and no key is stale at the end, else 1.
"""

import argparse
import asyncio
import json
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.faults import sabotage
from tests.faults.ledger import Ledger, account, table
from tests.faults.production import Production
from tests.faults.remains import Remains
from tests.faults.schedule import FULL_EVENTS, schedule
from tests.faults.stage import Stage

ROOT = Path(__file__).parents[2]
#: Seconds between two points of the timeline.
SAMPLE_EVERY = 0.5
#: Seconds without any progress although keys are stale. After that they count as stale for good.
QUIET_SECONDS = 8.0
#: Seconds after the last fault in which everything has to be drained.
DRAIN_SECONDS = 180.0


@dataclass
class Timeline:
    """The samples for the picture. Times are seconds since the first event."""

    samples: list[dict[str, float]] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)


class Run:
    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._started = time.monotonic()
        self._sampled = asyncio.Event()
        self.timeline = Timeline()

    async def play(self) -> Remains:
        """Run from the first event to the account."""
        stage, production = self._stage, self._stage.production
        watching = asyncio.create_task(self._watch())
        faults = schedule(production.seed, production.events, nodes=production.nodes, workers=production.workers)
        performing = []
        for fault in faults:
            await self._until(lambda after=fault.after: self._confirmed >= after)
            self._say(f"{fault.kind} ({fault.target + 1})" + (f" for {fault.seconds:.0f} s" if fault.seconds else ""))
            performing.append(asyncio.create_task(stage.perform(fault)))
        await asyncio.gather(*performing)
        await self._until(lambda: all(shop.report.done for shop in stage.shops))
        self._say("all events are confirmed and all faults are over; healing and waiting for the rest")
        stage.heal()
        await self._drained()
        watching.cancel()
        found = await stage.close()
        self.timeline.faults = [
            asdict(happened) | {"began": happened.began - self._started, "ended": happened.ended - self._started}
            for happened in stage.happened
        ]
        return found

    @property
    def _confirmed(self) -> int:
        return sum(shop.report.confirmed for shop in self._stage.shops)

    @property
    def _pending(self) -> int:
        return sum(shop.report.pending for shop in self._stage.shops)

    async def _until(self, condition: Any) -> None:
        while not condition():
            self._stage.check_players()
            await asyncio.sleep(0.05)

    async def _drained(self) -> None:
        """Return when nothing is pending or queued, or when there is no more progress.

        A queue that still holds messages then is a surprise.
        """
        began = moved = time.monotonic()
        before = None
        while time.monotonic() - moved < QUIET_SECONDS:
            await self._sampled.wait()
            sample = self.timeline.samples[-1]
            # The queues of a broker that does not answer need not be empty.
            queued = sample.get("queued", 1) + sample.get("parked", 0)
            if sample["pending"] == queued == 0:
                return
            if sample["pending"] != before or queued:
                before, moved = sample["pending"], time.monotonic()
            if time.monotonic() - began > DRAIN_SECONDS:
                self._stage.surprises.append(f"not drained in {DRAIN_SECONDS:.0f} s: {sample}")
                return

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_EVERY)
            queues = await self._stage.ready()
            shops = self._stage.shops
            sample = {
                "at": time.monotonic() - self._started,
                "confirmed": self._confirmed,
                "pending": self._pending,
                "oldest": max(shop.report.oldest for shop in shops),
                "slowest": max(shop.slowest for shop in shops),
            }
            if queues is not None:
                queued, *parked = queues.values()
                sample |= {"queued": queued, "parked": sum(parked)}
            for shop in shops:
                shop.slowest = 0.0
            self.timeline.samples.append(sample)
            # Callers that already wait get this sample. Later ones wait for the next.
            self._sampled.set()
            self._sampled.clear()

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._started:7.1f} s  {self._confirmed:>9,} events  {text}", flush=True)


async def run(production: Production, out: Path) -> Ledger:
    """Play once and write the ledger and the timeline into the folder."""
    with tempfile.TemporaryDirectory(prefix="invalidator-faults-") as scratch:
        return await played(Stage(production, out, Path(scratch)), out)


async def played(stage: Stage, out: Path) -> Ledger:
    """Play once on this stage and write the ledger and the timeline into the folder."""
    make_empty(out)
    size = stage.size
    say(
        f"seed {stage.production.seed}: {size.events:,} events of {size.products:,} products at {size.rate:,.0f} a "
        f"second, freezes and partitions of {size.freeze:.0f} s"
    )
    async with stage.set_up():
        playing = Run(stage)
        remains = await playing.play()
    ledger = account(remains.found)
    write(out, ledger, playing.timeline, remains)
    return ledger


def make_empty(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("worker-*.log"):
        old.unlink()


def write(out: Path, ledger: Ledger, timeline: Timeline, remains: Remains) -> None:
    stale = remains.staleness
    say(
        f"stale after the confirmation: half at most {stale.within(0.5):.2f} s, 99 of 100 {stale.within(0.99):.2f} s, "
        f"the longest {stale.longest:.1f} s; keys parked on the way {remains.logs.parked_keys:,}, "
        f"drained {remains.logs.drained_keys:,}"
    )
    (out / "ledger.json").write_text(ledger.as_json())
    (out / "timeline.json").write_text(json.dumps(asdict(timeline) | {"staleness": stale.written()}) + "\n")
    draw(out)


def draw(out: Path) -> None:
    try:
        from tests.faults.plot import draw_timeline
    except ImportError:
        say("no picture: matplotlib is not installed (./dev faults installs it)")
    else:
        draw_timeline(out)


def say(text: str) -> None:
    print(f"faults: {text}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)  # it reports at length that the broker is away
    options = parse(arguments)
    out = options.out or ROOT / ".dev" / "faults" / f"seed-{options.seed}"
    ledgers = {}
    if not options.stock:
        production = Production(options.seed, options.events, sabotage=options.sabotage)
        ledgers["invalidator"] = asyncio.run(run(production, out))
    if options.stock or options.compare:
        production = Production(options.seed, options.events, stock=True)
        ledgers["stock way"] = asyncio.run(run(production, out / "stock"))
    show(ledgers)
    first, *_ = ledgers.values()
    return 0 if first.passes else 1


def show(ledgers: Mapping[str, Ledger]) -> None:
    for ledger in ledgers.values():
        for surprise, times in Counter(ledger.surprises).most_common(20):
            say(f"unexpected: {surprise}" + (f" ({times} times)" if times > 1 else ""))
    print(table(ledgers))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the schedule")
    parser.add_argument("--events", type=int, default=FULL_EVENTS)
    parser.add_argument("--out", type=Path, help="folder for ledger, timeline and logs (.dev/faults/seed-N)")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--stock", action="store_true", help="pika and HashClient in the worker's place")
    way.add_argument("--compare", action="store_true", help="the worker, then the stock way, side by side")
    way.add_argument("--sabotage", choices=sorted(sabotage.KINDS), default="", help="a worker with a fault built in")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
