"""One trial: two clusters on a vhost of their own, confirmed publishers, a fault in one cluster, and the account.

publishers ──> product.updates ─┬─> eu: workers ──> memcached nodes      the fault happens here
                                ├─> us: a worker ──> memcached nodes     and nothing may be noticed here
                                └─> the log
"""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from invalidator.broker.connection import close, connect
from invalidator.broker.declare import declare
from invalidator.broker.gap import Gap
from invalidator.broker.gaps import remembered_gaps
from invalidator.broker.topology import Topology
from invalidator.errors import InvalidatorError
from invalidator.operate.diagnosis.status import ClusterStatus, status
from invalidator.settings import Settings
from tests.faults.healing.changes import Changes
from tests.faults.healing.stage import Stage
from tests.faults.healing.vhost import Vhost
from tests.servers import Memcached

PUBLISHERS = 2
#: Seconds that anything may take before the trial is given up.
PATIENCE = 60.0
#: Seconds in which a gap is healed, at the latest, before the trial goes on without.
HEALED_WITHIN = 20.0
#: Seconds in which what other workers have found of the same gap is healed, too.
TOLD_WITHIN = 5.0
#: Seconds of publishing before the fault, and after the gap was healed.
BEFORE, AFTER = 1.0, 1.0
#: Seconds of events that wait before a queue is purged or shortened: more than the two from before a gap that are read.
BACKLOG = 3.5
#: Seconds without progress after which a key is stale for good.
QUIET = 6.0


class Trial:
    """The players of a trial, and the acts that a fault is made of."""

    def __init__(
        self, stage: Stage, name: str, *, seed: str, workers: int, padding: int, stamps: bool, settings: Any
    ) -> None:
        self._stage = stage
        self._folder = stage.folder / name
        self.chance = random.Random(seed)
        self.vhost = Vhost(stage.broker, name)
        self.settings = stage.settings(name, "eu", stage.eu, **settings)
        self._others = stage.settings(name, "us", stage.us, event_log=settings.get("event_log", {}))
        self.topology = Topology.of(self.settings)
        self.queue = self.topology.queue
        self.workers = [stage.worker(number, self.settings, self._folder) for number in range(workers)]
        self._other = stage.worker(workers, self._others, self._folder)
        nodes = [node.address for node in (*stage.eu, *stage.us)]
        first = self.chance.randrange(1_000_000_000)
        self.changes = Changes(
            [self.vhost.url] * PUBLISHERS, nodes, rate=stage.rate, first=first, padding=padding, stamps=stamps
        )
        self._hanging: set[Memcached] = set()

    @asynccontextmanager
    async def on(self) -> AsyncIterator[None]:
        """Let everybody work: publishers publish, and workers have stored how far they came."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.vhost.close)
            for settings in (self.settings, self._others):
                await self._declare(settings)
            for worker in (*self.workers, self._other):
                worker.start()
                stack.push_async_callback(worker.stop)
            stack.push_async_callback(self.changes.close)
            stack.callback(self.resume)
            await self.changes.fill()
            await self.until(self._is_kept)
            self._flushes, self._hits = self._counted("cmd_flush"), self._deleted()
            self.changes.start()
            await asyncio.sleep(BEFORE + self.chance.random())
            yield

    # What happens

    async def declare(self) -> None:
        """Declare the cluster's queues, as another program would."""
        await self._declare(self.settings)

    @property
    def has_other_nodes(self) -> bool:
        """True if the broker goes on without the node that the workers use."""
        return len(self._stage.brokers) > 1

    async def restart_broker(self) -> None:
        """Kill the node that the workers use, and start it again."""
        first = self._stage.brokers[0]
        await asyncio.to_thread(first.kill)
        await asyncio.to_thread(first.start)

    def hang(self) -> None:
        """Let the first node of the cluster hang, until `resume`."""
        self._stage.eu[0].pause()
        self._hanging.add(self._stage.eu[0])

    def resume(self) -> None:
        while self._hanging:
            self._hanging.pop().resume()

    @asynccontextmanager
    async def falls_behind(self) -> AsyncIterator[Callable[[], int]]:
        """Let a node hang until many events wait; yield the number of those that waited."""
        waiting = 0

        async def is_behind() -> bool:
            nonlocal waiting
            waiting = await self.vhost.ready(self.queue)
            return waiting >= self._stage.rate * BACKLOG

        self.hang()
        await self.until(is_behind)
        yield lambda: waiting
        self.resume()

    # What is seen

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> float:
        """Return when a condition was met, in seconds since 1970."""
        async with asyncio.timeout(PATIENCE):
            while not await condition():
                await asyncio.sleep(0.02)
        return time.time()

    async def is_back(self, queue: str) -> float:
        return await self.until(lambda: self.vhost.exists(queue))

    async def is_gone(self, queue: str) -> float:
        """Return when a queue had expired. Nothing but the management API may look: it would count as a use."""

        async def is_gone() -> bool:
            return not await self.vhost.exists(queue)

        return await self.until(is_gone)

    async def waits(self, messages: int, queue: str) -> bool:
        return await self.vhost.ready(queue) >= messages

    async def waits_at_most(self, messages: int) -> bool:
        return await self.vhost.ready(self.queue) <= messages

    async def healed(self) -> tuple[Gap, float] | None:
        """Return the first gap that is healed or not covered, and when that was seen; None if none ever is."""
        deadline = time.time() + HEALED_WITHIN
        while time.time() < deadline:
            if await self.vhost.ready(self.topology.gaps) > 0 and (gap := await self._healed()):
                return gap, time.time()
            await asyncio.sleep(0.05)
        return None

    async def held(self, *, until: float | None = None) -> list[int]:
        """Return the products that a node holds although their events were confirmed, by default until now.

        With ``until``, only the cluster's own nodes count, and none that hangs: its keys are parked.
        """
        confirmed = [product for product, at in self.changes.confirmed.items() if until is None or at <= until]
        eu = [node for node in self._stage.eu if node not in self._hanging]
        nodes = eu if until else (*eu, *self._stage.us)
        held = await asyncio.gather(*(self.changes.held(node.address, confirmed) for node in nodes))
        return sorted({product for each in held for product in each})

    async def stale(self) -> list[int]:
        """Stop publishing; return the products that some node never drops."""
        await asyncio.sleep(AFTER)
        await self.changes.stop()
        self.resume()
        held, moved = await self.held(), time.monotonic()
        while held and time.monotonic() - moved < QUIET:
            await asyncio.sleep(0.1)
            before, held = held, await self.held()
            moved = moved if before == held else time.monotonic()
        return held

    async def told(self) -> tuple[ClusterStatus, ClusterStatus]:
        """Return what `invalidator status` says of both clusters, once no worker heals any more."""
        deadline = time.time() + TOLD_WITHIN
        while True:
            clusters = {cluster.cluster: cluster for cluster in (await status(self.settings)).clusters}
            own, other = clusters["eu"], clusters["us"]
            is_open = any("not covered" not in gap for gap in (*own.gaps, *own.healing))
            is_told = own.healed or own.gaps  # not while a worker reads them
            if time.time() > deadline or (is_told and not is_open):
                return own, other

    def flushes(self) -> int:
        return self._counted("cmd_flush") - self._flushes

    async def others(self) -> list[int]:
        """Return the copies deleted on each node of the other cluster, and the events that its worker has settled."""
        await self._other.stop()
        settled = 0
        for log in self._folder.glob(f"{self._other.name}.*.log"):
            lines = map(json.loads, log.read_text().splitlines())
            settled += sum(line["events"] for line in lines if line["event"] == "evicted")
        deleted = [after - before for before, after in zip(self._hits, self._deleted(), strict=True)]
        return [*deleted, settled]

    @property
    def surprises(self) -> list[str]:
        return [surprise for worker in (*self.workers, self._other) for surprise in worker.surprises]

    # How

    async def _declare(self, settings: Settings) -> None:
        connection = await connect(settings.broker, name="trial")
        await declare(connection, Topology.of(settings))
        await close(connection)

    async def _is_kept(self) -> bool:
        """Return True if every worker has put its mark, and stored how far it has settled the events."""
        marks, positions = await self.vhost.ready(self.topology.log), await self.vhost.ready(self.topology.position)
        return marks > len(self.workers) and positions >= len(self.workers)

    async def _healed(self) -> Gap | None:
        try:
            connection = await connect(self.settings.broker, name="trial")
            gaps = await remembered_gaps(connection, self.topology)
            await close(connection)
        except InvalidatorError:
            return None
        return next((gap for gap in gaps if gap.healing), None)

    def _counted(self, name: str) -> int:
        return sum(int(node.stats()[name]) for node in (*self._stage.eu, *self._stage.us))

    def _deleted(self) -> list[int]:
        return [int(node.stats()["delete_hits"]) for node in self._stage.us]
