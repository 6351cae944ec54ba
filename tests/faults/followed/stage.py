"""The servers and processes of a run, from the first change to the account."""

import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import psycopg

from invalidator.follow import setup
from invalidator.operate.topology import declared
from invalidator.settings import FollowSettings, OutboxSettings, RuleSettings, Secret, Settings
from tests.faults.cast import Worker as Process
from tests.faults.followed.account import HOOKED, Account, Change, Seen, account
from tests.faults.followed.django_writer import ORM, DjangoWriter, set_up_django
from tests.faults.followed.production import Production
from tests.faults.followed.readers import Reader, stale
from tests.faults.followed.witness import QUEUE, Witness
from tests.faults.followed.writers import SCHEMA, Writer
from tests.integration.shop import configuration, settings_for
from tests.servers import Broker, Memcached, Postgres, ServerError

DATABASE = "shop"
WRITERS = Writer, Writer, Writer, DjangoWriter
#: Seconds that the broker hangs before it is killed, so that events are in flight and statuses are sent.
HANGS = 1.5
#: Seconds that the synchronous standby does not answer.
STALL = 0.4
#: Seconds without a new event, after which what is missing is lost.
QUIET_SECONDS = 15.0


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
        self._writers = [
            kind(database, DATABASE, number=n, of=len(WRITERS), seed=production.seed, rate=production.rate)
            for n, kind in enumerate(WRITERS)
        ]
        self._readers = [Reader(node, database, DATABASE, seed=n) for n in range(production.readers)]
        config = str(configuration(self._settings, folder))
        way = ["-m", "tests.faults.followed.sabotage", production.sabotage] if production.sabotage else []
        self._follower = Process(
            0, [sys.executable, *(way or ["-m", "invalidator"]), "follow", "--config", config], folder
        )
        self._worker = Process(1, [sys.executable, "-m", "invalidator", "worker", "--config", config], folder)
        self._relay = Process(2, [sys.executable, "-m", "invalidator", "relay", "--config", config], folder)
        self._started = time.monotonic()

    async def play(self) -> Account:
        """Run from the first change to the account."""
        await self._set_up()
        async with AsyncExitStack() as stack:
            for process in (self._worker, self._follower, self._relay):
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
                await self._moves()  # a broker that is killed at once may lose the queues that were just declared
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
            committed, by_django = await asyncio.to_thread(self._committed)
            await self._drained(committed, by_django)
            for reader in self._readers:
                await asyncio.to_thread(reader.stop)
            old = stale(self._node, self._database, DATABASE)
        return account(
            Seen(
                committed,
                self._witness.events,
                repeated=self._witness.repeated,
                renamed=self._witness.renamed,
                early=self._witness.early,
                stale=old,
                gaps=self._witness.gaps,
                rolled_back=sum(writer.rolled_back for writer in self._writers),
                by_django=by_django,
                hooked=self._witness.hooked,
            )
        )

    async def _set_up(self) -> None:
        self._database.add_database(DATABASE)
        with psycopg.connect(self._database.url(DATABASE), autocommit=True) as connection:
            connection.execute(SCHEMA)
        await asyncio.to_thread(set_up_django, self._database, DATABASE)
        await declared(self._settings)
        await self._witness.declare()
        await setup.create(self._settings)

    async def _strike(self, kind: str) -> None:
        match kind:
            case "follower":
                self._follower.kill()
            case "relay":
                self._relay.kill()
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
        while len(self._witness.events) < before + len(WRITERS) and time.monotonic() < deadline:
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

    def _committed(self) -> tuple[list[Change], list[Change]]:
        """Return all committed changes, and those of Django's ORM."""
        with psycopg.connect(self._database.url(DATABASE)) as connection:
            rows = connection.execute("SELECT op, product, change, writer FROM history").fetchall()
        return [Change(*row) for *row, _ in rows], [Change(*row) for *row, writer in rows if writer == ORM]

    async def _drained(self, committed: Sequence[Change], by_django: Sequence[Change]) -> None:
        """Return once every change was seen, and the worker has settled all, or once nothing comes any more."""
        wanted, moved = set(committed), time.monotonic()
        seen = (-1, -1)
        while len(self._witness.hooked) < len(by_django) or not wanted <= set(self._witness.events.values()):
            if seen != (seen := (len(self._witness.events), len(self._witness.hooked))):
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
        outbox=OutboxSettings(url=Secret(database.url(DATABASE))),
        rule=[RuleSettings(on=type, evict=["product:{id}"]) for type in ("changed:public.products", HOOKED)],
    )
