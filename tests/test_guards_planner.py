"""Guards of the planner: each test is red without the line that it names."""

from typing import Any

import pytest

from invalidator.broker.wire.header import Properties
from invalidator.events.event import decode
from invalidator.events.rules import Rules
from invalidator.worker.planner import Planner
from tests.test_planner import Delivery

RULES = Rules([("product_updated", ["product:{id}"])])


def event(number: int) -> Delivery:
    return Delivery(b'{"type":"product_updated","id":%d}' % number)


def test_events_behind_one_that_breaks_our_own_code_are_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    def fragile(body: bytes, *arguments: object) -> object:
        if body == event(1).body:
            raise ZeroDivisionError
        return decode(body, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("invalidator.worker.planner.decode", fragile)
    plan = Planner(RULES, body_bytes=100).plan([event(1), event(2)])
    assert (["unexpected"], [b"product:2"]) == ([error.reason for _, error in plan.poison], plan.keys)


def test_only_events_with_an_id_are_announced_by_it() -> None:
    named = Delivery(event(2).body, id="e-2")
    assert ["e-2"] == Planner(RULES, body_bytes=100).plan([event(1), named]).event_ids


def test_an_event_with_a_rule_is_not_counted_as_unmatched() -> None:
    plan = Planner(RULES, body_bytes=100).plan([event(1)])
    assert (0, []) == (plan.unmatched, plan.unmatched_types)


def test_the_reason_stays_what_it_was_where_all_headers_would_name_a_type() -> None:
    headers: dict[str, Any] = {
        "cloudEvents:specversion": "1.0",
        "cloudEvents:type": "product_updated",
        "cloudEvents:source": "/shop",
    }
    plan = Planner(RULES, body_bytes=100).plan([Delivery(b'{"id":1}', properties=Properties(headers=headers))])
    assert ["no-type"] == [error.reason for _, error in plan.poison]
