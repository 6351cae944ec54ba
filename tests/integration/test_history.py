"""The history of a key or an event, from the log of events and what workers announced."""

import asyncio
import json
import os
import socket
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aio_pika import Message

from invalidator.broker.messages import Announcement
from invalidator.broker.wire.timestamp import stamp
from invalidator.operate.event_log.entry import Entry
from invalidator.operate.event_log.history import History, history
from invalidator.settings import EventLogSettings, Settings
from tests.integration.aftermath import Trial
from tests.integration.conftest import MemcachedFactory
from tests.integration.shell import Shell
from tests.integration.shop import changed, publishing, settings_for
from tests.servers import Broker

LOGGED = EventLogSettings(enabled=True)
UPDATE = b'{"type": "product_updated", "id": 1}'
#: What an entry is, the event that it names, and the nodes.
Told = tuple[str, str, list[str]]
HOUR = timedelta(hours=1)


@pytest.fixture
def shell(vhost: str, broker: Broker, memcached: MemcachedFactory, tmp_path: Path) -> Shell:
    return Shell(settings_for(vhost, [memcached()], event_log=LOGGED), broker, tmp_path)


async def of(settings: Settings, wanted: str) -> History:
    return await history(settings, wanted, datetime.now(UTC) - HOUR)


def now() -> dict[str, Any]:
    """Return the time as our publishers do, in milliseconds: an eviction and the next event may be in one second."""
    return stamp(datetime.now(UTC))


def told(entries: Sequence[Entry]) -> list[Told]:
    return [(entry.what, entry.id, entry.nodes) for entry in entries]


async def becomes(expected: list[Told], settings: Settings, wanted: str) -> History:
    """Wait until this is told, and return it; announcements and debts take a moment."""
    found = await of(settings, wanted)
    for _ in range(100):
        if expected == told(found.entries):
            break
        await asyncio.sleep(0.1)
        found = await of(settings, wanted)
    assert expected == told(found.entries)
    return found


async def delete_queue(broker: Broker, shell: Shell, queue: str) -> None:
    vhost = shell.settings.broker.url.rpartition("/")[2]
    await asyncio.to_thread(broker.api, "DELETE", f"/queues/{vhost}/{queue}")


async def test_a_key_and_an_event_are_told_from_the_publish_to_every_eviction_parked_and_drained(
    shell: Shell, memcached: MemcachedFactory
) -> None:
    up, down = memcached(), memcached()
    shell.configure(settings := changed(shell.settings, "ring", nodes={"c1": up.address, "c2": down.address}))
    shop = Trial(settings, [up])
    first: list[Told] = [("event", "event-1", []), ("evicted", "event-1", [])]
    second = [("event", "event-2", []), ("parked", "event-2", ["c2"])]
    drained = [("drained", "", ["c2"])]
    async with shop.working(), publishing(shop.url) as publisher:
        await shop.is_logging()
        await publisher.raw(UPDATE, message_id="event-1", app_id="shop", headers=now())
        await becomes(first, settings, "product:1")
        down.stop()
        await publisher.raw(UPDATE, message_id="event-2", app_id="shop", headers=now())
        await becomes([*first, *second], settings, "product:1")
        down.start()
        found = await becomes([*first, *second, *drained], settings, "product:1")
        assert [*second, *drained] == told((await of(settings, "event-2")).entries)
    worker = f"eu.{socket.gethostname()}.{os.getpid()}"
    assert {worker} == {entry.by for entry in found.entries if entry.cluster}
    shown = [line.split(None, 2)[1:] for line in (await shell.run("history", "product:1")).stdout.splitlines()[1:]]
    assert [
        ["event", "product_updated by shop: product:{id}; event event-1"],
        ["evicted", f"on its nodes of eu, by {worker}; event event-1"],
        ["event", "product_updated by shop: product:{id}; event event-2"],
        ["parked", f"for c2, evicted on the other nodes of eu, by {worker}; event event-2"],
        ["drained", f"evicted on c2 of eu, too, by {worker}"],
    ] == shown
    explained = json.loads((await shell.run("explain", "--key", "product:1", "--history", "-o", "json")).stdout)
    assert told(found.entries) == [
        (entry["what"], entry.get("id", ""), entry.get("nodes", [])) for entry in explained["history"]["entries"]
    ]


async def test_the_events_of_a_key_are_named_whoever_published_them(shell: Shell) -> None:
    shop = Trial(shell.settings, [])
    await shop.declare()
    async with publishing(shop.url) as publisher:
        await publisher.update(1, 2)
        await publisher.raw(UPDATE, message_id="event-7", app_id="shop", timestamp=datetime.now(UTC))
    found = await of(shell.settings, "product:1")
    assert [("event", ""), ("event", "shop")] == [(entry.what, entry.by) for entry in found.entries]
    assert "event-7" == found.entries[1].id
    of_the_event = await shell.run("history", "event-7")
    assert "product:1, product:1:reviews, by product:{id}, product:{id}:reviews" in of_the_event.stdout
    nothing = await shell.run("history", "product:3")
    assert (0, True) == (nothing.returncode, "nothing touched it since" in nothing.stderr)


async def test_a_dead_letter_is_named_with_its_reason(shell: Shell) -> None:
    shop = Trial(shell.settings, [])
    shop.poison.append(b'{"type": "product_updated"}')
    async with shop.working(), publishing(shop.url) as publisher:
        await publisher.raw(shop.poison[0], message_id="event-8")
        await shop.becomes_ready(1, shop.topology.dead)
        found = await of(shell.settings, "event-8")
    assert ["poison", "dead letter"] == [entry.what for entry in found.entries]
    assert "missing-field" in found.entries[1].detail


async def test_an_event_that_no_worker_announces_is_named_and_so_is_what_cannot_be_read(
    shell: Shell, broker: Broker
) -> None:
    shop = Trial(shell.settings, [])
    await shop.declare()
    async with publishing(shop.url) as publisher:
        purged = await publisher.connection.channel()
        exchange = await purged.get_exchange("cache.purged", ensure=False)
        heartbeat = msgspec.json.encode(Announcement("eu", "eu.host.1.5f0a17c2", 1))
        await exchange.publish(Message(heartbeat, headers=stamp(datetime.now(UTC) - HOUR / 2)), "eu")
        await publisher.raw(UPDATE, message_id="event-9", headers=stamp(datetime.now(UTC) - HOUR / 4))
        told_once = await shell.run("history", "product:1")
        assert (0, True) == (told_once.returncode, "that it evicted this; no worker is running" in told_once.stdout)
        assert "announcements of evictions are kept since" in told_once.stderr
        await exchange.publish(Message(b"foreign"), "eu")
    unreadable = await shell.run("history", "product:1")
    assert (75, True) == (unreadable.returncode, "1 announcements that this version cannot read" in unreadable.stderr)
    assert "an announcement was lost since" in unreadable.stdout
    await delete_queue(broker, shell, shop.topology.evictions)
    without = await shell.run("history", "product:1", "-o", "json")
    found = json.loads(without.stdout)
    assert (75, ["event"]) == (without.returncode, [entry["what"] for entry in found["entries"]])
    assert "to make it: invalidator topology declare" in found["unread"][0]


async def test_a_log_that_is_younger_than_asked_for_says_when_it_begins(shell: Shell) -> None:
    shop = Trial(shell.settings, [])
    await shop.declare()
    async with publishing(shop.url) as publisher:
        await publisher.raw(UPDATE, headers=stamp(datetime.now(UTC) - HOUR))
    found = await shell.run("history", "product:1", "--from", "2h")
    assert (0, True) == (found.returncode, "the log of events begins at" in found.stderr)
