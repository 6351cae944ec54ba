"""Events of other publishers through a real broker and a worker: headers, properties and bodies as they send them."""

import json
from typing import Any

import msgspec
import pytest

from invalidator.settings import RuleSettings
from tests.integration.conftest import MemcachedFactory
from tests.integration.shop import eventually, publishing, settings_for, working

RULES = [
    RuleSettings(on="com.example.product.updated", evict=["product:{id}"]),
    RuleSettings(on="debezium:public.products", evict=["product:{id}"]),
]
STRUCTURED = {"specversion": "1.0", "type": "com.example.product.updated", "source": "/", "id": "1", "data": {"id": 7}}
BINARY = {"cloudEvents:specversion": "1.0", "cloudEvents:type": "com.example.product.updated", "cloudEvents:id": "1"}
BOTH = {"specversion": "1.0", "type": "com.example.product.updated", "source": "/", "id": "A234-1234-1234"}
FLATTENED = {"id": 7, "type": "shirt", "__deleted": "true", "__op": "d", "__table": "products", "__schema": "public"}
ORACLE = {
    "schema": {
        "type": "struct",
        "fields": [
            {
                "field": "before",
                "type": "struct",
                "fields": [
                    {
                        "field": "id",
                        "type": "bytes",
                        "name": "org.apache.kafka.connect.data.Decimal",
                        "parameters": {"scale": "0"},
                    }
                ],
            }
        ],
    },
    "payload": {"before": {"id": "Bw=="}, "op": "d", "source": {"schema": "public", "table": "products"}},
}
DEBEZIUM = {"before": None, "after": {"id": 7}, "op": "u", "source": {"schema": "public", "table": "products"}}


@pytest.mark.parametrize(
    ("body", "properties"),
    [
        (STRUCTURED, {"content_type": "application/cloudevents+json; charset=utf-8"}),
        ({"id": 7, "type": "shirt"}, {"content_type": "application/json", "headers": BINARY}),
        (
            BOTH | {"data": {"id": 7}},
            {
                "content_type": "application/cloudevents+json; charset=utf-8",
                "headers": {f"cloudEvents:{name}": value for name, value in BOTH.items()},
            },
        ),
        (DEBEZIUM, {"headers": {"id": "7"}}),
        (FLATTENED, {}),
        (ORACLE, {}),
        ({"type": "com.example.product.updated", "id": "7", "name": "\ud83d"}, {"content_encoding": "binary"}),
        ({"schema": {}, "payload": DEBEZIUM}, {}),
    ],
    ids=[
        "structured",
        "binary",
        "structured-with-headers",
        "debezium",
        "debezium-flattened",
        "debezium-decimal",
        "half-a-surrogate-pair",
        "debezium-with-schema",
    ],
)
@pytest.mark.parametrize("consumer", ["tap", "aio-pika"])
async def test_a_foreign_event_evicts_and_a_tombstone_is_no_dead_letter(
    vhost: str, memcached: MemcachedFactory, consumer: str, body: Any, properties: dict[str, Any]
) -> None:
    node = memcached()
    settings = msgspec.structs.replace(settings_for(vhost, [node], broker={"consumer": consumer}), rule=RULES)
    node.set("product:7", b"old")
    async with working(settings), publishing(vhost) as shop:
        for tombstone in (b"default", b"null", b""):
            await shop.raw(tombstone)
        await shop.raw(json.dumps(body).encode(), **properties)
        await eventually(lambda: node.get("product:7") is None)
    async with publishing(vhost) as shop:
        assert 0 == await shop.ready("invalidator.eu.dead") == await shop.ready("invalidator.eu")
