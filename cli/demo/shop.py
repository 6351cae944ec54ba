"""The example shop: products in a database, copies of them in a cache, and a bus between the two.

    ProductService.change_price ── commit, then publish ──> bus ──> subscribers
    ProductCache.product ── hit: the copy;  miss: ProductService.load, and keep a copy

The service does not know the caches. It publishes events to the bus, and the subscribers decide what they mean.

`ProductCache` is plain look-aside, as in most applications: a reader that loaded just before a commit may still write
its old product into the cache just after the eviction. `CoherentProductCache` prevents that (see race.py).
"""

import json
import sqlite3
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from invalidator.app import LookAsideCache
from invalidator.app.publish.bus import SupportsPublish

PRODUCT_UPDATED = "product_updated"

CHANGE = "UPDATE products SET price = ?, revision = (SELECT max(revision) + 1 FROM products) WHERE id = ?"


@dataclass(frozen=True)
class Product:
    """A row of the table."""

    id: str
    price: float
    #: Counts the changes of all products, so that a poller can query "changed since 41".
    revision: int


class ProductService:
    """The source of truth: a SQLite database whose changes are published."""

    def __init__(self, database: Path, bus: SupportsPublish) -> None:
        self._bus = bus
        self._lock = threading.Lock()
        self._database = sqlite3.connect(database, check_same_thread=False)
        with self._database:
            self._database.execute("CREATE TABLE products (id TEXT PRIMARY KEY, price REAL, revision INTEGER)")
            self._database.execute("CREATE INDEX products_by_revision ON products (revision)")
        #: SELECTs so far: of one product, and of changes.
        self.loads = self.polls = 0

    def add(self, id: str, price: float) -> None:
        with self._lock, self._database:
            self._database.execute("INSERT INTO products VALUES (?, ?, 0)", (id, price))

    def change_price(self, id: str, price: float) -> float:
        """Commit, then publish. Return the time of the commit, in seconds of `time.monotonic`."""
        with self._lock:
            with self._database:
                self._database.execute(CHANGE, (price, id))
            committed = time.monotonic()
        self._bus.publish(PRODUCT_UPDATED, {"id": id, "price": price})
        return committed

    def import_prices(self, prices: Mapping[str, float]) -> None:
        """Commit all prices, then publish one event."""
        with self._lock, self._database:
            self._database.executemany(CHANGE, [(price, id) for id, price in prices.items()])
        self._bus.publish(PRODUCT_UPDATED, {"id": list(prices)})

    def load(self, id: str) -> Product:
        with self._lock:
            self.loads += 1
            return Product(*self._database.execute("SELECT * FROM products WHERE id = ?", (id,)).fetchone())

    def changed_since(self, revision: int) -> list[Product]:
        """Return the products that changed after `revision`. Most polls find none."""
        with self._lock:
            self.polls += 1
            rows = self._database.execute("SELECT * FROM products WHERE revision > ? ORDER BY revision", (revision,))
            return [Product(*row) for row in rows]

    def close(self) -> None:
        self._database.close()


class ProductSource(Protocol):
    """The source from which a cache loads missing products."""

    def load(self, id: str) -> Product: ...


class Store(Protocol):
    """The storage for a cache's copies. pymemcache's clients fit."""

    def get(self, key: str) -> bytes | None: ...
    def set(self, key: str, value: bytes) -> bool: ...
    def delete(self, key: str) -> bool: ...


class ProductCache:
    """Copies of products, for one fleet of applications."""

    def __init__(self, name: str, store: Store, service: ProductSource) -> None:
        self.name = name
        self._store = store
        self._service = service
        #: Copies that existed when they were dropped.
        self.dropped = 0

    def product(self, id: str) -> Product:
        copy = self._store.get(f"product:{id}")
        if copy is not None:
            return Product(**json.loads(copy))
        product = self._service.load(id)
        self._store.set(f"product:{id}", json.dumps(asdict(product)).encode())
        return product

    def drop(self, id: str) -> None:
        self.dropped += self._store.delete(f"product:{id}")

    def on_product_updated(self, event: Mapping[str, Any]) -> None:
        self.drop(event["id"])


class CoherentProductCache:
    """The same through `LookAsideCache`: no reader can bring an old product back."""

    def __init__(self, cache: LookAsideCache, service: ProductSource) -> None:
        self._cache = cache
        self._service = service

    def product(self, id: str) -> Product:
        return Product(**self._cache.get_or_load(f"product:{id}", lambda: asdict(self._service.load(id)), ttl=3600))
