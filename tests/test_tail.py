"""Interpreting live messages, without a server."""

from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest
from pamqp import commands, header

from invalidator.broker.messages import Announcement, WorkerState
from invalidator.broker.wire.delivery import Delivery
from invalidator.broker.wire.header import FLAGS_AT
from invalidator.operate import tail as module
from invalidator.operate.findings import Finding, worst
from invalidator.operate.tail import NO_RULE, Interpreter, Seen, sample_findings
from invalidator.settings import RuleSettings, Settings

SETTINGS = Settings(rule=[RuleSettings(on="product_updated", evict=["product:{id}", "tag:{tags?}"])])


def read(body: bytes, *, exchange: str = "product.updates", **properties: Any) -> Seen | None:
    content = header.ContentHeader(body_size=len(body), properties=commands.Basic.Properties(**properties))
    method = bytes(9) + bytes([len(exchange)]) + exchange.encode() + b"\0"
    return Interpreter(SETTINGS).interpret(Delivery(method, content.marshal()[FLAGS_AT:], body))


def test_an_event_is_shown_with_its_keys() -> None:
    seen = read(b'{"type":"product_updated","id":7,"tags":["a"]}', message_id="it")
    assert seen
    assert ("event", "product_updated", ["product:7", "tag:a"], ["it"], "") == (
        seen.what,
        seen.of,
        seen.keys,
        seen.ids,
        seen.detail,
    )


def test_an_event_without_a_rule_is_shown_to_evict_nothing() -> None:
    seen = read(b"{}", message_type="other")
    assert seen
    assert ("event", "other", NO_RULE) == (seen.what, seen.of, seen.detail)


@pytest.mark.parametrize(("body", "reason"), [(b"{", "not-json"), (b"{}", "missing-field")])
def test_poison_is_shown_with_its_reason(body: bytes, reason: str) -> None:
    seen = read(body, message_type="product_updated")
    assert seen
    assert ("poison", "product_updated", reason) == (seen.what, seen.of, seen.reason)


def test_an_announcement_is_shown_and_a_heartbeat_is_not() -> None:
    announced = Announcement("eu", "w", 3, ["a"], ["it"], ["c2"])
    seen = read(msgspec.json.encode(announced), exchange="cache.purged")
    assert seen
    assert ("purged", "eu", ["a"], ["it"], "parked for c2") == (seen.what, seen.of, seen.keys, seen.ids, seen.detail)
    assert read(msgspec.json.encode(Announcement("eu", "w", 3)), exchange="cache.purged") is None


def test_an_unreadable_announcement_is_shown_as_poison() -> None:
    seen = read(b"x", exchange="cache.purged")
    assert seen and seen.what == "poison"


class TestSample:
    def findings(self, *bodies: bytes) -> list[Finding]:
        seen = [one for body in bodies if (one := read(body))]
        return list(sample_findings(seen, known=["product_updated"]))

    def test_good_events_are_counted_by_type(self) -> None:
        good = b'{"type":"product_updated","id":7}'
        (finding,) = self.findings(good, good)
        assert ("ok", "product_updated: events 2, keys 2") == (finding.level, finding.text)

    def test_a_type_that_no_rule_knows_is_noted_with_what_was_meant(self) -> None:
        (finding,) = self.findings(b'{"type":"product_updatd"}')
        assert ("note", 'did a rule mean "product_updated"?') == (finding.level, finding.fix)

    def test_what_would_be_a_dead_letter_is_wrong(self) -> None:
        findings = self.findings(b'{"type":"product_updated","id":7}', b'{"type":"product_updated","id":" "}', b"{")
        assert 78 == worst(findings)
        assert ["wrong", "wrong", "ok"] == [finding.level for finding in findings]
        assert "product_updated: 1 of 2 would be dead letters (bad-key)" in findings[0].text


async def test_the_states_are_there_as_soon_as_each_worker_has_stated_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STATE_SECONDS", 600.0)
    announced = [
        Announcement(cluster, f"{cluster}.host.{pid}.run", 1, state=WorkerState(f"r{pid}", "c"))
        for cluster, pid in (("eu", 1), ("eu", 1), ("eu", 2), ("us", 3))
    ]

    async def passing(*_: Any, **__: Any) -> AsyncGenerator[Delivery, None]:
        for announcement in announced:
            yield Delivery(bytes(11), bytes(2), msgspec.json.encode(announcement))
        raise AssertionError("each worker had stated itself")

    monkeypatch.setattr(module, "passing", passing)
    states = await module.worker_states(Settings(), {"eu": 2, "us": 1, "silent": 0})
    assert {"eu": {"eu.host.1", "eu.host.2"}, "us": {"us.host.3"}} == {
        name: set(found) for name, found in states.items()
    }
