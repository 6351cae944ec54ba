"""The cost of one key's history among many events: `python -m tests.benchmarks.history --events 400000`.

    events ─> the log           ─┐
    their announcements ─> ….evictions ─┴─> history of one key, with the sieve and without it, in turns

CPU seconds of this process and of the servers are per 100,000 events, and hardly depend on what else the machine does.
The seconds that it takes do.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from unittest import mock

import msgspec
from pamqp import commands

from invalidator.broker.connection import close, connect
from invalidator.broker.declare import declare
from invalidator.broker.messages import Announcement
from invalidator.broker.topology import Topology
from invalidator.broker.wire.timestamp import stamp
from invalidator.events.sieve import Sieve
from invalidator.operate.event_log.history import history
from invalidator.settings import EventLogSettings, Settings
from tests.benchmarks import amqp
from tests.benchmarks.messages import native
from tests.benchmarks.stage import Place, Stage
from tests.integration.shop import settings_for

AT_ONCE, ANNOUNCED, ROUNDS = 100_000, 100, 3
KEY = "product:000000000007"


class Cost(NamedTuple):
    """The cost of one history."""

    seconds: float
    #: CPU seconds per 100,000 events, of this process and of the servers.
    cpu: float
    server_cpu: float


def lines(stage: Stage, events: int) -> Iterator[str]:
    """Measure, and yield a line for each figure: medians of some rounds."""
    with stage.place() as place:
        settings = _settings(place)
        asyncio.run(_declare(settings))
        _fill(place, settings, events)
        rounds = [(_cost(stage, settings, events, sieve=False), _cost(stage, settings, events)) for _ in range(ROUNDS)]
    for name, costs in zip(("decoding every event", "with the sieve"), zip(*rounds, strict=True), strict=True):
        seconds, cpu, server_cpu = (statistics.median(column) for column in zip(*costs, strict=True))
        yield (
            f"history of one key among {events:,} events, {name}: {seconds:.1f} s, "
            f"{cpu:.2f} CPU s per 100,000 events, and {server_cpu:.2f} of the servers"
        )


def _cost(stage: Stage, settings: Settings, events: int, *, sieve: bool = True) -> Cost:
    patched = contextlib.nullcontext() if sieve else mock.patch.object(Sieve, "passes", _anything)
    with patched:
        began, cpu, server_cpu = time.monotonic(), time.process_time(), stage.server_cpu()
        found = asyncio.run(history(settings, KEY, datetime.now(UTC) - timedelta(hours=1)))
        costs = time.process_time() - cpu, stage.server_cpu() - server_cpu
        seconds = time.monotonic() - began
    assert ["event", "evicted"] == [entry.what for entry in found.entries]
    assert not found.unread
    return Cost(seconds, *(cost * 100_000 / events for cost in costs))


def _anything(*_: object) -> bool:
    return True


def _settings(place: Place) -> Settings:
    nodes = {f"c{number}": node for number, node in enumerate(place.nodes)}
    return settings_for(place.url, nodes, event_log=EventLogSettings(enabled=True))


async def _declare(settings: Settings) -> None:
    connection = await connect(settings.broker, name="bench")
    await declare(connection, Topology.of(settings))
    await close(connection)


def _fill(place: Place, settings: Settings, events: int) -> None:
    topology = Topology.of(settings)
    with contextlib.closing(amqp.Connection(place.url)) as connection:
        connection.call(
            commands.Queue.Unbind(queue=topology.queue, exchange=topology.exchange, routing_key=""),
            commands.Queue.UnbindOk,
        )
        for start in range(0, events, AT_ONCE):
            connection.publish(native(1).numbered(min(AT_ONCE, events - start), start=start))
        connection.publish(_announcements(topology, events))


def _announcements(topology: Topology, events: int) -> Iterator[bytes]:
    properties = commands.Basic.Properties(content_type="application/json", headers=stamp(datetime.now(UTC)))
    for number, start in enumerate(range(0, events, ANNOUNCED), 1):
        ids = [f"{product:012d}" for product in range(start, start + ANNOUNCED)]
        body = Announcement(
            topology.cluster,
            "eu.host.1.5f0a17c2",
            number,
            [f"product:{id}{more}" for id in ids for more in ("", ":reviews")],
            [f"5f0c8a52-19cd-4b0e-9a61-{id}" for id in ids],
        )
        encoded = msgspec.json.encode(body)
        yield amqp.message(properties, encoded, exchange=topology.purged, routing_key=topology.cluster)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=400_000)
    asked = parser.parse_args().events
    with Stage() as stage:
        for line in lines(stage, asked):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
