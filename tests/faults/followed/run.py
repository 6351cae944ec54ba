"""`dev faults followed`: writers of every kind, a follower that is killed, and each change accounted for.

    writers ─> PostgreSQL ─> follower ─> RabbitMQ ─┬─> worker ─> memcached <─ readers
                                                   └─> witness: each event, and does a new read see its change?

Exit status 0 if every committed change was published and evicted, nothing else was, and no event came early.
"""

import argparse
import asyncio
import json
import logging
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import psycopg

from invalidator.follow import setup
from invalidator.operate.topology import declared
from invalidator.settings import FollowSettings, RuleSettings, Secret, Settings
from tests.faults.cast import Worker as Process
from tests.faults.followed import sabotage
from tests.faults.followed.account import Account, Change, Seen, account
from tests.faults.followed.readers import Reader, stale
from tests.faults.followed.witness import QUEUE, Witness
from tests.faults.followed.writers import SCHEMA, Writer
from tests.integration.shop import configuration, settings_for
from tests.servers import Broker, Memcached, Postgres, ServerError

ROOT = Path(__file__).parents[3]
WRITERS, READERS = 3, 3
DATABASE = "shop"
#: Seconds that the broker hangs before it is killed, so that events are in flight and statuses are sent.
HANGS = 1.5
#: Seconds that the synchronous standby does not answer.
STALL = 0.4
#: Seconds without a new event, after which what is missing is lost.
QUIET_SECONDS = 15.0
#: Arguments of the server: a transaction that waits for a standby is committed, and nobody sees it yet.
SERVER = ("-c", "wal_level=logical", "-c", "max_wal_size=128MB")


@dataclass(frozen=True)
class Production:
    """The size of a run."""

    seed: int = 1
    changes: int = 100_000
    follower_kills: int = 50
    broker_kills: int = 5
    database_stops: int = 3
    stalls: int = 30
    #: Changes a second.
    rate: float = 600.0
    sabotage: str = ""

    def schedule(self) -> list[tuple[int, str]]:
        """Return the faults: each with the number of changes after which it happens."""
        chance = random.Random(self.seed)
        kinds = ["follower"] * self.follower_kills + ["broker"] * self.broker_kills
        kinds += ["database"] * self.database_stops + ["stall"] * self.stalls
        chance.shuffle(kinds)
        return [(self.changes * (number + 1) // (len(kinds) + 1), kind) for number, kind in enumerate(kinds)]


class Stage:
    """The servers and processes of a run; the servers are started by the caller."""

    def __init__(
        self, production: Production, broker: Broker, url: str, database: Postgres, node: Memcached, folder: Path
    ) -> None:
        self._production = production
        self._broker = broker
        self._database = database
        self._node = node
        self._settings = _settings(url, node, database)
        self._witness = Witness(url, self._settings.broker.exchange, database.url(DATABASE))
        of = range(WRITERS)
        self._writers = [
            Writer(database, DATABASE, number=n, of=WRITERS, seed=production.seed, rate=production.rate) for n in of
        ]
        self._readers = [Reader(node, database, DATABASE, seed=n) for n in range(READERS)]
        config = str(configuration(self._settings, folder))
        way = ["-m", "tests.faults.followed.sabotage", production.sabotage] if production.sabotage else []
        self._follower = Process(
            0, [sys.executable, *(way or ["-m", "invalidator"]), "follow", "--config", config], folder
        )
        self._worker = Process(1, [sys.executable, "-m", "invalidator", "worker", "--config", config], folder)
        self._started = time.monotonic()

    async def play(self) -> Account:
        """Run from the first change to the account."""
        await self._set_up()
        async with AsyncExitStack() as stack:
            for process in (self._worker, self._follower):
                process.start()
                stack.push_async_callback(process.stop)
            self._witnessing = asyncio.create_task(self._witness.run())
            stack.push_async_callback(self._witness.close)
            stack.callback(self._witnessing.cancel)
            for writer in self._writers:
                writer.start()
            for reader in self._readers:
                reader.start()
            try:
                for after, kind in self._production.schedule():
                    await self._reached(after)
                    self._say(kind)
                    await self._strike(kind)
                    await self._moves()
                await self._reached(self._production.changes)
            finally:
                for writer in self._writers:
                    await asyncio.to_thread(writer.stop)
            self._say("all changes are committed; waiting for the rest")
            committed = await asyncio.to_thread(self._committed)
            await self._drained(committed)
            for reader in self._readers:
                await asyncio.to_thread(reader.stop)
            old = stale(self._node, self._database, DATABASE)
        rolled_back = sum(writer.rolled_back for writer in self._writers)
        seen = self._witness
        return account(
            Seen(committed, seen.events, seen.repeated, seen.renamed, seen.early, old, seen.gaps, rolled_back)
        )

    async def _set_up(self) -> None:
        self._database.add_database(DATABASE)
        with psycopg.connect(self._database.url(DATABASE), autocommit=True) as connection:
            connection.execute(SCHEMA)
        await declared(self._settings)
        await self._witness.declare()
        await setup.create(self._settings)

    async def _strike(self, kind: str) -> None:
        match kind:
            case "follower":
                self._follower.kill()
            case "broker":
                self._broker.pause()
                await asyncio.sleep(HANGS)
                self._broker.kill()
                await asyncio.to_thread(self._broker.start)
            case "database":
                # A recovered slot stands where the last checkpoint left it, and must not heal what was lost before.
                await asyncio.to_thread(self._database.sql, "CHECKPOINT")
                await asyncio.to_thread(self._database.crash)
                await asyncio.to_thread(self._database.start)
            case "stall":
                await asyncio.to_thread(self._standby, "nobody")
                await asyncio.sleep(STALL)
                await asyncio.to_thread(self._standby, "")

    async def _moves(self) -> None:
        """Return once events come again, so that the next fault hits a follower that works."""
        before, deadline = len(self._witness.events), time.monotonic() + QUIET_SECONDS
        while len(self._witness.events) < before + WRITERS and time.monotonic() < deadline:
            await asyncio.sleep(0.05)

    def _standby(self, name: str) -> None:
        """Let commits wait for a synchronous standby of this name, or for none."""
        self._database.sql(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
        self._database.sql("SELECT pg_reload_conf()")

    async def _reached(self, changes: int) -> None:
        while await asyncio.to_thread(self._count) < changes:
            if failed := [writer.failure for writer in self._writers if writer.failure]:
                raise failed[0]
            if self._witnessing.done():
                self._witnessing.result()
            await asyncio.sleep(0.1)

    def _count(self) -> int:
        try:
            return int(self._database.sql("SELECT count(*) FROM history", database=DATABASE))
        except ServerError:
            return 0

    def _committed(self) -> list[Change]:
        with psycopg.connect(self._database.url(DATABASE)) as connection:
            rows = connection.execute("SELECT op, product, change FROM history").fetchall()
        return [Change(*row) for row in rows]

    async def _drained(self, committed: Sequence[Change]) -> None:
        """Return once every change was seen, and the worker has settled all, or once nothing comes any more."""
        wanted, moved = set(committed), time.monotonic()
        seen = -1
        while not wanted <= set(self._witness.events.values()):
            if seen != (seen := len(self._witness.events)):
                moved = time.monotonic()
            if time.monotonic() - moved > QUIET_SECONDS:
                return
            await asyncio.sleep(0.1)
        await self._until_settled()

    async def _until_settled(self) -> None:
        queue = f"{self._settings.broker.prefix}.{self._settings.cluster}"
        deadline = time.monotonic() + QUIET_SECONDS
        while time.monotonic() < deadline:
            listed = await asyncio.to_thread(
                self._broker.ctl, "list_queues", "-q", "-p", self._vhost, "name", "messages"
            )
            counts = dict(line.split() for line in listed.splitlines() if line.startswith((queue, QUEUE)))
            if counts.get(queue) == "0":
                return
            await asyncio.sleep(0.1)

    @property
    def _vhost(self) -> str:
        return self._settings.broker.url.rpartition("/")[2].replace("%2F", "/") or "/"

    def _say(self, text: str) -> None:
        seconds, events = time.monotonic() - self._started, len(self._witness.events)
        print(f"{seconds:7.1f} s  {events:>9,} events  {text}", flush=True)


def _settings(url: str, node: Memcached, database: Postgres) -> Settings:
    return msgspec.structs.replace(
        settings_for(url, [node]),
        follow=FollowSettings(url=Secret(database.url(DATABASE))),
        rule=[RuleSettings(on="changed:public.products", evict=["product:{id}"])],
    )


async def run(production: Production, folder: Path) -> Account:
    """Start the servers, play once, and return the account; the logs stay in the folder."""
    with tempfile.TemporaryDirectory(prefix="invalidator-followed-") as scratch:
        async with AsyncExitStack() as stack:
            servers = Broker(Path(scratch) / "broker"), Postgres(*SERVER), Memcached()
            for server in servers:
                stack.enter_context(server)
            broker, database, node = servers
            return await Stage(production, broker, broker.url(), database, node, folder).play()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="dev faults followed", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of writers and schedule")
    parser.add_argument("--changes", type=int, default=Production.changes)
    parser.add_argument(
        "--sabotage", choices=sorted(sabotage.KINDS), default="", help="a follower with a fault built in"
    )
    parser.add_argument("--out", type=Path, default=ROOT / ".dev" / "faults" / "followed", help="folder for logs")
    options = parser.parse_args(arguments)
    parts: Callable[[int], int] = lambda full: max(1, full * options.changes // Production.changes)  # noqa: E731
    production = Production(
        options.seed,
        options.changes,
        follower_kills=parts(Production.follower_kills),
        broker_kills=parts(Production.broker_kills),
        database_stops=parts(Production.database_stops),
        stalls=parts(Production.stalls),
        sabotage=options.sabotage,
    )
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
