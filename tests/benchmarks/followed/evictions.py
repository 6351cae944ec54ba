"""The time that a key lives on after a commit: by the follower, by the follower without its gate, by the outbox.

    COMMIT returns (the clock is read) ─> follower, or relay ─> broker ─> worker ─> a node looks the key up, notes when

All of them run all the time, and take turns of a second. Several connections commit on schedule, because one of them
would mostly wait for the disk.
"""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import msgspec
import sqlalchemy as sa

from invalidator.app import Event, Outbox
from invalidator.follow import setup
from invalidator.settings import OutboxSettings
from tests.benchmarks.followed.place import SCHEMA, Place, Servers, Times, milliseconds, rule_on, wait
from tests.benchmarks.latency import Watch, store

GATED, UNGATED, WITH_OUTBOX = "products", "products_ungated", "products_with_outbox"
WAYS = GATED, UNGATED, WITH_OUTBOX
CONNECTIONS = 4


def evictions(servers: Servers, *, rate: int, turns: int) -> dict[str, list[float]]:
    """Return milliseconds from COMMIT to eviction, by way. The first turn of each way does not count."""
    with servers.place(GATED, UNGATED) as place:
        start(place)
        events = rate * len(WAYS) * (1 + turns)
        store(servers.node, events)
        committed: dict[str, Times] = {way: {} for way in WAYS}
        with Watch([servers.node]) as watch, Application(place) as application:
            for turn, first in enumerate(range(0, events, rate)):
                way = WAYS[turn % len(WAYS)]
                times = application.commit(way, range(first, first + rate), rate=rate)
                committed[way] |= times if turn >= len(WAYS) else {}
            gone = watch.gone(events, copies=1)
    return {way: milliseconds(times, gone) for way, times in committed.items()}


def start(place: Place) -> None:
    """Start worker, relay and both followers; return once these have their slots."""
    place.sql(SCHEMA.format(WITH_OUTBOX))
    settings = msgspec.structs.replace(place.settings, outbox=OutboxSettings(url=place.settings.follow.url))
    ungated = msgspec.structs.replace(settings.follow, slot=f"{place.name}_ungated", publication="ungated")
    followers = {
        "": msgspec.structs.replace(settings, rule=[rule_on(GATED)]),
        "no-gate": msgspec.structs.replace(settings, rule=[rule_on(UNGATED)], follow=ungated),
    }
    for follower in followers.values():
        asyncio.run(setup.create(follower))
    processes = [place.start("worker"), place.start("relay", settings=settings)]
    processes += [place.start("follow", settings=each, sabotage=fault) for fault, each in followers.items()]
    wait(lambda: place.sql("SELECT count(*) FROM pg_replication_slots WHERE active") == "2", *processes)


class Application:
    """Connections that commit changes on schedule."""

    def __init__(self, place: Place) -> None:
        self._engine = sa.create_engine(place.url.replace("postgresql:", "postgresql+psycopg:"), pool_size=CONNECTIONS)
        self._outbox = Outbox()
        self._outbox.create(self._engine)

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self._stack.callback(self._engine.dispose)
        self._threads = self._stack.enter_context(ThreadPoolExecutor(CONNECTIONS))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def commit(self, way: str, numbers: Sequence[int], *, rate: int) -> Times:
        """Commit a change for each number, `rate` a second; return when each COMMIT returned."""
        began, times = time.monotonic(), dict[int, float]()

        def commit_part(part: int) -> None:
            with self._engine.connect() as connection:
                for place in range(part, len(numbers), CONNECTIONS):
                    time.sleep(max(0.0, began + place / rate - time.monotonic()))
                    self._change(connection, way, f"{numbers[place]:012}")
                    connection.commit()
                    times[numbers[place]] = time.time()

        list(self._threads.map(commit_part, range(CONNECTIONS)))
        return times

    def _change(self, connection: sa.Connection, way: str, id: str) -> None:
        connection.execute(sa.text(f"INSERT INTO {way} VALUES (:id, 109.90, 'a product')"), {"id": id})
        if way == WITH_OUTBOX:
            self._outbox.append(connection, Event("product_updated", {"id": id}))
