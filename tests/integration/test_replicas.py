"""LookAsideCache in front of a real PostgreSQL replica, as conf/examples/replica_shop.py sets it up."""

import threading
import time
from collections.abc import Iterator
from types import ModuleType

import pytest

from invalidator.app import LookAsideCache
from tests.servers import Memcached, Postgres, postgres_is_installed

from .conftest import MemcachedFactory, require
from .test_examples import example

KEY = "product:17"


class Shop:
    """A primary, its replica, a memcached, and the example that reads through them."""

    def __init__(self, primary: Postgres, replica: Postgres, memcached: Memcached, module: ModuleType) -> None:
        self.primary, self.replica, self.memcached, self.module = primary, replica, memcached, module

    def change_price(self, price: float) -> None:
        """Commit and then evict, as an application and a worker do together."""
        self.primary.sql(f"UPDATE product SET price = {price} WHERE id = 17")
        self.memcached.delete(KEY)

    def catch_up(self) -> None:
        written = self.primary.sql("SELECT pg_current_wal_insert_lsn()")
        while self.replica.sql(f"SELECT pg_last_wal_replay_lsn() >= '{written}'") != "t":
            time.sleep(0.01)

    def cached(self) -> bytes | None:
        """Return the value under the key, or None if there is none or a placeholder."""
        found = self.memcached.get(KEY)
        return None if found and len(found) == 32 else found


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Postgres, Postgres]]:
    require("postgresql", installed=postgres_is_installed())
    with Postgres() as primary:
        primary.sql("CREATE TABLE product (id integer PRIMARY KEY, price float8)")
        primary.sql("INSERT INTO product VALUES (17, 1)")
        with Postgres(primary=primary) as replica:
            yield primary, replica


@pytest.fixture
def shop(
    servers: tuple[Postgres, Postgres], memcached: MemcachedFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Shop]:
    (primary, replica), node = servers, memcached()
    for name, value in {"PRIMARY": primary.url(), "REPLICA": replica.url(), "MEMCACHED": node.address}.items():
        monkeypatch.setenv(name, value)
    module = example("replica_shop")
    shop = Shop(primary, replica, node, module)
    primary.sql("UPDATE product SET price = 1 WHERE id = 17")
    shop.catch_up()
    yield shop
    module.cache.close()
    for url in (primary.url(), replica.url()):
        module.connection(url).close()


def test_replica_that_has_caught_up_with_an_idle_primary_fills(shop: Shop) -> None:
    assert 1.0 == shop.module.price_of(17)
    assert b"1.0" == shop.cached()
    assert shop.module.price_of(18) is None


def test_value_of_a_lagging_replica_is_served_and_not_cached_until_it_has_caught_up(shop: Shop) -> None:
    shop.replica.sql("SELECT pg_wal_replay_pause()")
    try:
        shop.change_price(2)
        assert [1.0, 1.0] == [shop.module.price_of(17) for _ in range(2)]
        assert shop.cached() is None
    finally:
        shop.replica.sql("SELECT pg_wal_replay_resume()")
    shop.catch_up()
    assert 2.0 == shop.module.price_of(17)
    assert b"2.0" == shop.cached()


def test_without_positions_the_same_replica_leaves_a_stale_value(shop: Shop) -> None:
    cache = LookAsideCache([shop.memcached.address])
    shop.replica.sql("SELECT pg_wal_replay_pause()")
    try:
        shop.change_price(2)
        assert 1.0 == cache.get_or_load(KEY, lambda: shop.module.load_price(17).value, ttl=60)
    finally:
        shop.replica.sql("SELECT pg_wal_replay_resume()")
    cache.close()
    assert b"1.0" == shop.cached()


def test_readers_beside_hundreds_of_changes_leave_nothing_stale(shop: Shop) -> None:
    over = threading.Event()
    seen: set[float] = set()

    def read() -> None:
        while not over.is_set():
            seen.add(shop.module.price_of(17))
        for url in (shop.primary.url(), shop.replica.url()):
            shop.module.connection(url).close()

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    filled = 0
    writer = shop.module.connection(shop.primary.url())
    price, deadline = 1, time.monotonic() + 60
    # Hundreds of changes, and more on a machine where the readers have hardly begun by then.
    while price < 301 or filled <= 10 or len(seen) <= 3:
        assert time.monotonic() < deadline, f"readers filled the key {filled} times"
        price += 1
        writer.execute("UPDATE product SET price = %s WHERE id = 17", (price,))
        filled += shop.memcached.delete(KEY)
        assert shop.cached() in (None, b"%d.0" % price)
    over.set()
    for reader in readers:
        reader.join()
    shop.catch_up()
    assert float(price) == shop.module.price_of(17)
    assert shop.cached() == b"%d.0" % price
