"""Deliveries of foreign publishers, from their properties and bodies to a plan."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pamqp import commands, header

from invalidator.assemble import client_properties, rules_of, type_source_of
from invalidator.broker.messages import read_debt
from invalidator.broker.wire.delivery import Delivery
from invalidator.broker.wire.header import FLAGS_AT
from invalidator.errors import PoisonError
from invalidator.events.types import TypeSource
from invalidator.memcached.cluster import Outcome
from invalidator.operate.tail import Interpreter, Seen, sample_findings
from invalidator.runtime import metrics
from invalidator.settings import EventSettings, RuleSettings, Settings
from invalidator.worker.planner import Plan, Planner
from invalidator.worker.reporting import BatchReport

RULES = [
    RuleSettings(on="com.shop.Product", evict=["product:{id}"]),
    RuleSettings(on="urn:message:Product", evict=["product:{message.id}"]),
    RuleSettings(on="debezium:public.products", evict=["product:{id}"]),
]


def delivery(body: Any, **properties: Any) -> Delivery:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    content = header.ContentHeader(body_size=len(text), properties=commands.Basic.Properties(**properties))
    return Delivery(bytes(11), content.marshal()[FLAGS_AT:], text)


def planned(*deliveries: Delivery, **events: Any) -> Plan[Any]:
    settings = Settings(rule=RULES, events=EventSettings(**events))
    return Planner(rules_of(settings), body_bytes=10_000, source=type_source_of(settings)).plan(deliveries)


def test_a_type_in_a_header_is_named_by_the_dead_letter() -> None:
    [(_, error)] = planned(delivery({"id": 1}, headers={"__TypeId__": "com.shop.Product"})).poison
    assert "no-type" == error.reason
    assert "the header '__TypeId__' is 'com.shop.Product'" in str(error)
    assert "set events.type_header to '__TypeId__'" in str(error)


def test_a_type_in_a_header_is_read_where_the_settings_name_it() -> None:
    spring = delivery({"id": 1, "type": "shirt"}, headers={"__TypeId__": "com.shop.Product"})
    native = delivery({"id": 2}, message_type="com.shop.Product")
    assert [b"product:1", b"product:2"] == planned(spring, native, type_header="__TypeId__").keys


def test_a_type_in_an_envelope_is_read_where_the_settings_name_it() -> None:
    body = {"messageType": ["urn:message:Product"], "message": {"id": 1}}
    assert [b"product:1"] == planned(delivery(body), type_field="messageType").keys
    [(_, error)] = planned(delivery(body)).poison
    assert "the field 'messageType' is 'urn:message:Product'" in str(error)


def test_without_such_settings_no_place_is_named() -> None:
    assert type_source_of(Settings()) is None
    assert TypeSource(field="job") == type_source_of(Settings(events=EventSettings(type_field="job")))


def test_workers_with_different_places_are_different_workers() -> None:
    digests = [
        client_properties(Settings(events=events))["configuration_digest"]
        for events in (EventSettings(), EventSettings(type_header="a"), EventSettings(type_field="a"))
    ]
    assert 3 == len(set(digests))


@pytest.mark.parametrize("body", [b"default", b"", b"null", {"schema": None, "payload": None}])
def test_a_tombstone_is_counted_as_such_and_never_as_unmatched(body: Any) -> None:
    plan = planned(delivery(body))
    assert (1, 0, 0, []) == (plan.tombstones, plan.notices, plan.unmatched, plan.poison)


@pytest.mark.parametrize(
    "body",
    [
        {"ts_ms": 1},
        {"status": "BEGIN", "id": "1", "event_count": None},
        {"databaseName": "shop", "ddl": "ALTER TABLE products"},
        {"op": "m", "source": {}, "message": {}},
    ],
)
def test_a_message_about_something_other_than_rows_is_a_notice_and_never_unmatched(body: Any) -> None:
    plan = planned(delivery(body))
    assert (0, 1, 0, []) == (plan.tombstones, plan.notices, plan.unmatched, plan.poison)


def test_an_event_without_a_rule_is_unmatched() -> None:
    assert 1 == planned(delivery({"type": "other"})).unmatched


def seen(type: str, *keys: str, encoded: tuple[str, ...] = ()) -> Seen:
    return Seen(datetime.now(UTC), "event", type, list(keys), encoded=list(encoded))


def test_a_sample_warns_of_a_key_column_that_could_be_an_encoded_number() -> None:
    taken = [seen("debezium:public.products", "product:BQ==", encoded=("id",))]
    [note, good] = sample_findings(taken, known=["debezium:public.products"])
    assert ("note", "ok") == (note.level, good.level)
    assert "the column \"id\" could be a number in Kafka Connect's encoding, as in the key 'product:BQ=='" in note.text
    assert "decimal.handling.mode=string" in note.fix


def test_a_sample_asks_for_no_rule_for_tombstones_and_notices() -> None:
    found = list(sample_findings([seen("debezium:tombstone"), seen("debezium:heartbeat")], known=[]))
    assert ["ok", "ok"] == [finding.level for finding in found]
    assert "debezium:tombstone: events 1, which need no rule" == found[0].text


def test_tail_and_the_sample_know_columns_that_could_be_encoded_numbers() -> None:
    source = {"schema": "public", "table": "products"}
    seen_one = Interpreter(Settings(rule=RULES)).interpret(
        delivery({"before": None, "after": {"id": "BQ==", "code": "BQ=="}, "op": "c", "source": source})
    )
    assert seen_one
    assert (["product:BQ=="], ["id", "code"]) == (seen_one.keys, seen_one.encoded)


async def test_tombstones_and_notices_have_an_outcome_of_their_own() -> None:
    def counted() -> list[float]:
        return [metrics.SETTLED.labels(name)._value.get() for name in ("tombstone", "notice", "unmatched", "evicted")]

    before = counted()
    plan = planned(delivery(b""), delivery(b"null"), delivery({"ts_ms": 1}), delivery({"type": "other"}))
    report = BatchReport()
    report.settled(4, plan, Outcome({}, {}), {}, seconds=0.1)
    report.close()
    assert [2, 1, 1, 0] == [after - was for after, was in zip(counted(), before, strict=True)]


@pytest.mark.parametrize("key", ["product:é0", "🧀" * 62, "é" * 125])
def test_a_debt_may_hold_keys_of_utf8(key: str) -> None:
    assert [key] == read_debt(json.dumps({"v": 1, "keys": [key]}).encode()).keys


@pytest.mark.parametrize("key", ["é" * 126, "a b", "\x85", "", "\ud83d"])
def test_a_debt_of_a_key_that_memcached_cannot_hold_is_unreadable(key: str) -> None:
    with pytest.raises(PoisonError) as caught:
        read_debt(json.dumps({"v": 1, "keys": [key]}).encode())
    assert "unreadable-debt" == caught.value.reason
