"""The stage: the servers and processes of a run, the faults that hit them, and their remains.

shops ──> broker ──> workers ──> wires (proxies) ──> memcached nodes
  └──────────── fills and reads ─────────────────────────┘
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from invalidator.broker.connection import connect
from invalidator.broker.declare import declare
from invalidator.broker.topology import Topology
from invalidator.settings import load
from tests.faults.cast import Shop, Wires, Worker
from tests.faults.copies import missing_canaries, set_canaries
from tests.faults.production import Production, configure
from tests.faults.queues import Queues
from tests.faults.remains import Logs, Remains, remains
from tests.faults.schedule import Fault, Kind, Size
from tests.faults.shop import Part
from tests.faults.wires import Act
from tests.servers import Broker, Memcached

SHOPS = 2
#: Seconds that a killed node or broker stays away.
AWAY = 2.0
#: Seconds between two faults of a node, in which it is filled again. An empty node cannot be stale.
WARM = 1.0
#: More deliveries than a run has faults, so that dying workers turn no good event into a dead letter.
DELIVERY_LIMIT = 1_000_000
ACTS = {
    Kind.RESET: Act.RESET,
    Kind.CUT_REPLY: Act.CUT_REPLY,
    Kind.TEAR_REQUEST: Act.TEAR_REQUEST,
    Kind.NOISE: Act.NOISE,
    Kind.SHIFT: Act.SHIFT,
}


@dataclass(frozen=True)
class Happened:
    """A fault that happened. Times are seconds of the monotonic clock."""

    kind: Kind
    target: str
    began: float
    ended: float


class Stage:
    def __init__(self, production: Production, out: Path, scratch: Path) -> None:
        self.production = production
        self.size = Size.of(production.events)
        self.happened: list[Happened] = []
        self.surprises: list[str] = []
        self.broker = Broker(scratch / "broker")
        self.nodes = {
            f"c{number}": Memcached("-t", "1", "-m", "256", folder=scratch / f"c{number}")
            for number in range(1, production.nodes + 1)
        }
        self.wires = Wires({label: node.address for label, node in self.nodes.items()})
        self._queues = Queues(self.broker.url())
        self.workers: list[Worker] = []
        self.shops: list[Shop] = []
        self._out = out
        self._scratch = scratch
        # A server is hit by one fault at a time.
        self._busy: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @asynccontextmanager
    async def set_up(self) -> AsyncIterator[Self]:
        async with AsyncExitStack() as stack:
            for server in (*self.nodes.values(), self.broker):
                stack.callback(server.close)
            await asyncio.gather(*(asyncio.to_thread(server.start) for server in (*self.nodes.values(), self.broker)))
            await asyncio.gather(*(set_canaries(node.address) for node in self.nodes.values()))
            stack.push_async_callback(self._queues.close)
            await self.wires.start()
            stack.push_async_callback(self.wires.close)
            configuration = configure(self._scratch, self.broker.url(), self.wires.addresses)
            await self._declare(configuration)
            for number in range(self.production.workers):
                self.workers.append(Worker(number, self.production.command(configuration), self._out))
                self.workers[-1].start()
            for number in range(SHOPS):
                self.shops.append(Shop(self._part(number)))
                await self.shops[-1].start()
            yield self

    async def _declare(self, configuration: Path) -> None:
        settings = load(configuration, {})
        self._topology = Topology.of(settings)
        connection = await connect(settings.broker, name="faults")
        await declare(connection, self._topology)
        await connection.close()
        limited = {"pattern": r"^invalidator\.[^.]+$", "definition": {"delivery-limit": DELIVERY_LIMIT}}
        self.broker.api("PUT", "/policies/%2F/faults", limited | {"apply-to": "queues"})

    def _part(self, number: int) -> Part:
        production, size = self.production, self.size
        return Part(
            number=number,
            shops=SHOPS,
            seed=production.seed,
            events=len(range(number, production.events, SHOPS)),
            products=size.products // SHOPS,
            rate=size.rate / SHOPS,
            broker=self.broker.url(),
            nodes=[node.address for node in self.nodes.values()],
            hashed=list(self.wires.addresses.values()),
            owner_only=production.stock,
            file=str(self._scratch / f"shop-{number}.json"),
        )

    # What happens

    async def perform(self, fault: Fault) -> None:
        """Let a fault happen and end."""
        label = list(self.nodes)[fault.target % len(self.nodes)]
        match fault.kind:
            case Kind.KILL_WORKER | Kind.KILL_WORKERS:
                alone = fault.kind == Kind.KILL_WORKER
                for worker in [self.workers[fault.target]] if alone else self.workers:
                    worker.kill()
                self._note(fault.kind, self.workers[fault.target].name if alone else "all workers", time.monotonic())
            case Kind.RESTART_BROKER:
                await self._restart_broker(fault.kind)
            case Kind.FREEZE_NODE | Kind.RESTART_NODE | Kind.PARTITION_NODE:
                await self._strike(fault, label)
            case _:
                self.wires.order(label, ACTS[fault.kind], fault.times)
                self._note(fault.kind, label, time.monotonic())

    async def _restart_broker(self, kind: Kind) -> None:
        async with self._busy["broker"]:
            began = time.monotonic()
            await asyncio.to_thread(self.broker.kill)
            await asyncio.sleep(AWAY)
            await asyncio.to_thread(self.broker.start)
            self._note(kind, "broker", began)

    async def _strike(self, fault: Fault, label: str) -> None:
        node = self.nodes[label]
        async with self._busy[label]:
            began = time.monotonic()
            match fault.kind:
                case Kind.FREEZE_NODE:
                    node.pause()
                    await asyncio.sleep(fault.seconds)
                    node.resume()
                case Kind.PARTITION_NODE:
                    self.wires.order(label, Act.VANISH if fault.vanish else Act.REFUSE)
                    await asyncio.sleep(fault.seconds)
                    self.wires.order(label, Act.HEAL)
                case _:
                    self._look_for_evictions(label)
                    node.kill()
                    await asyncio.sleep(AWAY)
                    await asyncio.to_thread(node.start)
                    await set_canaries(node.address)
                    await asyncio.sleep(WARM)
            self._note(fault.kind, label, began)

    def _note(self, kind: Kind, target: str, began: float) -> None:
        self.happened.append(Happened(kind, target, began, time.monotonic()))

    def _look_for_evictions(self, label: str) -> None:
        if evicted := int(self.nodes[label].stats()["evictions"]):
            self.surprises.append(f"{label} evicted {evicted} items by itself: give the nodes more memory")

    # What is seen

    async def ready(self) -> dict[str, int] | None:
        """Return the messages ready in the cluster's queue and its parking queues, or None if that is unknown."""
        parked = [self._topology.parked(label) for label in self.nodes]
        return await self._queues.ready([self._topology.queue, *parked])

    def check_players(self) -> None:
        """Raise RuntimeError if a process that should be running is not."""
        for shop in self.shops:
            if shop.listening and shop.listening.done():
                raise RuntimeError("a shop has ended; what it said is above")
        for worker in self.workers:
            if worker.running and worker.running.done():
                worker.running.result()

    def heal(self) -> None:
        for label in self.nodes:
            self.wires.order(label, Act.HEAL)

    async def close(self) -> Remains:
        """Stop all processes and collect their remains."""
        await asyncio.gather(*(worker.stop() for worker in self.workers))
        shops = await asyncio.gather(*(shop.close() for shop in self.shops))
        for label, node in self.nodes.items():
            self._look_for_evictions(label)
            if missing := await missing_canaries(node.address):
                self.surprises.append(f"{len(missing)} keys that no event named are gone on {label}")
        logs = Logs()
        if not self.production.stock:  # its task ends with its connection
            self.surprises += [surprise for worker in self.workers for surprise in worker.surprises]
            for log in sorted(self._out.glob("worker-*.log")):
                logs.read(log)
        return await remains(
            shops,
            {label: node.address for label, node in self.nodes.items()},
            self._queues,
            self._topology,
            logs=logs,
            surprises=self.surprises,
        )
