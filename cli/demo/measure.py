"""A shop that is opened for one act, and readers that measure how long it serves old prices."""

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
#: Seconds between two reads of a reader: the shortest staleness that it can measure.
READ_EVERY = 0.0002
#: Seconds within which a new price must be served if the act invalidates at all.
DEADLINE = 10.0


@dataclass(frozen=True)
class Shop:
    """The service and its caches. Each cache holds a copy of every product."""

    service: ProductService
    caches: Sequence[ProductCache]


@contextmanager
def open_shop(bus: SupportsPublish, stores: Mapping[str, Store]) -> Iterator[Shop]:
    """Open a shop with a database of its own and one cache per store. All counters start at zero."""
    with tempfile.TemporaryDirectory(prefix="invalidator-demo-") as folder:
        service = ProductService(Path(folder, "shop.sqlite"), bus)
        caches = [ProductCache(name, store, service) for name, store in stores.items()]
        for number in range(1, PRODUCTS + 1):
            service.add(str(number), FIRST_PRICE)
            for cache in caches:
                cache.drop(str(number))  # left by an earlier act
                cache.product(str(number))
        service.loads = 0
        for cache in caches:
            cache.dropped = 0
        with closing(service):
            yield Shop(service, caches)


@dataclass
class Watched:
    """Observations of the readers during some price changes."""

    changes: int = 0
    #: Seconds from the commit to the first read of the new price, one per change and cache that served it.
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
    """Raised when a cache still serves an old price that should have been evicted long ago."""


def change_until_fresh(shop: Shop, prices: Mapping[str, float], *, pauses: Sequence[float] = ()) -> Watched:
    """Do what `change_and_watch` does; raise `StaleError` if a new price is not served within `DEADLINE`."""
    watched = change_and_watch(shop, prices, within=DEADLINE, pauses=pauses)
    if missing := len(prices) * len(shop.caches) - len(watched.staleness):
        raise StaleError(f"{missing} copies of changed products are still served after {duration(DEADLINE)}")
    return watched


def change_and_watch(
    shop: Shop, prices: Mapping[str, float], *, within: float, pauses: Sequence[float] = ()
) -> Watched:
    """Change these prices (product id -> price) while one reader per cache keeps reading these products.

    Return when every reader has seen every new price, or `within` seconds after the last change. `pauses` are the
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
    #: Product id -> time at which its new price was first read, in seconds of `time.monotonic`.
    fresh: dict[str, float] = field(default_factory=dict)
    reads: int = 0


def _read(cache: ProductCache, prices: Mapping[str, float], enough: threading.Event) -> _Seen:
    """Read products until each has its new price."""
    seen = _Seen()
    while len(seen.fresh) < len(prices) and not enough.is_set():
        for product in prices.keys() - seen.fresh.keys():
            price = cache.product(product).price
            seen.reads += 1
            if price == prices[product]:
                seen.fresh[product] = time.monotonic()
        time.sleep(READ_EVERY)
    return seen
