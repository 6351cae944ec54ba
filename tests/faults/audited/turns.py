"""The turns of a shop that writes down what it commits and what it sees, so that others can be judged by it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from invalidator.audit.changes.sampling import Sample
from tests.faults.audited.truth import Truth
from tests.faults.turns import Turns


class Stay(NamedTuple):
    """The stay of an old copy on a node. Times are seconds of the monotonic clock, which all processes share."""

    product: int
    #: Number of the node.
    node: int
    #: The time at which it became old.
    committed: float
    #: The copy was there, and old, from the one to the other; None if it was not seen.
    first: float | None
    last: float | None
    #: The time at which it was gone; None if it never was.
    gone: float | None


class Look(NamedTuple):
    """The looks at an old copy so far."""

    first: float
    #: The one before the newest: the copy was still there when the newest was asked for.
    last: float
    newest: float


class BookedTurns(Turns):
    """Turns whose truth is in a file, and whose stays are written down for a sample of the products."""

    def __init__(
        self,
        products: int,
        nodes: int,
        homes: Callable[[int], Sequence[int]],
        *,
        truth: Truth,
        share: float,
        number: Callable[[int], int],
        now: Callable[[], float],
    ) -> None:
        """Write versions to `truth`, under the number that `number` returns for a product of this shop."""
        self._truth = truth
        self._sample = Sample(share)
        self._number = number
        self._now = now
        self._committed_at: dict[int, float] = {}
        self._looks: dict[tuple[int, int], Look] = {}
        self._stays: list[Stay] = []
        super().__init__(products, nodes, homes)

    def change(self, product: int, times: int = 1) -> list[int]:
        versions = super().change(product, times)
        self._truth.commit(self._number(product), versions[-1])
        if f"product:{self._number(product)}" in self._sample:
            self._committed_at[product] = self._now()
        return versions

    def published(self, product: int, now: float) -> None:
        super().published(product, now)
        self._truth.confirm(self._number(product), self.confirmed[product])

    def observed(self, node: int, products: Iterable[int], held: dict[int, int], now: float) -> list[float]:
        products = list(products)
        for product in products:
            if product in self._committed_at:
                is_old = held.get(product, self.confirmed[product]) < self.confirmed[product]
                self._see(product, node, now, is_old=is_old)
        return super().observed(node, products, held, now)

    def _see(self, product: int, node: int, now: float, *, is_old: bool) -> None:
        place = product, node
        if is_old:
            before = self._looks.get(place)
            self._looks[place] = Look(before.first, before.newest, now) if before else Look(now, now, now)
        else:
            self._stays.append(self._stay(product, node, self._looks.pop(place, None), gone=now))

    def _stay(self, product: int, node: int, look: Look | None, *, gone: float | None) -> Stay:
        first, last = (look.first, look.last) if look else (None, None)
        return Stay(self._number(product), node, self._committed_at[product], first, last, gone)

    def written(self) -> dict[str, Any]:
        """Return the versions, and all stays, also those that are not over."""
        lasting = [self._stay(*place, look, gone=None) for place, look in self._looks.items()]
        return super().written() | {"stays": self._stays + lasting}
