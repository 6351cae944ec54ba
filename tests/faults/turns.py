"""Which product may change next, and what is still to be seen of those that changed. Pure; one shop's book-keeping.

    fill version v on its nodes ─> waiting ─> commit v+1, publish ─> confirmed ─> seen gone on each node ─> fill v+1 …
         (`fills`)               (`changes`)                         (`watched`)

Rules of this file:

1. Version v is filled only before v+1 is committed: what a node holds that is older than the last confirmed version was
   not evicted.
2. A product changes again only when its change has been seen on all its nodes: gone there, or a version as new. So no
   later eviction can hide that an earlier one was lost; what was lost is there at the end, and is counted.
3. A node that does not answer holds up nothing but the products that changed meanwhile, or were being filled: enough
   others, which it holds, are waiting for their turn.
"""

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence


class Turns:
    """``homes`` says on which nodes (by number) a product may be cached."""

    def __init__(self, products: int, nodes: int, homes: Callable[[int], Sequence[int]]) -> None:
        self._homes = homes
        #: The last version committed, and the last one whose event the broker confirmed, by product.
        self.committed = array("l")
        self.confirmed = array("l")
        #: Products to fill, and products to look at, by node.
        self.fills: list[deque[int]] = [deque() for _ in range(nodes)]
        self.watched: list[deque[int]] = [deque() for _ in range(nodes)]
        #: Products that may change: filled wherever that was possible.
        self.waiting: deque[int] = deque()
        #: Changes confirmed, and not seen on all nodes yet.
        self.pending: dict[int, float] = {}
        #: Nodes from which the product's phase still needs a word.
        self._left = array("b")
        self.add(products)

    def add(self, products: int) -> None:
        """Further products: for when all others are stale, or lost."""
        first = len(self.committed)
        self.committed.extend([1] * products)
        self.confirmed.extend([1] * products)
        self._left.extend([0] * products)
        for product in range(first, first + products):
            self._fill(product)

    @property
    def exhausted(self) -> bool:
        """Whether every product is stale somewhere: none may change until one is seen gone."""
        return len(self.pending) == len(self.committed)

    def change(self, product: int, times: int = 1) -> list[int]:
        """Commit the next version, or several at once; returns which are to be published."""
        before = self.committed[product]
        self.committed[product] += times
        return list(range(before + 1, before + times + 1))

    def filled(self, node: int, products: Iterable[int]) -> None:
        """The node holds them, or certainly never will: it is gone, and its memory with it."""
        for product in products:
            self._left[product] -= 1
            if not self._left[product]:
                self.waiting.append(product)

    def lend(self, node: int, count: int) -> list[int]:
        """Up to so many waiting products, the last in line, to be filled on a node again; give all of them back."""
        lent = [self.waiting.pop() for _ in range(min(count, len(self.waiting)))]
        self.waiting.extendleft(product for product in lent if node not in self._homes(product))
        return [product for product in lent if node in self._homes(product)]

    def give_back(self, products: Iterable[int]) -> None:
        """They are first in line now, so that the next to be lent are others."""
        self.waiting.extendleft(products)

    def published(self, product: int, now: float) -> None:
        """Every version committed is confirmed by the broker."""
        self.confirmed[product] = self.committed[product]
        self.pending[product] = now
        homes = self._homes(product)
        self._left[product] = len(homes)
        for node in homes:
            self.watched[node].append(product)

    def looked(self, node: int, products: Iterable[int], held: dict[int, int], now: float) -> list[float]:
        """What the node holds of these (product -> version); returns how long those that are done now were stale.

        Seconds from the confirmation until no node served an older version, as far as looking from time to time tells.
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
        """Seconds that the oldest pending change has been pending."""
        # Changes are confirmed nearly in order, and a dict keeps it.
        return now - next(iter(self.pending.values()), now)

    def _fill(self, product: int) -> None:
        homes = self._homes(product)
        self._left[product] = len(homes)
        for node in homes:
            self.fills[node].append(product)
