"""A near cache beside a real worker: it drops announced keys, and everything if an announcement may be missing.

Its `max_age` is an hour here, so that only announcements, or their absence, make it drop a copy.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aio_pika

from invalidator.app.cache.lookaside import LookAsideCache
from invalidator.app.near.cache import AsyncNearCache, NearCache
from invalidator.broker.topology import Topology
from invalidator.settings import BrokerSettings, Settings
from tests.integration.conftest import MemcachedFactory, ProxyFactory
from tests.integration.shop import Publishing, eventually, publishing, settings_for, worker_process, working
from tests.servers import Memcached, TcpProxy

HOUR = 3600


class Shared:
    """A shared layer that reads one node."""

    def __init__(self, node: Memcached) -> None:
        self._node = node
        self.reads = 0

    def get_or_load(self, key: str, load: Callable[[], Any], *, ttl: float, negative_ttl: float | None) -> Any:
        self.reads += 1
        found = self._node.get(key)
        return load() if found is None else found.decode()


class Reader:
    """An application with a near cache, and the node that it reads below."""

    def __init__(self, node: Memcached, broker: BrokerSettings) -> None:
        self.node = node
        self.shared = Shared(node)
        self.cache = NearCache(self.shared, broker, cluster="eu", max_age=HOUR)

    def read(self, key: str = "product:7") -> str:
        return self.cache.get_or_load(key, lambda: "from the database", ttl=HOUR)

    def fill(self, value: str, *keys: str) -> None:
        for key in keys or ("product:7",):
            self.node.set(key, value.encode())

    def keeps(self, key: str = "product:7") -> bool:
        """Return True if the second of two reads in a row does not reach the shared layer."""
        self.read(key)
        before = self.shared.reads
        self.read(key)
        return self.shared.reads == before


@asynccontextmanager
async def reading(node: Memcached, settings: Settings, url: str = "") -> AsyncIterator[Reader]:
    """Yield a reader that receives announcements, through the broker at `url` if given."""
    broker = BrokerSettings(url=url or settings.broker.url)
    reader = Reader(node, broker)
    with reader.cache:
        reader.fill("old")
        await eventually(reader.keeps)
        yield reader


async def proxied(settings: Settings, proxy: ProxyFactory) -> tuple[TcpProxy, str]:
    """Return a proxy in front of the broker, and the URL that leads through it."""
    host = settings.broker.url.partition("@")[2].partition("/")[0]
    gate = await proxy(host)
    return gate, settings.broker.url.replace(host, gate.address)


async def becomes_new(reader: Reader, shop: Publishing) -> None:
    """Change the product, and wait until the reader returns the new value."""
    await shop.update(7)
    await eventually(lambda: reader.node.get("product:7") is None)
    reader.fill("new")
    await eventually(lambda: reader.read() == "new")


async def test_an_evicted_value_is_dropped_when_its_eviction_is_announced(
    vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    settings = settings_for(vhost, [node])
    async with working(settings), publishing(vhost) as shop, reading(node, settings) as reader:
        reader.fill("kept", "product:8")
        await eventually(lambda: reader.keeps("product:8"))
        reader.fill("not announced", "product:8")
        await becomes_new(reader, shop)
        assert reader.read("product:8") == "kept", "the other keys stay"


async def test_an_announcement_that_is_lost_is_found_out_with_the_next_heartbeat(
    vhost: str, memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    node = memcached()
    settings = settings_for(vhost, [node])
    async with working(settings), publishing(vhost) as shop:
        gate, url = await proxied(settings, proxy)
        async with reading(node, settings, url) as reader:
            lost: list[bytes] = []

            def lose(piece: bytes) -> bytes:
                if b'"keys"' not in piece:
                    return piece
                lost.append(piece)
                return b""

            gate.replies.rewrite = lose
            await becomes_new(reader, shop)
            assert len(lost) == 1
            assert gate.accepted == 1, "the link itself was never lost"


async def test_a_link_that_is_cut_forgets_everything_and_is_made_again(
    vhost: str, memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    node = memcached()
    settings = settings_for(vhost, [node])
    async with working(settings), publishing(vhost) as shop:
        gate, url = await proxied(settings, proxy)
        async with reading(node, settings, url) as reader:
            await gate.refuse()
            await gate.reset()
            await becomes_new(reader, shop)
            assert not reader.keeps()
            await gate.start()
            await eventually(reader.keeps)
            reader.fill("old")
            await becomes_new(reader, shop)


async def test_a_link_that_only_hangs_is_a_silence_like_any_other(
    vhost: str, memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    node = memcached()
    settings = settings_for(vhost, [node])
    async with working(settings), publishing(vhost) as shop:
        gate, url = await proxied(settings, proxy)
        async with reading(node, settings, url) as reader:
            gate.replies.hold()
            await becomes_new(reader, shop)
            assert not reader.keeps()
            gate.replies.release()
            await eventually(reader.keeps)


async def test_a_killed_worker_goes_silent_and_the_next_one_is_received(
    vhost: str, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    node = memcached()
    settings = settings_for(vhost, [node])
    with worker_process(settings, tmp_path) as process:
        async with reading(node, settings) as reader:
            process.kill()
            await eventually(lambda: not reader.keeps())
            with worker_process(settings, tmp_path):
                await eventually(reader.keeps)
                async with publishing(vhost) as shop:
                    await becomes_new(reader, shop)


async def test_a_flush_of_a_node_drops_every_copy(vhost: str, memcached: MemcachedFactory, proxy: ProxyFactory) -> None:
    node = memcached()
    gate = await proxy(node.address)
    settings = settings_for(vhost, {"c1": gate.address}, worker={"parked_limit": 1})
    async with working(settings), publishing(vhost) as shop, reading(node, settings) as reader:
        await gate.refuse()
        await gate.reset()
        for product in (1, 2):  # the debt is over its limit with the first
            await shop.update(product)
            await shop.settled_but(Topology.of(settings), "invalidator.eu.parked.c1")
        await eventually(reader.keeps)
        await gate.start()
        await eventually(lambda: node.get("product:7") is None)
        await eventually(lambda: reader.read() == "from the database")


async def test_an_unreadable_announcement_ends_the_link_and_it_is_made_again(
    vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    settings = settings_for(vhost, [node])
    async with working(settings), publishing(vhost) as shop, reading(node, settings) as reader:
        async with shop.connection.channel() as channel:
            exchange = await channel.get_exchange("cache.purged", ensure=False)
            await exchange.publish(aio_pika.Message(b"from a later version"), routing_key="eu")
        await eventually(lambda: not reader.keeps())
        await eventually(reader.keeps)


async def test_asyncio_reads_through_one_as_well(vhost: str, memcached: MemcachedFactory) -> None:
    node = memcached()
    settings = settings_for(vhost, [node])
    node.set("product:7", b"old")

    class AsyncShared:
        async def get_or_load(self, key: str, load: object, *, ttl: float, negative_ttl: float | None) -> object:
            return node.get(key)

    async def load() -> bytes:
        return b"from the database"

    async with working(settings), publishing(vhost) as shop:
        with AsyncNearCache(AsyncShared(), BrokerSettings(url=vhost), cluster="eu", max_age=HOUR) as cache:
            async with asyncio.timeout(60):
                while not len(cache):
                    assert await cache.get_or_load("product:7", load, ttl=HOUR) == b"old"
                    await asyncio.sleep(0.01)
            await shop.update(7)
            await eventually(lambda: node.get("product:7") is None)
            await eventually(lambda: not len(cache))


async def test_above_a_look_aside_cache_a_hot_key_costs_it_nothing(vhost: str, memcached: MemcachedFactory) -> None:
    node = memcached()
    settings = settings_for(vhost, [node])
    loads: list[int] = []

    def load() -> int:
        loads.append(1)
        return len(loads)

    shared = LookAsideCache([node.address])
    with NearCache(shared, vhost, cluster="eu", max_age=HOUR) as cache, closing(shared):
        async with working(settings), publishing(vhost) as shop:
            await eventually(lambda: cache.get_or_load("product:7", load, ttl=HOUR) == 1 and len(cache) == 1)
            before = node.stats()["cmd_get"]
            assert [cache.get_or_load("product:7", load, ttl=HOUR) for _ in range(100)] == [1] * 100
            assert node.stats()["cmd_get"] == before
            await shop.update(7)
            await eventually(lambda: cache.get_or_load("product:7", load, ttl=HOUR) == 2)


FORKING = """
import json, os, sys, time
from invalidator.app.near.cache import NearCache
from invalidator.settings import BrokerSettings

class Shared:
    def get_or_load(self, key, load, *, ttl, negative_ttl):
        return "value"

def read_until_kept():
    deadline = time.monotonic() + 20
    while not len(cache) and time.monotonic() < deadline:
        cache.get_or_load("k", None, ttl=60)
        time.sleep(0.01)
    return len(cache)

cache = NearCache(Shared(), BrokerSettings(url=sys.argv[1]), cluster="eu")
in_parent = read_until_kept()
if child := os.fork():
    status = os.waitpid(child, 0)[1]
    cache.close()
    sys.exit(os.waitstatus_to_exitcode(status))
print(json.dumps({"parent": in_parent, "at the fork": len(cache), "child": read_until_kept()}), flush=True)
cache.close()
"""


async def test_a_forked_child_begins_with_nothing_and_listens_by_itself(
    vhost: str, memcached: MemcachedFactory
) -> None:
    async with working(settings_for(vhost, [memcached()])):
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", FORKING, vhost], capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"parent": 1, "at the fork": 0, "child": 1}
