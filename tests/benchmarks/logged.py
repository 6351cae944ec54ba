"""The cost of the log, and the speed of reading it again: `python -m tests.benchmarks.logged`.

Everything is measured beside its counterpart, in turns, in one run: publishing with the log and without, and with the
log but without numbers, evicting from the queue and from the log, evicting from the queue while the log is read and
while it is not, and while it is compared with what publishers state.
"""

import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from invalidator.app import Publisher
from invalidator.broker.connection import close, connect
from invalidator.broker.declare import declare
from invalidator.broker.gaps import remember_gap
from invalidator.broker.publish.publisher import ConfirmedPublisher
from invalidator.broker.topology import Topology
from invalidator.operate.event_log.replay import asked_for, replayed
from invalidator.operate.publish import message_of, publish
from invalidator.settings import EventLogSettings, Settings
from tests.benchmarks import amqp
from tests.benchmarks.messages import native
from tests.benchmarks.stage import Place, Stage, fill
from tests.integration.shop import settings_for, worker_process

EVENTS, PUBLISHED, ONE_BY_ONE, ROUNDS = 100_000, 50_000, 500, 3
READ_EVERY = 0.01
BODY = b'{"type": "product_updated", "id": 1, "price": 109.99}'


def settings_at(place: Place, *, enabled: bool = True, rate: int = 1_000_000) -> Settings:
    nodes = {f"c{number}": node for number, node in enumerate(place.nodes)}
    log = EventLogSettings(enabled=enabled, rate=rate)
    settings = settings_for(place.url, nodes, memcached={"evict_on": "owner"}, event_log=log)
    asyncio.run(_declare(settings))
    return settings


async def _declare(settings: Settings) -> None:
    connection = await connect(settings.broker, name="bench")
    await declare(connection, Topology.of(settings))
    await close(connection)


def published(stage: Stage, *, enabled: bool, numbered: bool = True) -> tuple[float, float]:
    """Return events a second, many in flight, and the median milliseconds of publishing one by one."""
    with stage.place() as place:
        settings = settings_at(place, enabled=enabled)
        if enabled and not numbered:
            stage.broker.api("DELETE", f"/exchanges/{place.url.rpartition('/')[2]}/{settings.broker.log}")
        message = message_of(BODY, limit=1000)
        started = time.monotonic()
        asyncio.run(publish(settings, [message] * PUBLISHED, confirmed=lambda _: None))
        speed = PUBLISHED / (time.monotonic() - started)
        with Publisher(place.url) as publisher:
            times = [_timed(publisher) for _ in range(ONE_BY_ONE)]
    return speed, statistics.median(times) * 1000


def _timed(publisher: Publisher) -> float:
    started = time.perf_counter()
    publisher.publish("product_updated", {"id": 1})
    return time.perf_counter() - started


def evicted(stage: Stage, *, beside: bool) -> tuple[float, float]:
    """Return events a second from the queue, and from the log, read ``beside`` it at the usual rate, or after it."""
    with stage.place() as place:
        settings = settings_at(place, rate=EventLogSettings().rate if beside else 1_000_000)
        queue = Topology.of(settings).queue
        fill(place, queue, native(1), EVENTS)
        since = datetime.now(UTC) - timedelta(hours=1)
        if beside:
            asyncio.run(_ask(settings, since))
        with worker_process(settings, place.folder):
            live = EVENTS / _drained(place, queue)
            if beside:
                return live, 0.0
            healing = asyncio.run(replayed(settings, asked_for(since, datetime.now(UTC)), within=120)).healing
    assert healing
    assert healing.events == EVENTS
    return live, healing.events / healing.seconds


def tallied(stage: Stage, *, rate: int) -> float:
    """Return events a second from the queue, while the same events are read from the log at a rate."""
    with stage.place() as place:
        settings = settings_at(place, rate=rate)
        message = message_of(BODY, limit=1000)
        asyncio.run(publish(settings, [message] * EVENTS, confirmed=lambda _: None))
        with worker_process(settings, place.folder):
            return EVENTS / _drained(place, Topology.of(settings).queue)


async def _ask(settings: Settings, since: datetime) -> None:
    publisher = ConfirmedPublisher(lambda: settings.broker, name="bench")
    await remember_gap(publisher, Topology.of(settings), asked_for(since, datetime.now(UTC)))
    await publisher.close()


def _drained(place: Place, queue: str) -> float:
    """Return the seconds from the first delivery to the last."""
    with contextlib.closing(amqp.Connection(place.url)) as connection:
        while (ready := connection.ready(queue)) == EVENTS:
            time.sleep(READ_EVERY)
        first, started = ready, time.monotonic()
        while connection.ready(queue):
            time.sleep(READ_EVERY)
        return (time.monotonic() - started) * EVENTS / first


def lines(stage: Stage) -> Iterator[str]:
    """Measure, and yield a line for each figure: the medians of all rounds."""
    pairs = [(published(stage, enabled=False), published(stage, enabled=True)) for _ in range(ROUNDS)]
    (off, off_ms), (on, on_ms) = ((_median(pair[side] for pair in pairs)) for side in (0, 1))
    yield f"publishing: {off:,.0f} events/s without the log, {on:,.0f} with it: {on / off:.2f}"
    yield f"one by one: {off_ms:.2f} ms without the log, {on_ms:.2f} with it"
    both = [[published(stage, enabled=True, numbered=numbered) for numbered in (False, True)] for _ in range(ROUNDS)]
    (bare, bare_ms), (numbered, numbered_ms) = (_median(pair[side] for pair in both) for side in (0, 1))
    yield f"publishing: {bare:,.0f} events/s without numbers, {numbered:,.0f} with them: {numbered / bare:.2f}"
    yield f"one by one: {bare_ms:.2f} ms without numbers, {numbered_ms:.2f} with them"
    rates = [[tallied(stage, rate=rate) for rate in (1, EventLogSettings().rate)] for _ in range(ROUNDS)]
    alone, compared = (statistics.median(pair[side] for pair in rates) for side in (0, 1))
    yield f"from the queue while the log is compared: {compared:,.0f} events/s of {alone:,.0f}: {compared / alone:.2f}"
    rounds = [(evicted(stage, beside=False), evicted(stage, beside=True)) for _ in range(ROUNDS)]
    (live, replay), (beside, _) = ((_median(pair[side] for pair in rounds)) for side in (0, 1))
    yield f"evicting: {live:,.0f} events/s from the queue, {replay:,.0f} from the log: {replay / live:.2f}"
    yield f"from the queue while the log is read: {beside:,.0f} events/s: {beside / live:.2f}"


def _median(pairs: Iterator[tuple[float, float]]) -> tuple[float, float]:
    first, second = zip(*pairs, strict=True)
    return statistics.median(first), statistics.median(second)


if __name__ == "__main__":
    with Stage() as stage:
        for line in lines(stage):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
