"""A shop opened for one act, and readers who note how long it serves old prices."""

import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path

from invalidator.app.publish.bus import SupportsPublish
from invalidator.errors import InvalidatorError

from .figures import duration
from .shop import ProductCache, ProductService, Store

PRODUCTS = 20
FIRST_PRICE = 99.99
#: Seconds between two reads of the same reader: the shortest staleness that can be seen.
READ_EVERY = 0.0002
#: Seconds that a new price may take to be seen where something is done about it.
DEADLINE = 10.0


@dataclass(frozen=True)
class Shop:
    """The service and its caches, which hold a copy of every product."""

    service: ProductService
    caches: Sequence[ProductCache]


@contextmanager
def open_shop(bus: SupportsPublish, stores: Mapping[str, Store]) -> Iterator[Shop]:
    """A shop with a database of its own and one cache a store, its counters at zero."""
    with tempfile.TemporaryDirectory(prefix="invalidator-demo-") as folder:
        service = ProductService(Path(folder, "shop.sqlite"), bus)
        caches = [ProductCache(name, store, service) for name, store in stores.items()]
        for number in range(1, PRODUCTS + 1):
            service.add(str(number), FIRST_PRICE)
            for cache in caches:
                cache.drop(str(number))  # what an earlier act left
                cache.product(str(number))
        service.loads = 0
        for cache in caches:
            cache.dropped = 0
        with closing(service):
            yield Shop(service, caches)


@dataclass
class Watched:
    """What readers saw of some price changes."""

    changes: int = 0
    #: Seconds from the commit to the first read of the new price, one a change and cache; none where it never came.
    staleness: list[float] = field(default_factory=list)
    reads: int = 0
    old_reads: int = 0

    def __add__(self, other: "Watched") -> "Watched":
        return Watched(
            self.changes + other.changes,
            self.staleness + other.staleness,
            self.reads + other.reads,
            self.old_reads + other.old_reads,
        )


class StaleError(InvalidatorError):
    """Raised when a cache still serves an old price although something should have dropped it long ago."""


def change_until_fresh(shop: Shop, prices: Mapping[str, float], *, pauses: Sequence[float] = ()) -> Watched:
    """As `change_and_watch`; raises `StaleError` where a new price is not seen in `DEADLINE`."""
    watched = change_and_watch(shop, prices, within=DEADLINE, pauses=pauses)
    if missing := len(prices) * len(shop.caches) - len(watched.staleness):
        raise StaleError(f"{missing} copies of changed products are still served after {duration(DEADLINE)}")
    return watched


def change_and_watch(
    shop: Shop, prices: Mapping[str, float], *, within: float, pauses: Sequence[float] = ()
) -> Watched:
    """Change these prices (product's id -> price) while a reader of each cache reads these products again and again.

    Returns when every reader saw every new price, or `within` seconds after the last change. `pauses` is how many
    seconds to wait before each change.
    """
    enough = threading.Event()
    watched = Watched(changes=len(prices))
    with ThreadPoolExecutor(len(shop.caches)) as readers:
        reading = [readers.submit(_read, cache, prices, enough) for cache in shop.caches]
        try:
            committed = {}
            for (product, price), pause in zip(prices.items(), pauses or repeat(0.0), strict=False):
                time.sleep(pause)
                committed[product] = shop.service.change_price(product, price)
            wait(reading, within)
        finally:
            enough.set()
    for reader in reading:
        seen = reader.result()
        watched.staleness += [moment - committed[product] for product, moment in seen.fresh.items()]
        watched.reads += seen.reads
        watched.old_reads += seen.reads - len(seen.fresh)
    return watched


@dataclass
class _Seen:
    #: Product's id -> when its new price was first read, in seconds of `time.monotonic`.
    fresh: dict[str, float] = field(default_factory=dict)
    reads: int = 0


def _read(cache: ProductCache, prices: Mapping[str, float], enough: threading.Event) -> _Seen:
    """Read products until each shows its new price."""
    seen = _Seen()
    while len(seen.fresh) < len(prices) and not enough.is_set():
        for product in prices.keys() - seen.fresh.keys():
            price = cache.product(product).price
            seen.reads += 1
            if price == prices[product]:
                seen.fresh[product] = time.monotonic()
        time.sleep(READ_EVERY)
    return seen
