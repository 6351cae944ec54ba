"""Debezium's changes that new reads do not see yet: which events are looked up, and how long a batch is held."""

import asyncio
from typing import Any, cast

import pytest

from invalidator.assemble import again_of, gated_types
from invalidator.broker.topology import POSTPONED_MS, Topology
from invalidator.errors import UnconfirmedError
from invalidator.events.debezium import transaction_of
from invalidator.settings import DebeziumSettings, RuleSettings, Secret, Settings
from invalidator.worker import visibility as module
from invalidator.worker.pipeline import Sight
from invalidator.worker.visibility import Visibility
from tests.test_pipeline import Story, batch_of

RULE = RuleSettings(on="debezium:public.products", evict=["product:{id}"])
URL = Secret("postgresql://worker@db/shop")


@pytest.mark.parametrize(
    ("fields", "xid"),
    [
        ({"source": {"txId": 727}}, 727),
        ({"source": {"txId": None}}, None),
        ({"source": {"pos": 4}}, None),
        ({"__source_txId": 727}, 727),
        ({"__source_txId": "727"}, 727),
        ({"id": 1}, None),
    ],
)
def test_a_changes_transaction_is_the_one_of_its_source(fields: dict[str, Any], xid: int | None) -> None:
    assert xid == transaction_of(fields)


def test_without_a_gate_debeziums_rules_evict_twice_and_with_one_their_events_come_again() -> None:
    without, gated = Settings(rule=[RULE]), Settings(rule=[RULE], debezium=DebeziumSettings(url=URL))
    assert ([5000], set()) == (list(again_of(without)[RULE.on]), gated_types(without))
    assert ({}, {RULE.on}) == (again_of(gated), gated_types(gated))
    assert ((5000,), (POSTPONED_MS,)) == (Topology.of(without).delays_ms, Topology.of(gated).delays_ms)


def test_a_rule_of_debeziums_events_may_set_its_own_delay_or_none_at_all() -> None:
    own = RuleSettings(on=RULE.on, evict=RULE.evict, again_after=2)
    assert (2000, None) == (
        Settings().again_ms(own),
        Settings(debezium=DebeziumSettings(again_after=0)).again_ms(RULE),
    )
    assert Settings().again_ms(RuleSettings(on="product_updated", evict=["a"])) is None


class Primary(Visibility):
    """A primary that answers with these snapshots, the last one for ever."""

    def __init__(self, *snapshots: str) -> None:
        super().__init__(lambda: URL)
        self._snapshots = list(snapshots)
        self.asked = 0

    async def _snapshot(self) -> str:
        self.asked += 1
        return self._snapshots.pop(0) if len(self._snapshots) > 1 else self._snapshots[0]


async def test_a_batch_is_held_until_new_reads_see_its_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 60)
    primary = Primary("700:800:727", "700:800:", "700:800:")
    assert [] == await primary.unseen([("a", 727), ("b", 726)])
    assert 2 == primary.asked
    assert [] == await primary.unseen([("a", 727)])  # the last snapshot says so
    assert 2 == primary.asked


async def test_a_change_that_stays_unseen_is_returned_after_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    assert [("a", 727)] == await Primary("700:800:727").unseen([("a", 727), ("b", 726)])


async def test_a_primary_that_cannot_be_asked_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    away = Visibility(lambda: Secret("postgresql://worker@127.0.0.1:1/shop"))
    assert [("a", 727)] == await away.unseen([("a", 727)])


class Gated(Story):
    """A story in which each event is a change of transaction 727, seen after a number of tries."""

    def __init__(self, *batches: Any, seen_after: int) -> None:
        super().__init__(*batches)
        self.tries = seen_after

    def plan(self, deliveries: Any) -> Any:
        plan = super().plan(deliveries)
        plan.commits = [(delivery, 727) for delivery in deliveries]
        return plan

    async def unseen(self, commits: Any) -> Any:
        self.calls.append("ask")
        self.tries -= 1
        return commits if self.tries >= 0 else []

    async def postpone(self, deliveries: Any) -> None:
        self._refuse_perhaps()
        self.calls.append(("postpone", *deliveries))


async def play(story: Gated) -> list[Any]:
    async with asyncio.timeout(10):
        await story.pipeline(sight=cast(Sight, story)).run()
    return story.calls


async def test_a_change_that_is_seen_is_evicted_once() -> None:
    calls = await play(Gated(batch_of("a"), seen_after=0))
    assert ["ask", ("evict", "a"), ("announce", 1), ("settle", "a")] == calls


async def test_a_change_that_is_not_seen_is_evicted_and_comes_again_before_its_batch_is_settled() -> None:
    calls = await play(Gated(batch_of("a"), seen_after=1))
    assert ["ask", ("evict", "a"), ("postpone", "a"), ("announce", 1), ("settle", "a")] == calls


async def test_a_change_that_cannot_be_stored_is_evicted_again_when_it_is_seen() -> None:
    story = Gated(batch_of("a"), seen_after=1)
    story.refusals = [UnconfirmedError("alarm")]
    assert [
        "ask",
        ("evict", "a"),
        "back off",
        "ask",
        ("evict", "a"),
        ("announce", 1),
        ("settle", "a"),
    ] == await play(story)


async def test_a_change_that_cannot_be_stored_is_parked_for_a_node_that_does_not_confirm_its_second_eviction() -> None:
    story = Gated(batch_of("a"), seen_after=1)
    story.refusals = [UnconfirmedError("alarm")]

    def hang() -> None:
        story.unreachable = {"c1": [b"a"]}

    story.at_back_off = hang
    calls = await play(story)
    assert ["back off", "ask", ("evict", "a"), ("park", "c1", "a"), ("announce", 1), ("settle", "a")] == calls[2:]
