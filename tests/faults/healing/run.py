"""`dev faults healing`: the queue of one cluster is lost in every way there is, and heals from the log.

Ten trials of each kind, 500 events a second. Exit status 0 if every gap was healed within 5 seconds of the queue's
return, no key was stale then or in the end, no node was flushed, and the other cluster noticed nothing.
"""

import argparse
import asyncio
import json
import logging
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path

from tests.faults.healing import sabotage
from tests.faults.healing.account import Row, Seen, is_named, judged, table
from tests.faults.healing.kinds import KINDS
from tests.faults.healing.stage import Stage
from tests.faults.healing.trial import Trial
from tests.servers import Broker, Memcached

ROOT = Path(__file__).parents[3]
#: Memcached nodes of each cluster.
NODES = 2


async def played(stage: Stage, name: str, number: int, *, seed: int) -> Row:
    """Play one trial of a kind, and return its account."""
    kind = KINDS[name]
    trial = Trial(
        stage,
        f"{name}-{number}",
        seed=f"{seed} {name} {number}",
        workers=kind.workers,
        padding=kind.padding,
        stamps=kind.stamps,
        settings=kind.settings,
    )
    async with trial.on():
        struck = await kind.strike(trial)
        healed = await trial.healed()
        early = await trial.held(until=healed[0].until.timestamp()) if healed else []
        own, other = await trial.told()
        stale = await trial.stale()
        confirmed = trial.changes.confirmed
        named = {product for product in (*early, *stale) if is_named(confirmed[product], own.gaps)}
        missed = trial.changes.confirmed_between(struck.gone, struck.back) + struck.thrown
        seen = Seen(
            kind=name,
            number=number,
            confirmed=len(confirmed),
            missed=missed,
            waited=healed[1] - struck.back if healed else None,
            read=healed[0].healing.events if healed and healed[0].healing else 0,
            early=len(set(early) - named),
            stale=len(set(stale) - named),
            named=len(named),
            flushes=trial.flushes(),
            dead=own.dead,
            others=await trial.others(),
            repeated=kind.is_alone or trial.changes.attempted > len(confirmed),
            may_have_a_hole=kind.is_alone,
            healed=own.healed,
            open=own.gaps,
            other_gaps=[*other.gaps, *other.healed],
            surprises=trial.surprises,
            is_older_than_the_log=kind.is_older_than_the_log,
        )
    return judged(seen)


@asynccontextmanager
async def stages(options: argparse.Namespace, folder: Path) -> AsyncIterator[list[Stage]]:
    """Start all servers, and close them in the end; yield a stage for each trial that runs at once."""
    first = Broker()
    brokers = [first, *(Broker(peer=first) for _ in range(options.brokers - 1))]
    nodes = [Memcached() for _ in range(2 * NODES * options.at_once)]
    async with AsyncExitStack() as stack:
        for server in (*brokers, *nodes):
            stack.callback(server.close)
        for broker in brokers:  # a further node joins the first one, which has to run
            await asyncio.to_thread(broker.start)
        await asyncio.gather(*(asyncio.to_thread(node.start) for node in nodes))
        pairs = [nodes[start : start + NODES] for start in range(0, len(nodes), NODES)]
        yield [
            Stage(brokers, eu, us, folder, options.rate, options.sabotage)
            for eu, us in zip(pairs[::2], pairs[1::2], strict=True)
        ]


async def run(options: argparse.Namespace, folder: Path) -> list[Row]:
    rows = list[Row]()
    numbers = range(1, options.trials + 1)
    alone = [(name, number) for name in options.kinds if KINDS[name].is_alone for number in numbers]
    others = iter([(name, number) for name in options.kinds if not KINDS[name].is_alone for number in numbers])

    async def play(stage: Stage, trials: Iterable[tuple[str, int]]) -> None:
        for name, number in trials:
            rows.append(await played(stage, name, number, seed=options.seed))
            say(str(rows[-1]))

    async with stages(options, folder) as every:
        broker = every[0].broker
        say(f"RabbitMQ {broker.version}, nodes: {options.brokers}; {options.rate:,.0f} events a second in each trial")
        await asyncio.gather(*(play(stage, others) for stage in every))
        await play(every[0], alone)
    return sorted(rows, key=lambda row: (options.kinds.index(row.seen.kind), row.seen.number))


def say(text: str) -> None:
    print(text, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)  # it reports at length that the broker is away
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="invalidator-healing-") as scratch:
        out = options.out or Path(scratch)
        out.mkdir(parents=True, exist_ok=True)
        rows = asyncio.run(run(options, out))
        (out / "trials.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    say(table(rows))
    return 1 if any(row.faults for row in rows) else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev faults healing", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the moments at which things happen")
    parser.add_argument("--trials", type=int, default=10, help="of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help=" ".join(KINDS))
    parser.add_argument("--rate", type=float, default=500.0, help="events a second")
    parser.add_argument("--brokers", type=int, default=1, help="broker nodes, as one cluster")
    parser.add_argument("--at-once", type=int, default=1, help="trials that run side by side")
    parser.add_argument("--out", type=Path, help="folder for the account and the workers' logs, which are kept then")
    parser.add_argument("--sabotage", choices=sorted(sabotage.KINDS), default="", help="workers with a fault built in")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
