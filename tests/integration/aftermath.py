"""The frame of a test with a fault: a worker at the start, and at the end, healed and quiet, nothing lost.

old values on every node ─> confirmed updates ─> (the fault) ─> gone from every node; nothing waits in a queue,
nothing is unacknowledged, no dead letter but the poison; the worker consumes
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import aiormq
import msgspec

from invalidator.broker.connection import close, connect
from invalidator.broker.declare import declare
from invalidator.broker.topology import Topology
from invalidator.operate.dead_letters import Filter, dead_letters
from invalidator.runtime import metrics
from invalidator.settings import Settings
from invalidator.worker.worker import Worker
from tests.integration.shop import eventually, publishing, working
from tests.servers import Broker, Memcached

#: Keys in one request to a node.
AT_ONCE = 100


class Trial:
    """The products published while something failed, and the checks that every one of them was evicted."""

    def __init__(self, settings: Settings, nodes: Sequence[Memcached], *, url: str | None = None) -> None:
        self.settings = settings
        self.topology = Topology.of(settings)
        self.nodes = nodes
        #: The broker's own, even if a proxy is between it and the worker.
        self.url = url or settings.broker.url
        #: Bodies that must end in the dead-letter queue.
        self.poison: list[bytes] = []
        self._keys: list[str] = []

    def fill(self, *ids: object) -> None:
        """Store an old value of these products on every node; they must be gone in the end."""
        keys = [f"product:{id}" for id in ids]
        self._keys += keys
        for node in self.nodes:
            fill(node, keys)

    async def publish(self, *ids: object) -> None:
        """Publish an update of each product until all are confirmed, as an application should."""
        deadline = time.monotonic() + 30
        while True:
            try:
                async with publishing(self.url) as shop:
                    return await shop.update(*ids)
            except (aiormq.AMQPError, OSError):
                assert time.monotonic() < deadline, "the broker confirms nothing"
                await asyncio.sleep(0.1)

    async def publish_poison(self, *bodies: bytes) -> None:
        self.poison += bodies
        async with publishing(self.url) as shop:
            await asyncio.gather(*map(shop.raw, bodies))

    def is_gone(self, *ids: object) -> bool:
        """Return True if no node holds one of these products, by default of all that were ever filled."""
        keys = [f"product:{id}" for id in ids] or self._keys
        return not any(held(node, keys) for node in self.nodes)

    def holds_none(self, node: Memcached) -> bool:
        """Return True if this node holds none of the products that were ever filled."""
        return not held(node, self._keys)

    async def ready(self, queue: str | None = None) -> int:
        """Count the messages that wait in a queue, by default the cluster's."""
        async with publishing(self.url) as shop:
            return await shop.ready(queue or self.topology.queue)

    async def becomes_ready(self, count: int, queue: str | None = None, *, within: float = 60.0) -> None:
        """Wait until exactly this number of messages waits in a queue, by default the cluster's."""
        async with publishing(self.url) as shop, asyncio.timeout(within):
            while await shop.ready(queue or self.topology.queue) != count:
                await asyncio.sleep(0.02)

    async def is_logging(self, *, within: float = 60.0) -> None:
        """Wait until the log has the worker's mark: gaps are covered from now on."""
        async with publishing(self.url) as shop, asyncio.timeout(within):
            while not await shop.ready(self.topology.log):
                await asyncio.sleep(0.02)

    async def is_parked(self, label: str, *, within: float = 60.0) -> None:
        """Wait until something is parked for a node."""
        async with publishing(self.url) as shop, asyncio.timeout(within):
            while not await shop.ready(self.topology.parked(label)):
                await asyncio.sleep(0.02)

    async def get_and_requeue(self, queue: str, *, times: int) -> None:
        """Take the first message of a queue and put it back, as the management UI does."""
        async with publishing(self.url) as shop, shop.connection.channel() as channel:
            for _ in range(times):
                message = await (await channel.get_queue(queue, ensure=False)).get(timeout=10)
                await message.nack(requeue=True)

    async def declare(self) -> None:
        """Declare the topology, as another program would."""
        broker = msgspec.structs.replace(self.settings.broker, url=self.url)
        connection = await connect(broker, name="somebody else")
        await declare(connection, self.topology)
        await close(connection)

    async def replay(self) -> int:
        """Replay every dead letter, as `invalidator dead replay` does, and return their number."""
        async with dead_letters(self.settings) as letters:
            replayed = [was_event async for was_event in letters.replay(Filter(), rate=None, advance=lambda: None)]
        return sum(replayed)

    @asynccontextmanager
    async def working(self, *, within: float = 60.0) -> AsyncIterator[Worker]:
        """Run a worker in this process; in the end it must have healed by itself, and left nothing in the queues."""
        async with working(self.settings) as worker:
            yield worker
            await self._heals(worker, within=within)
        await self._left_nothing()

    async def _heals(self, worker: Worker, *, within: float = 60.0) -> None:
        """Wait until the worker consumes, every product published is gone, and so is one published only now."""
        await eventually(lambda: worker.status() == "consuming", within=within)
        self.fill("the-last")
        await self.publish("the-last")
        await eventually(self.is_gone, within=within, every=0.05)
        async with publishing(self.url) as shop:
            await shop.settled(self.topology, within=within)

    async def _left_nothing(self) -> None:
        """Check the queues: with the worker's connections closed, unacknowledged messages would wait there again."""
        async with publishing(self.url) as shop:
            for queue in (self.topology.queue, *map(self.topology.parked, self.topology.labels)):
                assert await shop.ready(queue) == 0, queue
            dead = await shop.take(self.topology.dead)
        assert {message.body for message in dead} == set(self.poison)


@asynccontextmanager
async def trial(
    settings: Settings, nodes: Sequence[Memcached], *, url: str | None = None, within: float = 60.0
) -> AsyncIterator[tuple[Trial, Worker]]:
    """Yield a `Trial` and its worker, which is consuming."""
    trial = Trial(settings, nodes, url=url)
    async with trial.working(within=within) as worker:
        yield trial, worker


def fill(node: Memcached, keys: Sequence[str], value: bytes = b"old") -> None:
    """Set many keys in one request."""
    sets = b"".join(b"set %s 0 0 %d noreply\r\n%s\r\n" % (key.encode(), len(value), value) for key in keys)
    node.command(sets + b"mn\r\n", end=b"MN\r\n")


def held(node: Memcached, keys: Sequence[str]) -> bool:
    """Return True if the node holds any of these keys."""
    parts = (keys[start : start + AT_ONCE] for start in range(0, len(keys), AT_ONCE))
    return any(node.command(f"get {' '.join(part)}\r\n".encode(), end=b"END\r\n") != b"END\r\n" for part in parts)


async def consumers(url: str, queue: str) -> int:
    """Count the consumers that the broker knows of."""
    async with publishing(url) as shop, shop.connection.channel() as channel:
        found = await channel.declare_queue(queue, passive=True)
        return found.declaration_result.consumer_count or 0


@asynccontextmanager
async def alarm(broker: Broker, kind: str) -> AsyncIterator[None]:
    """Raise an alarm of memory or disk: meanwhile the broker reads nothing from publishers."""
    low, normal = {
        "memory": (("set_vm_memory_high_watermark", "0.000001"), ("set_vm_memory_high_watermark", "absolute", "2GB")),
        "disk": (("set_disk_free_limit", "900000000000000"), ("set_disk_free_limit", "50MB")),
    }[kind]
    await asyncio.to_thread(broker.ctl, *low)
    try:
        yield
    finally:
        await asyncio.to_thread(broker.ctl, *normal)


def gaps() -> float:
    """Count the gaps reported so far in this process."""
    return float(metrics.GAPS._value.get())
