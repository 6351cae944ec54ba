"""An outbox on each database, filled by SQL in one transaction, and what empties it: relays, or the usual loop.

    relays wait ─> INSERT … SELECT, COMMIT (the clock starts) ─> relays, or the loop ─> broker ─> the last rows are gone

The broker has the one quorum queue of a cluster, without a consumer.
"""

import asyncio
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika
import sqlalchemy as sa
from msgspec.structs import replace

from invalidator.app import Outbox
from invalidator.operate.topology import declared
from invalidator.relay.database import engine_of
from invalidator.settings import LogSettings, OutboxSettings, Secret, Settings
from tests.benchmarks.contestants import WORKER
from tests.benchmarks.stage import StalledError
from tests.integration.shop import configuration, relay_process, settings_for
from tests.servers import Broker, Mariadb, Postgres

#: Databases, by the name of their dialect.
DATABASES = {"postgresql": "PostgreSQL", "mariadb": "MariaDB", "sqlite": "SQLite"}
#: A spread of events over entities -> SQL's expression for the entity of event n.
SPREADS = {"all distinct": "n", "200 entities": "n % 200", "one entity": "n * 0"}
DISTINCT = "all distinct"

#: The rows of events, by dialect: entity, body, message id, and the numbers n from 0 on.
_FILL = {
    "postgresql": (
        "CAST({entity} AS text)",
        """convert_to('{{"type":"product_updated","id":' || {entity} || '}}', 'UTF8')""",
        "md5(CAST(n AS text))",
        "generate_series(0, {last}) AS numbers(n)",
    ),
    "mariadb": (
        "CAST({entity} AS char)",
        """concat('{{"type":"product_updated","id":', {entity}, '}}')""",
        "md5(n)",
        "(SELECT seq AS n FROM seq_0_to_{last}) numbers",
    ),
    "sqlite": (
        "CAST({entity} AS text)",
        """CAST('{{"type":"product_updated","id":' || {entity} || '}}' AS blob)""",
        "printf('%032x', n)",
        "(WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < {last})"
        " SELECT n FROM numbers)",
    ),
}
#: Events that waiting relays publish first, so that they are connected, and seconds in which they share the shards.
WARM_UP, SHARING = 1000, 3.0
#: Rows at the end of the table that are looked for.
LAST = 2000
#: Seconds between two looks, and at most.
LOOK, WITHIN = 0.02, 900.0
#: Rows that the loop takes at a time.
LOOP_ROWS = 500


@dataclass(frozen=True)
class Place:
    """A vhost of its own with a cluster's queue, and an empty outbox."""

    settings: Settings
    engine: sa.Engine
    table: sa.Table
    folder: Path

    def fill(self, events: int, spread: str = DISTINCT) -> None:
        """Commit events in one transaction, and wake the relays as `Outbox.append` does."""
        *columns, numbers = _FILL[self.engine.dialect.name]
        entity, body, message = (column.format(entity=SPREADS[spread]) for column in columns)
        statement = (
            f"INSERT INTO {self.table.name} (entity, type, body, message_id, time, app_id)"
            f" SELECT {entity}, 'product_updated', {body}, {message}, CURRENT_TIMESTAMP, ''"
            f" FROM {numbers.format(last=events - 1)}"
        )
        with self.engine.begin() as connection:
            connection.execute(sa.text(statement))
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_notify(self.table.name, "")))

    def wait_until_empty(self) -> None:
        """Return once the last rows, which are published last, are gone."""
        id = self.table.c.id
        last = self._scalar(sa.select(sa.func.max(id)))
        # The first of them, by the index: PostgreSQL would count them by reading the whole table, on both cores.
        left = sa.select(id).where(id > last - LAST).order_by(id).limit(1)
        deadline = time.monotonic() + WITHIN
        while self._scalar(left):
            if time.monotonic() > deadline:
                first = self._scalar(sa.select(sa.func.min(id)))
                raise StalledError(f"the outbox is not emptied: rows {first} to {last} are left")
            time.sleep(LOOK)

    def assert_empty(self) -> None:
        """Read the whole table, which takes long where many rows were deleted."""
        assert not self._scalar(sa.select(sa.func.count()).select_from(self.table))

    def _scalar(self, query: sa.Select[Any]) -> int:
        with self.engine.connect() as connection:
            return int(connection.execute(query).scalar() or 0)


class Outboxes:
    """The servers."""

    def __init__(self, stack: ExitStack) -> None:
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.broker = stack.enter_context(Broker())
        # Commits survive a crash of the machine, as in production.
        self.postgres = stack.enter_context(Postgres("-c", "fsync=on"))
        mariadb = stack.enter_context(Mariadb("--innodb-flush-log-at-trx-commit=1"))
        self._urls = {
            "postgresql": self.postgres.add_database("shop"),
            "mariadb": mariadb.add_database("shop"),
            "sqlite": f"sqlite:///{self._folder}/shop.db",
        }
        self._places = 0

    @contextmanager
    def place(self, database: str) -> Iterator[Place]:
        self._places += 1
        vhost, folder = f"relay-{self._places}", self._folder / str(self._places)
        folder.mkdir()
        settings = settings_for(self.broker.add_vhost(vhost), {"c1": "127.0.0.1:11211"})
        asyncio.run(declared(settings))
        outbox = OutboxSettings(url=Secret(self._urls[database]), poll_interval=0.05)
        settings = replace(settings, outbox=outbox, log=LogSettings(level="error"))
        engine = engine_of(settings.outbox)
        table = Outbox().table
        table.create(engine)
        try:
            yield Place(settings, engine, table, folder)
        finally:
            table.drop(engine)
            engine.dispose()
            self.broker.delete_vhost(vhost)
            shutil.rmtree(folder)

    def relayed(self, database: str, events: int, spread: str = DISTINCT, *, relays: int = 1) -> float:
        """Return the events per second from a commit of all of them to an empty table."""
        with self.place(database) as place, ExitStack() as stack:
            for number in range(relays):
                (folder := place.folder / str(number)).mkdir()
                stack.enter_context(relay_process(place.settings, folder))
            place.fill(WARM_UP)
            place.wait_until_empty()
            if relays > 1:
                time.sleep(SHARING)
            return timed(place, events, spread, place.wait_until_empty)

    def looped(self, database: str, events: int) -> float:
        """Return the same of the usual loop."""
        with self.place(database) as place:
            return timed(place, events, DISTINCT, lambda: stock_loop(place))

    def from_file(self, events: int) -> float:
        """Return the events per second of `publish --from-file`: what a relay could reach without a database."""
        with self.place("sqlite") as place:
            file = place.folder / "events.jsonl"
            file.write_text("".join(f'{{"type":"product_updated","id":{number}}}\n' for number in range(events)))
            where = ["--from-file", str(file), "--config", str(configuration(place.settings, place.folder))]
            done = json.loads(subprocess.check_output([WORKER, "publish", "--output=json", *where]))
            return events / float(done["seconds"])


def timed(place: Place, events: int, spread: str, act: Callable[[], None]) -> float:
    place.fill(events, spread)
    began = time.monotonic()
    act()
    seconds = time.monotonic() - began
    place.assert_empty()
    return events / seconds


def stock_loop(place: Place) -> None:
    """Select rows for update skip locked, publish one by one, confirmed, delete, commit, until none is left."""
    table, broker = place.table, pika.BlockingConnection(pika.URLParameters(place.settings.broker.url))
    channel = broker.channel()
    channel.confirm_delivery()
    chosen = sa.select(table.c.id, table.c.body).order_by(table.c.id).limit(LOOP_ROWS)
    while True:
        with place.engine.begin() as connection:
            rows = connection.execute(chosen.with_for_update(skip_locked=True)).all()
            for _, body in rows:
                channel.basic_publish(place.settings.broker.exchange, "", body, mandatory=True)
            connection.execute(sa.delete(table).where(table.c.id.in_([row.id for row in rows])))
        if not rows:
            broker.close()
            return
