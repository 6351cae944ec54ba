"""The history of a key or an event, from the log of events and what workers announced."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

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
HOUR = timedelta(hours=1)


@pytest.fixture
def shell(vhost: str, broker: Broker, memcached: MemcachedFactory, tmp_path: Path) -> Shell:
    return Shell(settings_for(vhost, [memcached()], event_log=LOGGED), broker, tmp_path)


async def of(settings: Settings, wanted: str) -> History:
    return await history(settings, wanted, datetime.now(UTC) - HOUR)


def told(entries: Sequence[Entry]) -> list[tuple[str, str, list[str]]]:
    return [(entry.what, entry.id, entry.nodes) for entry in entries]


async def becomes(expected: list[tuple[str, str, list[str]]], settings: Settings, wanted: str) -> History:
    """Wait until this is told, and return it; announcements and debts take a moment."""
    found = await of(settings, wanted)
    for _ in range(100):
        if expected == told(found.entries):
            break
        await asyncio.sleep(0.1)
        found = await of(settings, wanted)
    assert expected == told(found.entries)
    return found


async def test_a_key_and_an_event_are_told_from_the_publish_to_every_eviction_parked_drained_and_healed(
    shell: Shell, broker: Broker, memcached: MemcachedFactory
) -> None:
    up, down = memcached(), memcached()
    shell.configure(settings := changed(shell.settings, "ring", nodes={"c1": up.address, "c2": down.address}))
    shop = Trial(settings, [up])
    first = [("event", "event-1", []), ("evicted", "event-1", [])]
    second = [("event", "event-2", []), ("parked", "event-2", ["c2"])]
    drained = [("drained", "", ["c2"])]
    third = [("event", "event-3", []), ("evicted", "event-3", [])]
    async with shop.working() as worker, publishing(shop.url) as publisher:
        await shop.is_logging()
        await publisher.raw(UPDATE, message_id="event-1", app_id="shop", timestamp=datetime.now(UTC))
        await becomes(first, settings, "product:1")
        down.stop()
        await publisher.raw(UPDATE, message_id="event-2", app_id="shop", timestamp=datetime.now(UTC))
        await becomes([*first, *second], settings, "product:1")
        down.start()
        await becomes([*first, *second, *drained], settings, "product:1")
        await becomes([*second, *drained], settings, "event-2")
        await delete_queue(broker, shell)
        await publisher.raw(UPDATE, message_id="event-3", app_id="shop", timestamp=datetime.now(UTC))
        found = await becomes([*first, *second, *drained, ("gap", "", []), *third], settings, "product:1")
    by = {entry.by for entry in found.entries if entry.what in ("evicted", "parked", "drained")}
    assert {f"eu.{socket.gethostname()}.{os.getpid()}"} == by
    assert [False, False, True] == [entry.healed for entry in found.entries if entry.what in ("evicted", "parked")]
    assert {"product:{id}"} == {rule for entry in found.entries for rule in entry.rules}
    print(found)
    shown = (await shell.run("history", "product:1")).stdout
    print(shown)
    print((await shell.run("history", "event-2")).stdout)


async def delete_queue(broker: Broker, shell: Shell) -> None:
    vhost = shell.settings.broker.url.rpartition("/")[2]
    await asyncio.to_thread(broker.api, "DELETE", f"/queues/{vhost}/{shell.topology.queue}")
