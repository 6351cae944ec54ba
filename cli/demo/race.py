"""Act 5: a slow reader writes back the value that it read before the change; plain, and through `LookAsideCache`.

reader    loads the old row ····················································· puts it into the cache
service                      changes the price ─> event ─> every copy evicted
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing

import pika
from pika.adapters.blocking_connection import BlockingConnection

from invalidator.app import LookAsideCache

from .acts import Say
from .fanout import FanoutBus
from .figures import duration
from .measure import DEADLINE, FIRST_PRICE, Shop, StaleError, open_shop
from .shop import CoherentProductCache, Product, ProductCache, ProductSource
from .stores import Address, Nodes, memcached_store

NEW_PRICE = FIRST_PRICE + 10


class SlowSource:
    """The service for a reader that is delayed between its load and its fill."""

    def __init__(self, source: ProductSource) -> None:
        self._source = source
        self.has_loaded, self.may_go_on = threading.Event(), threading.Event()

    def load(self, id: str) -> Product:
        product = self._source.load(id)
        self.has_loaded.set()
        self.may_go_on.wait(DEADLINE)
        return product


def race(addresses: Sequence[Address], broker: str, say: Say) -> None:
    """Play act 5 on one cluster. Its workers must be consuming."""
    store = memcached_store(addresses)
    with (
        BlockingConnection(pika.URLParameters(broker)) as connection,
        closing(store),
        closing(Nodes(addresses)) as nodes,
        closing(LookAsideCache([f"{host}:{port}" for host, port in addresses])) as coherent,
        open_shop(FanoutBus(connection), {"eu": store}) as shop,
    ):
        say(
            f"A reader has loaded a product at {FIRST_PRICE:.2f} and is delayed before it fills the cache. The price "
            f"becomes {NEW_PRICE:.2f}, every copy is evicted, and then the reader continues."
        )
        price = _raced(shop, nodes, "1", lambda source: ProductCache("eu", store, source).product)
        say(f"Plain look-aside: the next customer sees {price:.2f}, and so does every later one.")
        price = _raced(shop, nodes, "2", lambda source: CoherentProductCache(coherent, source).product)
        say(
            f"Through LookAsideCache: the next customer sees {price:.2f}. A reader may only fill over its own "
            "placeholder, and the eviction removed that."
        )


def _raced(shop: Shop, nodes: Nodes, id: str, reads_from: Callable[[ProductSource], Callable[[str], Product]]) -> float:
    """Run the race, and return the price that the next customer sees."""
    key, slow = f"product:{id}", SlowSource(shop.service)
    shop.caches[0].drop(id)
    reader = threading.Thread(target=reads_from(slow), args=(id,))
    reader.start()
    slow.has_loaded.wait(DEADLINE)
    if not nodes.copies(key):  # LookAsideCache put its placeholder there; the plain reader put nothing
        nodes.put(key, b"old")
    committed = shop.service.change_price(id, NEW_PRICE)
    while nodes.copies(key):
        if time.monotonic() > committed + DEADLINE:
            raise StaleError(f"copies of product {id} are still there {duration(DEADLINE)} after the event")
    slow.may_go_on.set()
    reader.join()
    return reads_from(shop.service)(id).price
