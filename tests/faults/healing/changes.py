"""Products that change once each, at a steady rate, and the copies of them that the nodes hold.

    old copies on every node ─> confirmed event, one product after another ─> gone from every node

A product changes once, so no later eviction hides that its own was lost.
"""

import asyncio
import itertools
import time
from collections.abc import Collection, Sequence

from tests.faults.copies import AT_ONCE, Copies
from tests.faults.publishing import Publishing

#: Seconds that the products of a trial last.
SECONDS = 60
#: Confirmations that may be outstanding.
UNCONFIRMED = 400


class Changes:
    """The events of one trial, from several publishers."""

    def __init__(
        self, urls: Sequence[str], nodes: Collection[str], *, rate: float, first: int, padding: int, stamps: bool
    ) -> None:
        self._publishers = [Publishing(url, stamps=stamps) for url in urls]
        self._nodes = nodes
        self._rate = rate
        self._padding = "x" * padding
        self._products = range(first, first + round(rate * SECONDS))
        self._window = asyncio.Semaphore(UNCONFIRMED)
        self._publishing: set[asyncio.Task[None]] = set()
        self._running: asyncio.Task[None] | None = None
        #: Product -> when its event was confirmed, in seconds since 1970.
        self.confirmed: dict[int, float] = {}

    @property
    def attempted(self) -> int:
        return sum(publisher.attempted for publisher in self._publishers)

    async def fill(self) -> None:
        """Give every node an old copy of every product."""
        await asyncio.gather(*map(self._fill, self._nodes))

    def start(self) -> None:
        self._running = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Return once every event that was begun is confirmed."""
        assert self._running
        self._running.cancel()
        await asyncio.wait({self._running})
        await asyncio.gather(*self._publishing)

    async def close(self) -> None:
        for publisher in self._publishers:
            await publisher.close()

    def confirmed_between(self, since: float, until: float) -> int:
        return sum(since <= at <= until for at in self.confirmed.values())

    async def held(self, address: str, products: Sequence[int]) -> list[int]:
        """Return those of the products that a node holds."""
        copies, held = Copies(address), list[int]()
        for part in _parts(products):
            held += await copies.versions(part)
        await copies.close()
        return held

    async def _fill(self, address: str) -> None:
        copies = Copies(address)
        for part in _parts(self._products):
            await copies.fill([(product, 1) for product in part])
        await copies.close()

    async def _run(self) -> None:
        """Begin each event when it is due; make up for what could not be begun in time, as shops do."""
        publishers = itertools.cycle(self._publishers)
        started = time.monotonic()
        for number, product in enumerate(self._products):
            await asyncio.sleep(max(0.0, started + number / self._rate - time.monotonic()))
            await self._window.acquire()
            task = asyncio.create_task(self._publish(next(publishers), product))
            self._publishing.add(task)
            task.add_done_callback(self._publishing.discard)
        raise RuntimeError("the trial took longer than its products last")

    async def _publish(self, publisher: Publishing, product: int) -> None:
        try:
            await publisher.confirmed(_event(product, self._padding))
        finally:
            self._window.release()
        self.confirmed[product] = time.time()


def _event(product: int, padding: str) -> bytes:
    return b'{"type": "product_updated", "id": %d, "padding": "%s"}' % (product, padding.encode())


def _parts(products: Sequence[int]) -> list[Sequence[int]]:
    return [products[start : start + AT_ONCE] for start in range(0, len(products), AT_ONCE)]
