"""Plans: from deliveries to keys and poison."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from invalidator.assemble import again_of, rules_of
from invalidator.broker.gap import Gap
from invalidator.broker.wire.header import Properties
from invalidator.events.event import GAP, encode
from invalidator.events.rules import Rules
from invalidator.settings import RuleSettings, Settings
from invalidator.worker.planner import Planner


@dataclass(frozen=True)
class Delivery:
    body: bytes
    type: str | None = None
    id: str | None = None
    properties: Properties = field(default_factory=Properties)

    def meaning(self) -> tuple[str | None, str | None, str | None, None, None]:
        return self.type, None, self.id, None, None


def planner() -> Planner:
    return Planner(Rules([("product_updated", ["product:{id}"])]), body_bytes=100)


def test_keys_of_a_batch_are_distinct_and_in_order() -> None:
    bodies = [b'{"type":"product_updated","id":%d}' % number for number in (3, 1, 3, 2, 1)]
    assert planner().plan([Delivery(body) for body in bodies]).keys == [b"product:3", b"product:1", b"product:2"]


def test_one_bad_message_is_poison_and_its_neighbours_are_planned() -> None:
    good, bad = Delivery(b'{"type":"product_updated","id":1}'), Delivery(b'{"type":"\xff"}')
    plan = planner().plan([good, bad, good])
    assert plan.keys == [b"product:1"]
    assert [(delivery, error.reason) for delivery, error in plan.poison] == [(bad, "bad-utf8")]


def test_an_event_without_a_rule_is_counted_and_is_not_poison() -> None:
    plan = planner().plan([Delivery(b'{"type":"price_list_printed"}')])
    assert (plan.unmatched, plan.keys, plan.poison) == (1, [], [])
    assert len(plan.unmatched_types) == 1


def test_a_gap_that_a_publisher_reports_is_kept_and_is_not_unmatched() -> None:
    since, until = datetime(2026, 5, 17, 9, tzinfo=UTC), datetime(2026, 5, 17, 10, tzinfo=UTC)
    body = encode(GAP, {"since": since, "until": until, "reason": "lost"})
    plan = planner().plan([Delivery(body)])
    assert ([Gap(since, until, "lost", is_unpublished=True)], 0, []) == (plan.gaps, plan.unmatched, plan.poison)


@pytest.mark.parametrize("until", ["yesterday", "2026-05-17T10:00:00"])
def test_a_gap_that_cannot_be_read_is_poison(until: str) -> None:
    plan = planner().plan([Delivery(encode(GAP, {"since": None, "until": until, "reason": "lost"}))])
    assert ([], ["wrong-type"]) == (plan.gaps, [error.reason for _, error in plan.poison])


def test_the_type_and_the_id_come_from_the_properties() -> None:
    plan = planner().plan([Delivery(b'{"id":1}', type="product_updated", id="e-1")])
    assert (plan.keys, plan.event_ids) == ([b"product:1"], ["e-1"])


def test_a_body_over_the_limit_is_poison() -> None:
    plan = planner().plan([Delivery(b'{"type":"product_updated","id":"%s"}' % (b"x" * 100))])
    assert [error.reason for _, error in plan.poison] == ["body-too-large"]


def test_an_event_that_makes_our_own_code_fail_is_poison_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("invalidator.worker.planner.decode", broken)
    plan = planner().plan([Delivery(b"{}")])
    assert [(error.reason, str(error)) for _, error in plan.poison] == [("unexpected", "ZeroDivisionError: ours")]
    assert "unexpected error while planning" in caplog.text


SETTINGS = Settings(
    rule=[
        RuleSettings(on="product_updated", evict=["product:{id}"], again_after=5),
        RuleSettings(on="product_updated", evict=["listing:{id}"], again_after=0.5),
        RuleSettings(on="product_updated", evict=["search:{id}"]),
        RuleSettings(on="review_posted", evict=["reviews:{id}"]),
    ]
)


@pytest.mark.parametrize("bodies", [[], [b'{"type":"product_updated","id":"no key"}', b"poison"]])
def test_only_keys_of_rules_with_again_after_are_evicted_again_and_once_for_each_delay(bodies: list[bytes]) -> None:
    planner = Planner(rules_of(SETTINGS), body_bytes=100, again=again_of(SETTINGS))
    bodies += [b'{"type":"product_updated","id":%d}' % number for number in (1, 2, 1)]
    bodies += [b'{"type":"review_posted","id":1}', b'{"type":"cache_evict","keys":["product:3"]}']
    plan = planner.plan([Delivery(body) for body in bodies])
    assert plan.again == {5000: [b"product:1", b"product:2"], 500: [b"listing:1", b"listing:2"]}
