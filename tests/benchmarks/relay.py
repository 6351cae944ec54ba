"""The speed of the relay, beside a stock loop and `publish --from-file`, on three databases.

    rows in the outbox ─> the relay, or the loop ─> broker (one quorum queue, no consumer) ─> rows gone

A round measures each of them once, in an order that differs by round. The loop is the usual one: select 500 rows for
update skip locked, publish one by one with a confirm each, delete, commit. `small` and `large` are the numbers of
waiting events, so that the report tells whether the cost of an event grows with them.

    .venv/bin/python -m tests.benchmarks.relay [--small N] [--large N] [--rounds N] [--only NAME]
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pika
import sqlalchemy as sa

from invalidator.app import Event, Outbox
from invalidator.operate.topology import declared
from invalidator.relay.database import engine_of
from invalidator.relay.relay import Relay
from invalidator.settings import OutboxSettings, Secret, Settings
from tests.benchmarks.contestants import WORKER
from tests.integration.shop import configuration, settings_for
from tests.servers import Broker, Mariadb, Postgres

#: Spread of entities -> the entity of the event with a number.
SPREADS: dict[str, Callable[[int], int]] = {"distinct": int, "200": lambda number: number % 200, "one": lambda _: 0}
#: Rows that the loop takes at a time, and the number that it has to publish, since it is slow.
LOOP_ROWS, LOOP_EVENTS = 500, 3000

#: A name -> events per second.
Speeds = dict[str, list[float]]


class Timed(Relay):
    """A relay that notes when it has deleted its first events, and stops when the rest is deleted too."""

    def measure(self, events: int) -> float:
        """Run until the events are gone; return the events per second after the first deletion."""
        self._left, self._began, self._stopping = events, 0.0, asyncio.Event()
        asyncio.run(self.run(self._stopping))
        return self._rest_of / (time.monotonic() - self._began)

    def _relayed(self, count: int) -> None:
        super()._relayed(count)
        self._left -= count
        if count and not self._began:
            self._began, self._rest_of = time.monotonic(), self._left
        if self._left <= 0:
            self._stopping.set()


class Ends:
    """The servers, and what is measured on them."""

    def __init__(self, stack: ExitStack) -> None:
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self._broker = stack.enter_context(Broker())
        postgres = stack.enter_context(Postgres("-c", "fsync=on"))
        mariadb = stack.enter_context(Mariadb("--innodb-flush-log-at-trx-commit=1"))
        self.databases = {
            "postgresql": postgres.add_database("shop"),
            "mariadb": mariadb.add_database("shop"),
            "sqlite": f"sqlite:///{self._folder}/shop.db",
        }
        self._places = 0

    def relay(self, database: str, spread: str, events: int) -> float:
        settings = self._settings(database)
        with Filled(settings, spread, events):
            return Timed(settings).measure(events)

    def loop(self, database: str) -> float:
        settings = self._settings(database)
        with Filled(settings, "distinct", LOOP_EVENTS) as engine:
            began = time.monotonic()
            stock_loop(engine, settings)
            return LOOP_EVENTS / (time.monotonic() - began)

    def from_file(self, events: int) -> float:
        settings = self._settings("postgresql")
        file = self._folder / "events.jsonl"
        file.write_text("".join(f'{{"type": "product_updated", "id": {number}}}\n' for number in range(events)))
        where = ["--from-file", str(file), "--config", str(configuration(settings, self._folder))]
        done = json.loads(subprocess.check_output([WORKER, "publish", "--output=json", *where]))
        return events / float(done["seconds"])

    def _settings(self, database: str) -> Settings:
        """Return the settings of a vhost of its own, with the queue of a cluster."""
        self._places += 1
        settings = settings_for(self._broker.add_vhost(f"relay-{self._places}"), {"c1": "127.0.0.1:11211"})
        asyncio.run(declared(settings))
        return msgspec.structs.replace(settings, outbox=OutboxSettings(url=Secret(self.databases[database])))


class Filled:
    """An outbox that holds events, dropped at the end."""

    def __init__(self, settings: Settings, spread: str, events: int) -> None:
        self._engine = engine_of(settings.outbox)
        self._outbox = Outbox()
        self._entity, self._events = SPREADS[spread], events

    def __enter__(self) -> sa.Engine:
        self._outbox.create(self._engine)
        events = (Event("product_updated", {"id": self._entity(number)}) for number in range(self._events))
        with self._engine.begin() as connection:
            self._outbox.append_many(connection, events)
        return self._engine

    def __exit__(self, *_: object) -> None:
        self._outbox.table.drop(self._engine)
        self._engine.dispose()


def stock_loop(engine: sa.Engine, settings: Settings) -> None:
    table, broker = Outbox().table, pika.BlockingConnection(pika.URLParameters(settings.broker.url))
    channel = broker.channel()
    channel.confirm_delivery()
    chosen = sa.select(table.c.id, table.c.body).order_by(table.c.id).limit(LOOP_ROWS)
    while True:
        with engine.begin() as connection:
            rows = connection.execute(chosen.with_for_update(skip_locked=True)).all()
            for _, body in rows:
                channel.basic_publish(settings.broker.exchange, "", body, mandatory=True)
            connection.execute(sa.delete(table).where(table.c.id.in_([row.id for row in rows])))
        if not rows:
            broker.close()
            return


def measurements(ends: Ends, small: int, large: int) -> Iterator[tuple[str, Callable[[], float]]]:
    yield "publish --from-file", lambda: ends.from_file(small)
    for database in ends.databases:
        yield f"{database}, stock loop", lambda database=database: ends.loop(database)  # type: ignore[misc]
        for spread in SPREADS:
            yield (
                f"{database}, {spread}",
                lambda database=database, spread=spread: ends.relay(database, spread, small),  # type: ignore[misc]
            )
        yield f"{database}, distinct, large", lambda database=database: ends.relay(database, "distinct", large)  # type: ignore[misc]


def measured(small: int, large: int, rounds: int, only: list[str]) -> Speeds:
    speeds: Speeds = {}
    with ExitStack() as stack:
        ends = Ends(stack)
        for round in range(rounds):
            for name, act in list(measurements(ends, small, large))[:: 1 if round % 2 else -1]:
                if not only or any(word in name for word in only):
                    speeds.setdefault(name, []).append(act())
                    print(f"{name}: {speeds[name][-1]:,.0f} events/s", flush=True)
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=20_000)
    parser.add_argument("--large", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", default=[], metavar="WORDS", help="only names that contain them")
    options = parser.parse_args()
    speeds = measured(options.small, options.large, options.rounds, options.only)
    floor = statistics.median(speeds.get("publish --from-file", [0]))
    print(f"\nmedians of {options.rounds} rounds, {options.small:,} events waiting, {options.large:,} if large")
    for name, figures in sorted(speeds.items()):
        middle = statistics.median(figures)
        share = f", {middle / floor:.2f} of publish --from-file" if floor else ""
        print(f"{name:32} {middle:10,.0f} events/s{share}")


if __name__ == "__main__":
    main()
