"""Read from a PostgreSQL replica, and cache only values that are proven new: PRIMARY and REPLICA are URLs.

An eviction comes after its commit. So a value from a replica may be cached if the replica had replayed everything that
the primary had written when the reader's placeholder was in memcached. Positions in the log are bytes written so far.
"""

import os
import threading

import psycopg

from invalidator.app import Loaded, LookAsideCache

_of_this_thread = threading.local()


def connection(url: str) -> psycopg.Connection:
    """Return this thread's connection. autocommit: each statement sees the data of when *it* begins."""
    if not hasattr(_of_this_thread, url):
        setattr(_of_this_thread, url, psycopg.connect(url, autocommit=True))
    found: psycopg.Connection = getattr(_of_this_thread, url)
    return found


def position() -> int:
    """Return the last byte that the primary has written. *insert*: a commit may be seen before it is on the disk."""
    row = connection(os.environ["PRIMARY"]).execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchone()
    assert row
    return int(row[0]) - 1


def load_price(product: int) -> Loaded[float | None]:
    replica = connection(os.environ["REPLICA"])
    # Asked first, in a statement of its own: all bytes before this one have been replayed, and the next statement
    # sees at least that. In one statement, or in REPEATABLE READ, the snapshot would be older than the answer.
    replayed = replica.execute("SELECT pg_last_wal_replay_lsn() - '0/0'").fetchone()
    price = replica.execute("SELECT price FROM product WHERE id = %s", (product,)).fetchone()
    return Loaded(price[0] if price else None, as_of=int(replayed[0]) if replayed else None)


cache = LookAsideCache(os.environ["MEMCACHED"].split(","), position=position)


def price_of(product: int) -> float | None:
    return cache.get_or_load(f"product:{product}", lambda: load_price(product), ttl=3600)
