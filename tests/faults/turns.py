"""One shop's books: products that may change next, and products that changed and are still watched. Pure.

    fill version v on its nodes ─> waiting ─> commit v+1, publish ─> confirmed ─> seen gone on each node ─> fill v+1 …
         (`fills`)               (`changes`)                         (`watched`)

Rules of this file:

1. Version v is filled only before v+1 is committed. So a copy older than the last confirmed version was not evicted.
2. A product changes again only after its change was seen on all its nodes: its copy is gone, or as new. So no later
   eviction hides that an earlier one was lost. A lost one is still there at the end, and is counted.
3. A node that does not answer delays only the products that changed meanwhile or were being filled. It holds enough
   others that wait for their turn.
"""

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any


class Turns:
    """The turns of a shop's products. ``homes`` maps a product to the numbers of the nodes that may cache it."""

    def __init__(self, products: int, nodes: int, homes: Callable[[int], Sequence[int]]) -> None:
        self._homes = homes
        #: Product -> the last version committed, and the last one whose event the broker confirmed.
        self.committed = array("l")
        self.confirmed = array("l")
        #: Node -> products to fill, and products to read.
        self.fills: list[deque[int]] = [deque() for _ in range(nodes)]
        self.watched: list[deque[int]] = [deque() for _ in range(nodes)]
        #: Products that may change. They were filled wherever that was possible.
        self.waiting: deque[int] = deque()
        #: Confirmed changes that were not yet seen on all nodes.
        self.pending: dict[int, float] = {}
        #: Product -> number of nodes that its phase still waits for.
        self._left = array("b")
        self.add(products)

    def add(self, products: int) -> None:
        """Add products, for when all others are stale or lost."""
        first = len(self.committed)
        self.committed.extend([1] * products)
        self.confirmed.extend([1] * products)
        self._left.extend([0] * products)
        for product in range(first, first + products):
            self._fill(product)

    @property
    def exhausted(self) -> bool:
        """Return True if every product is stale somewhere, so that none may change for now."""
        return len(self.pending) == len(self.committed)

    def change(self, product: int, times: int = 1) -> list[int]:
        """Commit the next version, or several at once; return those to publish."""
        before = self.committed[product]
        self.committed[product] += times
        return list(range(before + 1, before + times + 1))

    def filled(self, node: int, products: Iterable[int]) -> None:
        """Record that the node holds these, or never will because it is gone with its memory."""
        for product in products:
            self._left[product] -= 1
            if not self._left[product]:
                self.waiting.append(product)

    def lend(self, node: int, count: int) -> list[int]:
        """Take waiting products, the last in line, to fill them on a node again. The caller gives all of them back."""
        lent = [self.waiting.pop() for _ in range(min(count, len(self.waiting)))]
        self.waiting.extendleft(product for product in lent if node not in self._homes(product))
        return [product for product in lent if node in self._homes(product)]

    def give_back(self, products: Iterable[int]) -> None:
        """Put lent products first in line, so that others are lent next."""
        self.waiting.extendleft(products)

    def published(self, product: int, now: float) -> None:
        """Record that the broker has confirmed every committed version."""
        self.confirmed[product] = self.committed[product]
        self.pending[product] = now
        homes = self._homes(product)
        self._left[product] = len(homes)
        for node in homes:
            self.watched[node].append(product)

    def observed(self, node: int, products: Iterable[int], held: dict[int, int], now: float) -> list[float]:
        """Record the versions that a node holds of these products; return the staleness of each that is done now.

        It is the time in seconds from the confirmation until no node was seen to serve an older version.
        """
        done = []
        for product in products:
            if held.get(product, self.confirmed[product]) < self.confirmed[product]:
                self.watched[node].append(product)
                continue
            self._left[product] -= 1
            if not self._left[product]:
                done.append(now - self.pending.pop(product))
                self._fill(product)
        return done

    def oldest(self, now: float) -> float:
        """Return the age of the oldest pending change in seconds."""
        # Changes are confirmed nearly in order, and a dict keeps that order.
        return now - next(iter(self.pending.values()), now)

    def written(self) -> dict[str, Any]:
        """Return the versions as the shop's books hold them."""
        return {"confirmed": list(self.confirmed)}

    def _fill(self, product: int) -> None:
        homes = self._homes(product)
        self._left[product] = len(homes)
        for node in homes:
            self.fills[node].append(product)
