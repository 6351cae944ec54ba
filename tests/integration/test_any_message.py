"""Any message that RabbitMQ lets through: good events are evicted, all others are dead letters that can be handled."""

import asyncio
import json
import struct
from collections import Counter
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest

from invalidator.app.near.listener import listen
from invalidator.broker.connection import close, connect, raw_channel
from invalidator.broker.declare import declare
from invalidator.broker.messages import Announcement
from invalidator.broker.topology import Topology
from invalidator.operate.dead_letters import Filter, dead_letters
from invalidator.operate.tail import Interpreter, passing
from invalidator.settings import RuleSettings, Settings
from tests.integration import anything
from tests.integration.aftermath import fill, held
from tests.integration.anything import Anything, Message, Raw
from tests.integration.conftest import MemcachedFactory
from tests.integration.shell import Shell
from tests.integration.shop import eventually, publishing, settings_for, working
from tests.servers import Broker, Memcached

NANOSECONDS = struct.pack(">Q", 1_779_000_000_000_000_000)
#: RabbitMQ's default.
FRAME_MAX = 131_072
#: Properties of which only the timestamp is set.
ON_ITS_OWN = struct.pack(">H", 1 << 6) + NANOSECONDS


async def publish(settings: Settings, messages: list[Message]) -> None:
    connection = await connect(settings.broker, name="shop")
    channel = await raw_channel(connection, confirms=True)
    await anything.publish(channel, messages, exchange=settings.broker.exchange)
    await close(connection)


async def handled(settings: Settings, node: Memcached, messages: list[Message]) -> None:
    """Publish the messages to a worker; return once every product is evicted and all others are dead letters."""
    keys = [f"product:{one.product}" for one in messages if one.product is not None]
    fill(node, keys)
    async with working(settings) as worker, publishing(settings.broker.url) as shop:
        await publish(settings, messages)
        await eventually(lambda: not held(node, keys), within=120.0, every=0.1)
        await shop.settled(Topology.of(settings), within=60.0)
        assert worker.status() == "consuming"
        while await shop.ready(Topology.of(settings).dead) < len(messages) - len(keys):
            await asyncio.sleep(0.05)


async def reasons(settings: Settings) -> Counter[str]:
    """Return the reasons of all dead letters, each of which is described on the way, as `dead show` does."""
    counts: Counter[str] = Counter()
    async with dead_letters(settings) as letters:
        async for letter, cause in letters.matching(Filter(), advance=lambda: None):
            counts[cause.reason] += 1
            json.dumps([letter.id, letter.type, str(letter.headers), str(letter.died_at), letter.unreadable])
    return counts


async def any_messages(settings: Settings, node: Memcached, count: int) -> None:
    messages = Anything(seed=12).messages(count)
    bad = sum(one.product is None for one in messages)
    await handled(settings, node, messages)
    found = await reasons(settings)
    assert {"not-json", "missing-field", "unknown-encoding"} >= found.keys()
    assert bad == found.total()
    async with dead_letters(settings) as letters:
        assert bad == sum([was_event async for was_event in letters.replay(Filter(), rate=None, advance=lambda: None)])
    assert Counter() == await reasons(settings)
    async with working(settings), publishing(settings.broker.url) as shop:
        while await shop.ready(Topology.of(settings).dead) < bad:
            await asyncio.sleep(0.05)
    assert found == await reasons(settings), "they died again, of the same reasons"


@pytest.mark.usefixtures("intake")
async def test_any_message_is_evicted_or_a_dead_letter_that_can_be_shown_and_replayed(
    vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    await any_messages(settings_for(vhost, [node]), node, 300)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("intake")
async def test_ten_thousand_messages_of_any_kind_are_evicted_or_dead_letters(
    vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    await any_messages(settings_for(vhost, [node]), node, 10_000)


async def test_tail_shows_any_message_and_goes_on(vhost: str, memcached: MemcachedFactory) -> None:
    settings, interpreter = settings_for(vhost, [memcached()]), Interpreter(settings_for(vhost, []))
    messages = [*Anything(seed=13).messages(200), Message(b'{"type":"the_last"}', Raw(ON_ITS_OWN), None)]
    async with working(settings):
        stream = passing(settings)
        first = asyncio.ensure_future(anext(stream))
        while not first.done():  # the queue of `tail` is there once it receives something
            await publish(settings, messages[:1])
            await asyncio.wait({first}, timeout=0.05)
        await publish(settings, messages)
        seen = [interpreter.interpret(first.result())]
        async with aclosing(stream):
            async for delivery in stream:
                seen.append(interpreter.interpret(delivery))
                if delivery.body == messages[-1].body:
                    break
    assert len(seen) >= len(messages)
    assert {"event", "poison"} == {one.what for one in seen if one}


@pytest.mark.usefixtures("intake")
async def test_headers_that_fill_a_frame_leave_no_room_for_a_reason_and_are_a_dead_letter_all_the_same(
    vhost: str, memcached: MemcachedFactory
) -> None:
    node, size = memcached(), FRAME_MAX - 100
    table = b"\x01xS" + struct.pack(">L", size) + b"x" * size
    full = Raw(struct.pack(">HL", 1 << 13, len(table)) + table)
    good = Anything(seed=14).messages(40)
    await handled(
        settings := settings_for(vhost, [node]), node, [*good[:20], Message(b"no JSON", full, None), *good[20:]]
    )
    bad = sum(one.product is None for one in good)
    # The frame that is too large ends the publishing connection, and a dead letter in flight on it may be stored twice.
    assert bad + 1 <= (await reasons(settings)).total()


async def test_an_announcement_with_properties_that_cannot_be_read_is_received(vhost: str) -> None:
    settings, recorder = settings_for(vhost, {"c1": "127.0.0.1:1"}), Recorder()
    connection = await connect(settings.broker, name="test")
    await declare(connection, Topology.of(settings))
    listening = asyncio.create_task(listen(lambda: settings.broker, "eu", recorder, role="near"))
    await eventually(lambda: recorder.links)
    announced = b'{"cluster":"eu","worker":"eu.host.1.1","number":1,"keys":["product:7"]}'
    channel = await raw_channel(connection, confirms=True)
    await channel.basic_publish(announced, exchange="cache.purged", routing_key="eu", properties=Raw(ON_ITS_OWN))
    await eventually(lambda: recorder.keys)
    listening.cancel()
    await asyncio.wait({listening})
    await close(connection)
    assert (1, ["product:7"]) == (recorder.links, recorder.keys)


class Recorder:
    """A receiver of announcements that counts its connections."""

    def __init__(self) -> None:
        self.links = 0
        self.keys: list[str] = []

    def linked(self) -> None:
        self.links += 1

    def received(self, announcement: Announcement) -> None:
        self.keys += announcement.keys

    def lost(self) -> None: ...


@pytest.mark.usefixtures("intake")
async def test_a_dead_letter_with_a_time_out_of_range_is_shown_and_evicted_once_the_rule_is_fixed(
    vhost: str, broker: Broker, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    node = memcached()
    settings = settings_for(vhost, [node])
    message = Message(b'{"type":"product_updated","sku":7}', Raw(ON_ITS_OWN), None)
    await handled(settings, node, [message])
    shell = Shell(settings, broker, tmp_path)
    shown = await shell.run("dead", "show")
    assert "missing-field" in shown.stdout
    assert f"unreadable (0x{NANOSECONDS.hex()})" in shown.stdout
    fixed = msgspec.structs.replace(settings, rule=[RuleSettings(on="product_updated", evict=["product:{sku}"])])
    fill(node, ["product:7"])
    async with working(fixed), dead_letters(fixed) as letters:
        assert [True] == [one async for one in letters.replay(Filter(), rate=None, advance=lambda: None)]
        await eventually(lambda: not held(node, ["product:7"]))
    assert Counter() == await reasons(settings)
