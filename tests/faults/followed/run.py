"""`dev faults followed`: writers of every kind, a follower that is killed, and each change accounted for.

    writers ─> PostgreSQL ─> follower ─> RabbitMQ ─┬─> worker ─> memcached <─ readers
                                                   └─> witness: each event, and does a new read see its change?

Exit status 0 if every committed change was published and evicted, nothing else was, and no event came early.
"""

import argparse
import asyncio
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path

from tests.faults.followed import sabotage
from tests.faults.followed.account import Account
from tests.faults.followed.production import Production
from tests.faults.followed.stage import Stage
from tests.servers import Broker, Memcached, Postgres

ROOT = Path(__file__).parents[3]
#: Arguments of the server: a transaction that waits for a standby is committed, and nobody sees it yet.
#: Changes from one stall of the standby to the next, if nothing else fails.
CHANGES_A_STALL = 150
SERVER = ("-c", "wal_level=logical", "-c", "max_wal_size=128MB")


async def run(production: Production, folder: Path) -> Account:
    """Start the servers, play once, and return the account; the logs stay in the folder."""
    with tempfile.TemporaryDirectory(prefix="invalidator-followed-") as scratch:
        async with AsyncExitStack() as stack:
            servers = Broker(Path(scratch) / "broker"), Postgres(*SERVER), Memcached()
            for server in servers:
                stack.enter_context(server)
            broker, database, node = servers
            return await Stage(production, broker, broker.url(), database, node, folder).play()


def of_all_faults(options: argparse.Namespace) -> Production:
    """Return a run with as many faults as its changes ask for, and at least one of each."""
    parts: Callable[[int], int] = lambda full: max(1, full * options.changes // Production.changes)  # noqa: E731
    return Production(
        options.seed,
        options.changes,
        follower_kills=parts(Production.follower_kills),
        relay_kills=parts(Production.relay_kills),
        broker_kills=parts(Production.broker_kills),
        database_stops=parts(Production.database_stops),
        stalls=parts(Production.stalls),
        sabotage=options.sabotage,
    )


def of_stalls(options: argparse.Namespace) -> Production:
    """Return a run with eight readers, in which nothing fails but the standby, again and again."""
    return Production(
        options.seed,
        options.changes,
        follower_kills=0,
        relay_kills=0,
        broker_kills=0,
        database_stops=0,
        stalls=max(1, options.changes // CHANGES_A_STALL),
        readers=8,
        sabotage=options.sabotage,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="dev faults followed", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of writers and schedule")
    parser.add_argument("--changes", type=int, default=Production.changes)
    parser.add_argument("--stalls", action="store_true", help="eight readers, and no fault but a standby that stalls")
    parser.add_argument(
        "--sabotage", choices=sorted(sabotage.KINDS), default="", help="a follower with a fault built in"
    )
    parser.add_argument("--out", type=Path, default=ROOT / ".dev" / "faults" / "followed", help="folder for logs")
    options = parser.parse_args(arguments)
    production = of_stalls(options) if options.stalls else of_all_faults(options)
    for name in ("aiormq", "aio_pika"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they report at length that the broker is away
    warnings.simplefilter("ignore", RuntimeWarning)
    options.out.mkdir(parents=True, exist_ok=True)
    found = asyncio.run(run(production, options.out))
    (options.out / "ledger.json").write_text(json.dumps(asdict(found), indent=2) + "\n")
    for name, count in asdict(found).items():
        print(f"{name.replace('_', '-'):12} {count:>9,}")
    print("verdict", "green" if found.passes else "RED")
    return 0 if found.passes else 1


if __name__ == "__main__":
    sys.exit(main())
