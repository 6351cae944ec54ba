"""Guards of deferred work: each test is red without the line that it names."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

import msgspec
import pytest
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from invalidator.broker.messages import Debt, read_debt
from invalidator.broker.topology import Topology
from invalidator.broker.wire.delivery import Delivery
from invalidator.broker.wire.header import FLAGS_AT
from invalidator.errors import PoisonError
from invalidator.settings import Settings
from invalidator.worker.deferred import DeferredWork

TOPOLOGY = Topology.of(Settings(cluster="eu"))


@dataclass
class Published:
    """A publisher that keeps what it was given."""

    messages: list[tuple[str, str, bytes, Any]] = field(default_factory=list)

    async def publish(self, body: bytes, *, exchange: str, routing_key: str, properties: Any) -> None:
        self.messages.append((exchange, routing_key, body, properties))

    @property
    def debts(self) -> list[Debt]:
        return [read_debt(body) for _, _, body, _ in self.messages]


def work(published: Published, *, parked_limit: int = 10_000, event_keys: int = 1000) -> DeferredWork:
    publisher = cast(Any, published)
    return DeferredWork(publisher, TOPOLOGY, worker="w1", parked_limit=parked_limit, event_keys=event_keys)


def keys(count: int) -> list[bytes]:
    return [b"product:%d" % number for number in range(count)]


async def test_every_key_is_in_one_debt_and_no_debt_is_too_large() -> None:
    published = Published()
    await work(published).park("c1", keys(2500))
    assert [1000, 1000, 500] == [len(debt.keys) for debt in published.debts]
    assert keys(2500) == [key.encode() for debt in published.debts for key in debt.keys]
    assert not any(debt.flush for debt in published.debts)


async def test_a_debt_says_to_which_queue_it_goes_what_it_is_and_whose() -> None:
    published = Published()
    await work(published).park("c1", keys(1))
    (exchange, routing_key, _, properties), *_ = published.messages
    assert ("", TOPOLOGY.parked("c1")) == (exchange, routing_key)
    assert ("application/json", "debt", "w1") == (properties.content_type, properties.message_type, properties.app_id)


async def test_from_the_limit_on_a_node_is_to_be_flushed_until_its_queue_was_empty() -> None:
    published = Published()
    deferred = work(published, parked_limit=4)
    for _ in range(3):
        await deferred.park("c1", keys(2))
    await deferred.park("c2", keys(1))
    deferred.drained("c1")
    await deferred.park("c1", keys(3))
    await deferred.park("c1", keys(1))
    assert [2, 2, "flush", 1, 3, 1] == ["flush" if debt.flush else len(debt.keys) for debt in published.debts]


@pytest.mark.parametrize(("event_keys", "sizes"), [(1000, [100, 100, 50]), (60, [60, 60, 60, 60, 10])])
async def test_second_evictions_name_every_key_in_events_that_workers_accept(event_keys: int, sizes: list[int]) -> None:
    published = Published()
    await work(published, event_keys=event_keys).evict_again(5000, keys(250))
    bodies = [msgspec.json.decode(body) for _, _, body, _ in published.messages]
    assert sizes == [len(body["keys"]) for body in bodies]
    assert keys(250) == [key.encode() for body in bodies for key in body["keys"]]
    assert {"cache_evict"} == {body["type"] for body in bodies}
    for exchange, routing_key, _, properties in published.messages:
        assert ("", TOPOLOGY.again(5000)) == (exchange, routing_key)
        named = (properties.content_type, properties.message_type, properties.app_id)
        assert ("application/json", "cache_evict", "w1") == named


def delivery(**properties: Any) -> Delivery:
    header = ContentHeader(0, 0, Basic.Properties(**properties)).marshal()[FLAGS_AT:]
    return Delivery(bytes(8) + b"\0" + b"\x07updates", header, b"poison")


async def test_a_dead_letter_has_its_reason_and_its_origin_and_the_body_as_it_came() -> None:
    published = Published()
    headers = {"CC": ["elsewhere"], "x-delivery-count": 3, "trace": "t"}
    came = delivery(message_type="product_updated", message_id="m-1", headers=headers, expiration="1")
    await work(published).dead_letter(came, PoisonError("not-json", "x" * 1000))
    ((exchange, routing_key, body, properties),) = published.messages
    assert ("", TOPOLOGY.dead, b"poison") == (exchange, routing_key, body)
    written = dict(properties.headers)
    assert datetime.fromisoformat(written.pop("x-invalidator-at"))
    assert {
        "trace": "t",
        "x-invalidator-reason": "not-json",
        "x-invalidator-detail": "x" * 500,
        "x-invalidator-cluster": "eu",
        "x-invalidator-worker": "w1",
        "x-invalidator-exchange": "updates",
        "x-invalidator-message-id": "m-1",
    } == written
    assert ("product_updated", None, None) == (properties.message_type, properties.message_id, properties.expiration)


async def test_a_dead_letter_without_a_message_id_gets_no_header_for_it() -> None:
    published = Published()
    await work(published).dead_letter(delivery(), PoisonError("not-json", "it is not"))
    assert "x-invalidator-message-id" not in published.messages[0][3].headers
