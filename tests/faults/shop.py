"""A shop, a process that changes products, publishes the events, fills the caches and reads them.

    python -m tests.faults.shop '{"number": 0, "shops": 2, …}'     (the JSON is a `Part`)

It prints a report as a JSON line from time to time. When it reads a line on standard input, it writes its books to a
file and ends. All shops share one numbering of products: a shop owns those whose number modulo the shops is its own.
"""

import asyncio
import json
import logging
import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pymemcache.client.rendezvous import RendezvousHash

from tests.faults.audited.truth import Truth
from tests.faults.audited.turns import BookedTurns
from tests.faults.copies import AT_ONCE, Copies, NodeGoneError
from tests.faults.publishing import Publishing
from tests.faults.staleness import Staleness
from tests.faults.turns import Turns

#: Seconds between two reports, and between two reads of products that are still stale.
REPORT_EVERY, READ_EVERY = 0.25, 0.03
#: Events that may wait for their confirmation, and that are made up for after an outage, in seconds at the usual rate.
UNCONFIRMED, CATCH_UP = 0.3, 0.2
#: Turns for each one that changes its product three times at once, and events for each one with a poisoned companion.
BURST, POISON = 20, 500


@dataclass(frozen=True)
class Part:
    """The part that a shop plays."""

    number: int
    shops: int
    seed: int
    events: int
    products: int
    #: Events a second.
    rate: float
    broker: str
    #: The nodes' addresses for the shop, and the names that clients hash.
    nodes: Sequence[str]
    hashed: Sequence[str]
    #: True if a product is cached on its owner only, as HashClient does; False if it is on every node.
    owner_only: bool
    file: str
    #: File of the versions for other processes to read, and the share of the products whose stale copies are written
    #: down: see `tests.faults.audited`.
    truth: str = ""
    share: float = 0.0


class Shop:
    def __init__(self, part: Part) -> None:
        self._part = part
        self._chance = random.Random(f"{part.seed} {part.number}")
        self._turns = _turns(part)
        self._publishing = Publishing(part.broker)
        self._window = asyncio.Semaphore(max(10, int(part.rate * UNCONFIRMED)))
        self._changes: set[asyncio.Task[None]] = set()
        self._begun = 0
        self._confirmed = 0
        self._poison: list[str] = []
        #: Staleness of all changes, and the longest one that ended since the last report, in seconds.
        self._staleness = Staleness()
        self._slowest = 0.0

    async def run(self) -> None:
        stop = asyncio.create_task(_line_from_standard_input())
        others = [asyncio.create_task(self._serve(node)) for node in range(len(self._part.nodes))]
        others += [asyncio.create_task(self._report()), asyncio.create_task(self._change())]
        while not stop.done():
            working = {task for task in others if not task.done() or task.result()}  # raises the error that ended one
            await asyncio.wait({stop, *working}, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        self._write()

    def _write(self) -> None:
        known = self._turns.written() | {
            "poison": self._poison,
            "attempted": self._publishing.attempted,
            "staleness": self._staleness.written(),
        }
        Path(self._part.file).write_text(json.dumps(known))

    # Changing and publishing

    async def _change(self) -> None:
        """Change products at the rate until all events are published and confirmed."""
        part, turns = self._part, self._turns
        while len(turns.waiting) < part.products:
            await asyncio.sleep(0.05)
        allowed, then = 0.0, time.monotonic()
        while self._begun < part.events:
            now = time.monotonic()
            # After an outage, do not catch up all at once: the schedule needs events after it, too.
            allowed, then = min(allowed + (now - then) * part.rate, part.rate * CATCH_UP), now
            while allowed >= 1 and turns.waiting and self._begun < part.events:
                times = 1 if self._chance.randrange(BURST) else 3
                allowed -= await self._begin(min(times, part.events - self._begun))
            if turns.exhausted:
                turns.add(AT_ONCE)
            await asyncio.sleep(0.01)
        await asyncio.gather(*self._changes)

    async def _begin(self, times: int) -> int:
        product = self._turns.waiting.popleft()
        versions = self._turns.change(product, times)
        self._begun += times
        bodies = [_event(self._number(product), version) for version in versions]
        if self._begun % POISON < times:
            self._poison.append(f"poison {self._part.number} {self._begun}")
            await self._publish_soon(None, [self._poison[-1].encode()])
        await self._publish_soon(product, bodies)
        return times

    async def _publish_soon(self, product: int | None, bodies: list[bytes]) -> None:
        await self._window.acquire()
        task = asyncio.create_task(self._publish(product, bodies))
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)

    async def _publish(self, product: int | None, bodies: list[bytes]) -> None:
        try:
            await asyncio.gather(*map(self._publishing.confirmed, bodies))
        finally:
            self._window.release()
        if product is not None:
            self._confirmed += len(bodies)
            self._turns.published(product, time.monotonic())

    # Filling and reading

    async def _serve(self, node: int) -> None:
        """Fill one node and read from it, alternately, forever."""
        copies = Copies(self._part.nodes[node])
        fills, watched = self._turns.fills[node], self._turns.watched[node]
        lives = 0
        while True:
            if copies.lives > lives:
                lives = copies.lives
                await self._warm(copies, node)
            if fills:
                await self._fill(copies, node, [fills.popleft() for _ in range(min(len(fills), AT_ONCE))])
            if watched:
                await self._look(copies, node, [watched.popleft() for _ in range(min(len(watched), AT_ONCE))])
            if len(fills) < AT_ONCE:
                await asyncio.sleep(READ_EVERY)

    async def _fill(self, copies: Copies, node: int, products: list[int]) -> None:
        with suppress(NodeGoneError):  # its memory is gone, too, and holds nothing old
            await copies.fill([(self._number(product), self._turns.committed[product]) for product in products])
        self._turns.filled(node, products)

    async def _warm(self, copies: Copies, node: int) -> None:
        """Fill a node that came back empty, step by step, with products whose turn has not come yet."""
        for _ in range(0, len(self._turns.waiting), AT_ONCE):
            products = self._turns.lend(node, AT_ONCE)
            with suppress(NodeGoneError):
                await copies.fill([(self._number(product), self._turns.committed[product]) for product in products])
            self._turns.give_back(products)

    async def _look(self, copies: Copies, node: int, products: list[int]) -> None:
        try:
            held = await copies.versions(self._number(product) for product in products)
        except NodeGoneError:
            self._turns.watched[node].extendleft(reversed(products))
            await asyncio.sleep(READ_EVERY)
            return
        own = {number // self._part.shops: version for number, version in held.items()}
        for seconds in self._turns.observed(node, products, own, time.monotonic()):
            self._slowest = max(self._slowest, seconds)
            self._staleness.add(seconds)

    # The rest

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY)
            now = time.monotonic()
            report = Report(
                at=now,
                attempted=self._publishing.attempted,
                confirmed=self._confirmed,
                done=self._begun == self._part.events and not self._changes,
                pending=len(self._turns.pending),
                oldest=max(0.0, self._turns.oldest(now)),
                slowest=self._slowest,
            )
            self._slowest = 0.0
            print(json.dumps(asdict(report)), flush=True)

    def _number(self, product: int) -> int:
        return product * self._part.shops + self._part.number


@dataclass(frozen=True)
class Report:
    """The state of a shop."""

    #: Time of the monotonic clock, which all processes share, in seconds.
    at: float
    attempted: int
    #: Number of good events.
    confirmed: int
    #: True once all its events are confirmed.
    done: bool
    #: Number of products that changed and may still be stale on a node, and the age of the oldest change in seconds.
    pending: int
    oldest: float
    #: The longest staleness that ended since the last report, in seconds.
    slowest: float


def _turns(part: Part) -> Turns:
    homes = _homes(part)
    if not part.truth:
        return Turns(part.products, len(part.nodes), homes)
    number: Callable[[int], int] = lambda product: product * part.shops + part.number  # noqa: E731
    truth, now = Truth(Path(part.truth)), time.monotonic
    return BookedTurns(part.products, len(part.nodes), homes, truth=truth, share=part.share, number=number, now=now)


def _homes(part: Part) -> Callable[[int], Sequence[int]]:
    """Return the nodes of a product."""
    everywhere = range(len(part.nodes))
    ring = RendezvousHash(list(part.hashed))

    @cache
    def owner(product: int) -> Sequence[int]:
        return (part.hashed.index(ring.get_node(f"product:{product * part.shops + part.number}")),)

    return owner if part.owner_only else lambda _: everywhere


def _event(number: int, version: int) -> bytes:
    return b'{"type": "product_updated", "id": %d, "version": %d}' % (number, version)


async def _line_from_standard_input() -> Any:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return await reader.readline()


if __name__ == "__main__":
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)  # it reports at length that the broker is away
    asyncio.run(Shop(Part(**json.loads(sys.argv[1]))).run())
