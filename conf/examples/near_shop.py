"""NearCache: hot products are served from the process itself, and forgotten as soon as a worker evicts them.

Every process keeps its own copies, so use it for the few keys that every request reads. All readers of a key get the
same object: treat it as read-only.
"""

import os

import sqlalchemy as sa

from invalidator.app import LookAsideCache, NearCache

engine = sa.create_engine(os.environ["DATABASE"])
shared = LookAsideCache(os.environ["MEMCACHED"].split(","))
#: It begins to listen at the first read, so it may be made before a server forks.
cache = NearCache(shared, os.environ["BROKER_URL"], cluster=os.environ["CLUSTER"])


def load_price(product: int) -> float | None:
    with engine.connect() as connection:
        price: float | None = connection.scalar(sa.text("SELECT price FROM product WHERE id = :id"), {"id": product})
    return price


def price_of(product: int) -> float | None:
    return cache.get_or_load(f"product:{product}", lambda: load_price(product), ttl=3600, negative_ttl=60)
