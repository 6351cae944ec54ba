"""The warmer's loader: `invalidator warm --loader warmer_shop:refill` loads hot products as soon as they are evicted.

`refill` is called for every evicted key, so it must not block. It returns a function that reads the key again, or None
for a key that can wait for its next customer.
"""

import os
from collections.abc import Callable
from functools import partial

import sqlalchemy as sa

from invalidator.app import LookAsideCache

engine = sa.create_engine(os.environ["DATABASE"])
#: Of the same nodes, and with the same settings, as the application's.
cache = LookAsideCache(os.environ["MEMCACHED"].split(","))
#: The products on the front page.
HOT = frozenset(f"product:{product}" for product in range(1, 101))


def load_price(product: int) -> float | None:
    with engine.connect() as connection:
        price: float | None = connection.scalar(sa.text("SELECT price FROM product WHERE id = :id"), {"id": product})
    return price


def price_of(product: int) -> float | None:
    return cache.get_or_load(f"product:{product}", lambda: load_price(product), ttl=3600, negative_ttl=60)


def refill(key: str) -> Callable[[], object] | None:
    return partial(price_of, int(key.removeprefix("product:"))) if key in HOT else None
