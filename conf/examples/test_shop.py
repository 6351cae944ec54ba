"""Tests of flask_shop.py without a broker and without memcached: pytest test_shop.py"""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy as sa

from invalidator.app import Event, Outbox, UnreachableError
from invalidator.testing import MemoryCluster

pytest_plugins = ["invalidator.testing.fixtures"]


@pytest.fixture
def memory_rules() -> list[dict[str, Any]]:
    """Return the shop's rules. The path of its invalidator.toml would do as well."""
    return [{"on": "product_updated", "evict": ["product:{id}"]}]


@pytest.fixture
def shop(memory_cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """Return the shop on the cluster in memory, with one product."""
    for name in ("DATABASE", "BROKER_URL", "MEMCACHED"):
        monkeypatch.setenv(name, {"DATABASE": "sqlite://", "BROKER_URL": "amqp://unused/"}.get(name, "unused"))
    import flask_shop  # noqa: PLC0415  it reads its environment

    engine = sa.create_engine(f"sqlite:///{tmp_path}/shop.db")
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE product (id INTEGER PRIMARY KEY, price REAL)"))
        connection.execute(sa.text("INSERT INTO product VALUES (17, 119.99)"))
    Outbox().create(engine)
    monkeypatch.setattr(flask_shop, "engine", engine)
    monkeypatch.setattr(flask_shop, "publisher", memory_cluster.publisher)
    memory_cluster.serve(flask_shop.cache)
    return flask_shop


def test_a_new_price_is_read_at_once(shop: ModuleType, memory_cluster: MemoryCluster) -> None:
    client = shop.app.test_client()
    assert client.get("/products/17").json == {"price": 119.99}
    client.put("/products/17", data={"price": "109.99"})
    assert client.get("/products/17").json == {"price": 109.99}
    assert [Event("product_updated", {"id": 17, "price": 109.99})] == memory_cluster.events


def test_without_a_broker_the_event_is_kept(shop: ModuleType, memory_cluster: MemoryCluster) -> None:
    memory_cluster.publisher.failure = UnreachableError("no broker answers")
    shop.app.test_client().put("/products/17", data={"price": "109.99"})
    with shop.engine.connect() as connection:
        assert len(Outbox().read(connection, limit=10)) == 1
