"""A server whose log can be followed, and a shop with a slot of its own."""

from collections.abc import AsyncIterator, Iterator

import pytest

from invalidator.operate.topology import declared
from tests.integration.conftest import require
from tests.integration.follow.followed_shop import Shop
from tests.servers import Postgres, postgres_is_installed


@pytest.fixture(scope="package")
def logging_postgres() -> Iterator[Postgres]:
    """Start a server that writes what logical decoding needs, and deletes log as soon as a slot lets it."""
    require("postgresql", installed=postgres_is_installed())
    with Postgres("-c", "wal_level=logical", "-c", "max_wal_size=64MB", "-c", "min_wal_size=32MB") as server:
        yield server


@pytest.fixture
async def shop(logging_postgres: Postgres, vhost: str) -> AsyncIterator[Shop]:
    """Make a database with a slot, and a vhost with a cluster's queue and no worker."""
    shop = Shop(logging_postgres, vhost.rpartition("/")[2], vhost)
    await declared(shop.settings)
    await shop.create()
    yield shop
    shop.close()
