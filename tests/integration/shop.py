"""The common parts of worker tests: settings for private servers, workers, relays, and a publisher."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aio_pika
import msgspec

from invalidator.broker.topology import Topology
from invalidator.settings import (
    BrokerSettings,
    LogSettings,
    MemcachedSettings,
    MetricsSettings,
    RingSettings,
    RuleSettings,
    Secret,
    Settings,
    WorkerSettings,
)
from invalidator.worker.worker import Worker
from tests.servers import Memcached

#: The `broker.consumer` of these settings. The fixture `intake` runs a test once with each.
INTAKE = "tap"
RULES = [RuleSettings(on="product_updated", evict=["product:{id}", "product:{id}:reviews", "{also?}"])]


def settings_for(
    url: str, nodes: Sequence[Memcached] | dict[str, str], *, cluster: str = "eu", **more: Any
) -> Settings:
    """Return settings for a cluster of these nodes, labelled c1, c2 … unless they bring their labels."""
    if not isinstance(nodes, dict):
        nodes = {f"c{number}": node.address for number, node in enumerate(nodes, 1)}
    broker = {"publish_timeout": 2.0, "connect_timeout": 3.0, "consumer": INTAKE} | more.pop("broker", {})
    return Settings(
        cluster=cluster,
        broker=BrokerSettings(url=url, password=Secret("guest"), **broker),
        ring=RingSettings(nodes=nodes, **more.pop("ring", {})),
        memcached=MemcachedSettings(**more.pop("memcached", {})),
        worker=WorkerSettings(**more.pop("worker", {})),
        log=LogSettings(level="info"),
        metrics=MetricsSettings(**{"listen": "off"} | more.pop("metrics", {})),
        rule=RULES,
        **more,
    )


@asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[Worker]:
    """Run a worker in this process: yield once it consumes, and stop it in good order afterwards."""
    worker = Worker(settings)
    stopping = asyncio.Event()
    running = asyncio.create_task(worker.run(stopping))
    try:
        await eventually(lambda: running.done() or worker.status().startswith("consuming"))
        yield worker
    finally:
        stopping.set()
        await running


@contextmanager
def worker_process(settings: Settings, folder: Path, **environ: str) -> Iterator["subprocess.Popen[str]"]:
    """Run `invalidator worker` in its own process, with its log on standard error; kill it if it still runs."""
    file = configuration(settings, folder)
    process = subprocess.Popen(
        [Path(sys.executable).with_name("invalidator"), "worker", "--config", file],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environ,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def relay_process(
    settings: Settings, folder: Path, *arguments: str, **environ: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `invalidator relay` in a process of its own; kill it at the end if it still runs."""
    command: list[str | Path] = [Path(sys.executable).with_name("invalidator"), "relay", *arguments]
    command += ["--config", configuration(settings, folder)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | environ)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def configuration(settings: Settings, folder: Path) -> Path:
    """Write these settings to a file that only its owner can read."""
    file = folder / f"{settings.cluster}.toml"
    file.write_text(as_toml(settings))
    file.chmod(0o600)
    return file


def as_toml(settings: Settings) -> str:
    """Return these settings as TOML, which takes JSON's strings, numbers, lists and flat tables."""
    lines = [f"cluster = {json.dumps(settings.cluster)}"]
    for name in (
        "broker",
        "memcached",
        "worker",
        "limits",
        "event_log",
        "log",
        "metrics",
        "outbox",
        "follow",
        "debezium",
        "warmer",
        "audit",
    ):
        lines.append(f"[{name}]")
        section = getattr(settings, name)
        for field in section.__struct_fields__:
            value = getattr(section, field)
            value = value.reveal() if isinstance(value, Secret) else value
            if value is not None:
                lines.append(f"{field} = {json.dumps(value)}")
    lines += ["[ring]", f"kind = {json.dumps(settings.ring.kind)}", "[ring.nodes]"]
    assert isinstance(settings.ring.nodes, dict)
    lines += [f"{json.dumps(label)} = {json.dumps(address)}" for label, address in settings.ring.nodes.items()]
    for rule in settings.rule:
        lines += ["[[rule]]", f"on = {json.dumps(rule.on)}", f"evict = {json.dumps(rule.evict)}"]
        lines += [f"again_after = {rule.again_after}"] if rule.again_after else []
    return "\n".join(lines) + "\n"


async def eventually(condition: Callable[[], Any], *, within: float = 60.0, every: float = 0.01) -> None:
    """Wait until a condition is true, and fail the test if it takes too long."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not so within {within} s"
        await asyncio.sleep(every)


class Publishing:
    """A connection that publishes events and raw bodies, and inspects queues."""

    def __init__(self, connection: aio_pika.abc.AbstractConnection, channel: aio_pika.abc.AbstractChannel) -> None:
        self.connection = connection
        self._channel = channel

    async def update(self, *ids: object, **fields: Any) -> None:
        """Publish a product_updated for each id, confirmed."""
        await asyncio.gather(
            *(self.raw(json.dumps({"type": "product_updated", "id": i} | fields).encode()) for i in ids)
        )

    async def raw(self, body: bytes, **properties: Any) -> None:
        exchange = await self._channel.get_exchange("product.updates", ensure=False)
        message = aio_pika.Message(body, delivery_mode=2, **properties)
        await exchange.publish(message, routing_key="", timeout=20)

    async def ready(self, queue: str) -> int:
        """Return the number of messages waiting in a queue."""
        async with self.connection.channel() as channel:
            found = await channel.declare_queue(queue, passive=True)
            return found.declaration_result.message_count or 0

    async def take(self, queue: str) -> list[aio_pika.abc.AbstractIncomingMessage]:
        """Take all waiting messages out of a queue."""
        messages: list[aio_pika.abc.AbstractIncomingMessage] = []
        while waiting := await self.ready(queue):
            async with self.connection.channel() as channel:
                await channel.set_qos(prefetch_count=waiting)
                found = await channel.declare_queue(queue, passive=True)
                async with found.iterator(timeout=10) as taken:
                    messages += [await anext(taken) for _ in range(waiting)]
                await messages[-1].ack(multiple=True)
        return messages

    async def settled(self, topology: Topology, *, within: float = 60.0) -> None:
        """Wait until nothing is ready in the cluster's queue and its parking queues."""
        for queue in (topology.queue, *(topology.parked(label) for label in topology.labels)):
            await self.empty(queue, within=within)

    async def settled_but(self, topology: Topology, debts: str) -> None:
        """Wait until nothing is ready in the cluster's queue, but something is in a parking queue."""
        await self.empty(topology.queue)
        async with asyncio.timeout(60):
            while not await self.ready(debts):
                await asyncio.sleep(0.02)

    async def empty(self, queue: str, *, within: float = 60.0) -> None:
        deadline = time.monotonic() + within
        while await self.ready(queue):
            assert time.monotonic() < deadline, f"messages still wait in {queue}"
            await asyncio.sleep(0.02)


@asynccontextmanager
async def publishing(url: str) -> AsyncIterator[Publishing]:
    connection = await aio_pika.connect(url, client_properties={"connection_name": "shop"})
    async with connection, connection.channel(on_return_raises=True) as channel:
        yield Publishing(connection, channel)


def changed(settings: Settings, section: str, **fields: Any) -> Settings:
    """Return the settings with some fields of one section changed."""
    new = msgspec.structs.replace(getattr(settings, section), **fields)
    return msgspec.structs.replace(settings, **{section: new})
