"""Foreign events for tests, in the shapes that their documentation gives, and the rules for them."""

import json
from typing import Any

import pytest

from invalidator.errors import PoisonError
from invalidator.events.event import Event, decode
from invalidator.events.rules import Rules

BEFORE, AFTER = {"id": 1004, "category_id": 3}, {"id": 1004, "category_id": 4}
POSTGRESQL: dict[str, Any] = {
    "version": "2.7.0.Final",
    "connector": "postgresql",
    "name": "shop",
    "ts_ms": 1559033904863,
    "snapshot": "false",
    "db": "shop",
    "schema": "public",
    "table": "products",
    "txId": 556,
    "lsn": 24023128,
}
MYSQL: dict[str, Any] = {
    "version": "2.7.0.Final",
    "connector": "mysql",
    "name": "dbserver1",
    "snapshot": "false",
    "db": "inventory",
    "table": "products",
    "server_id": 223344,
    "gtid": None,
    "file": "mysql-bin.000003",
    "pos": 484,
}

RULES = Rules(
    [
        ("com.example.product.updated", ["product:{id}", "category:{categories?}:listing", "seen:{ce.subject?}"]),
        ("seen", ["seen:{ce.subject}"]),
        (
            "debezium:public.products",
            ["product:{id}", "category:{before.category_id?}:listing", "category:{after.category_id?}:listing"],
        ),
        ("debezium:inventory.products", ["product:{before.id?}", "product:{after.id?}", "op:{op}:{source.connector}"]),
    ]
)


def change(op: str, before: Any = None, after: Any = None, *, source: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "before": before,
        "after": after,
        "source": POSTGRESQL if source is None else source,
        "op": op,
        "ts_ms": 1559033904961,
        "transaction": None,
    }


def read(body: Any, **properties: Any) -> Event:
    return decode(body if isinstance(body, bytes) else json.dumps(body).encode(), **properties)


def keys(body: Any, **properties: Any) -> list[str]:
    return [key.decode() for key in RULES.keys(read(body, **properties))]


def refused(body: Any, **properties: Any) -> PoisonError:
    with pytest.raises(PoisonError) as caught:
        read(body, **properties)
    return caught.value
