"""The log on the disk, and in it one key: `python -m tests.benchmarks.log_size --minutes 4`.

events, as fast as the broker takes them ─┬─> a log with a small limit: its bytes on the disk, all the time
                                          └─> a log that keeps all: the history of one key
"""

import argparse
import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from invalidator.broker.connection import close, connect, raw_channel
from invalidator.broker.topology import Topology
from invalidator.operate.event_log.history import history
from invalidator.settings import EventLogSettings, Settings
from tests.benchmarks import amqp
from tests.benchmarks.messages import Template, native
from tests.benchmarks.stage import Place, Stage
from tests.integration.shop import settings_for

#: Bytes that the small log may keep.
SMALL = 200_000_000
#: Events in one go; after each the broker has read all of them.
AT_ONCE = 100_000
#: The key of the seventh event of each of these.
KEY = "product:000000000007"
#: Seconds between two looks at the disk, and for the broker to roll its last segment.
LOOK, ROLL = 0.2, 5.0


def settings_at(place: Place, max_bytes: int) -> Settings:
    nodes = {f"c{number}": node for number, node in enumerate(place.nodes)}
    return settings_for(place.url, nodes, event_log=EventLogSettings(enabled=True, max_bytes=max_bytes))


class Disk:
    """The most bytes that the streams of a broker have had on the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.most = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def now(self) -> int:
        sizes = []
        for file in self._folder.glob("data/*/stream/**/*"):
            with contextlib.suppress(FileNotFoundError):  # a segment that was dropped a moment ago
                sizes.append(file.stat().st_size)
        return sum(sizes)

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(LOOK):
            self.most = max(self.most, self.now())


def published(place: Place, template: Template, *, seconds: float) -> int:
    """Publish for some time, and return the number of events."""
    events, until = 0, time.monotonic() + seconds
    with contextlib.closing(amqp.Connection(place.url)) as connection:
        while time.monotonic() < until:
            connection.publish(template.numbered(AT_ONCE))
            events += AT_ONCE
    return events


def lines(stage: Stage, *, minutes: float) -> Iterator[str]:
    """Measure, and yield a line for each figure."""
    with stage.place() as place:
        _declare_the_log(settings_at(place, SMALL))
        disk = Disk(stage.broker.folder)
        events = published(place, native(1), seconds=minutes * 30)
        time.sleep(ROLL)
        disk.close()
        yield (
            f"disk: {events:,} events into a log of {SMALL / 1e6:,.0f} MB: at most {disk.most / 1e6:,.0f} MB "
            f"({disk.most / SMALL:.2f} of it), {disk.now() / 1e6:,.0f} MB in the end"
        )
    with stage.place() as place:
        settings = settings_at(place, 50_000_000_000)
        _declare_the_log(settings)
        began = datetime.now(UTC)
        events = published(place, native(1), seconds=minutes * 30)
        took = datetime.now(UTC) - began
        for share in (0.1, 1.0):
            yield f"among {events:,} events, {_history(settings, datetime.now(UTC) - share * took)}"


def _history(settings: Settings, since: datetime) -> str:
    started = time.monotonic()
    found = asyncio.run(history(settings, KEY, since))
    seconds = time.monotonic() - started
    return f"history of one key since {since:%H:%M:%S}: {len(found.entries)} of it in {seconds:.1f} s"


def _declare_the_log(settings: Settings) -> None:
    """Declare the log alone: no cluster slows the publisher down."""

    async def declare() -> None:
        topology = Topology.of(settings)
        (queue,) = (queue for queue in topology.queues() if queue.name == topology.log)
        connection = await connect(settings.broker, name="bench")
        channel = await raw_channel(connection)
        await channel.queue_declare(queue.name, durable=True, arguments=queue.arguments)
        await channel.queue_bind(queue.name, topology.exchange)
        await close(connection)

    asyncio.run(declare())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=4.0)
    minutes = parser.parse_args().minutes
    with Stage() as stage:
        for line in lines(stage, minutes=minutes):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
