"""Readers: they fill the cache through LookAsideCache all the time, and compare it with the database at the end."""

import json
import random
import threading
from typing import Any

import psycopg

from invalidator.app import LookAsideCache
from tests.faults.followed.writers import CATEGORIES, SIZE
from tests.servers import Memcached, Postgres

PRODUCTS = range(CATEGORIES * SIZE)
#: Bytes of a placeholder.
PLACEHOLDER = 32


class Reader:
    """One thread that reads products at random."""

    def __init__(self, node: Memcached, server: Postgres, database: str, *, seed: int) -> None:
        self._url = server.url(database)
        self._chance = random.Random(seed)
        self._cache = LookAsideCache([node.address])
        self._connection: psycopg.Connection | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        if self._connection:
            self._connection.close()

    def _read(self) -> None:
        while not self._stopping.wait(0.002):
            product = self._chance.choice(PRODUCTS)
            try:
                self._cache.get_or_load(f"product:{product}", lambda: self._load(product), ttl=3600)  # noqa: B023
            except psycopg.OperationalError:
                self._connection = None
                self._stopping.wait(0.2)

    def _load(self, product: int) -> int:
        if self._connection is None:
            self._connection = psycopg.connect(self._url, autocommit=True)
        row = self._connection.execute("SELECT change FROM products WHERE id = %s", [product]).fetchone()
        return row[0] if row else 0


def stale(node: Memcached, server: Postgres, database: str) -> list[int]:
    """Return the products whose cached change is not the row's."""
    with psycopg.connect(server.url(database)) as connection:
        rows = dict[int, int](connection.execute("SELECT id, change FROM products").fetchall())
    return [
        product
        for product in PRODUCTS
        if (cached := _value(node.get(f"product:{product}"))) is not None and cached != rows.get(product, 0)
    ]


def _value(stored: bytes | None) -> Any:
    """Return the value that a reader stored, None for a miss or a placeholder (32 hexadecimal digits)."""
    return None if stored is None or len(stored) == PLACEHOLDER else json.loads(stored)
