"""An auditor beside real workers, nodes and a broker: planted stale values are found, explained and removed."""

import asyncio
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from invalidator.app import LookAsideCache
from invalidator.audit.account import SavedAccount, account_of
from invalidator.audit.auditor import Auditor
from invalidator.audit.nodes import AuditedNodes
from invalidator.audit.sandwich import Sighting, Unseen
from invalidator.audit.verdict import Reason, Verdict
from invalidator.memcached.access import Access
from invalidator.memcached.holders import Holders
from invalidator.settings import AuditSettings, RuleSettings, Settings, split_address
from tests.integration.auditing import auditing, findings
from tests.integration.conftest import MemcachedFactory, ProxyFactory
from tests.integration.shop import eventually, publishing, settings_for, working
from tests.servers import Memcached

#: Shorter than the default, so that a test does not take a minute.
DELAYS = [0.1, 0.3, 1.0]
RULES = [RuleSettings(on="product_updated", evict=["product:{id}"])]
#: Products of which an event is published.
CHANGED = ("set", "two-reads", "replica", "correct")
NEW, OLD = {"price": 109.99}, {"price": 99.99}


class Shop:
    """An application's source: a content for each key, the new one if no other is set."""

    def __init__(self) -> None:
        self.truth: dict[str, Any] = {}
        self.reads = 0

    def source(self, key: str) -> Callable[[], object]:
        return lambda: self._read(key)

    def _read(self, key: str) -> object:
        self.reads += 1
        return self.truth.get(key, NEW)


def as_json(content: object) -> bytes:
    return json.dumps(content).encode()


def audited(url: str, nodes: Any, folder: Path, **options: Any) -> Settings:
    """Return settings with an auditor of everything."""
    rules = options.pop("rule", RULES)
    more = {name: options.pop(name) for name in ("memcached", "cluster") if name in options}
    chosen: dict[str, Any] = {"share": 1.0, "delays": DELAYS, "reads": 500.0, "commands": 5000.0} | options
    settings = settings_for(url, nodes, audit=AuditSettings(account=str(folder / "account.sqlite"), **chosen), **more)
    return replace(settings, rule=rules)


def counted(settings: Settings) -> dict[Verdict, int]:
    with closing(SavedAccount(account_of(settings))) as account:
        counts: dict[Verdict, int] = {}
        for minute in account.minutes(0):
            for verdict, count in minute.counts.items():
                counts[verdict] = counts.get(verdict, 0) + count
    return counts


async def test_stale_values_planted_in_many_ways_are_found_explained_and_removed(
    vhost: str, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    nodes, shop = [memcached(), memcached()], Shop()
    named = ["product:never-published", "stock:1", "prodcut:1", "v2:product:1"]
    settings = audited(vhost, nodes, tmp_path, keys=named)
    evicting = replace(settings, rule=[RuleSettings(on="product_updated", evict=["product:{id}"])])
    blind = replace(settings, rule=[*RULES, RuleSettings(on="product_moved", evict=["place:{id}"])])
    reader = LookAsideCache([node.address for node in nodes])
    async with working(evicting), auditing(Auditor(blind, shop.source)), publishing(vhost) as publisher:
        shop.truth["product:two-reads"] = NEW | {"version": 2}
        for name in CHANGED:
            nodes[0].set(f"product:{name}", b"to be evicted")
        await publisher.update(*CHANGED)
        await eventually(lambda: not any(nodes[0].get(f"product:{name}") for name in CHANGED))
        await publisher.raw(as_json({"type": "product_moved", "id": 1}))
        nodes[0].set("product:set", as_json(OLD))
        nodes[1].set("product:two-reads", as_json(OLD | {"version": 2}))
        reader.get_or_load("product:replica", lambda: OLD, ttl=60)
        nodes[0].set("product:correct", as_json(NEW))
        nodes[0].set("place:1", as_json(OLD))
        for key in named:
            nodes[0].set(key, as_json(OLD))
        expected = {
            "product:set": Reason.WRITTEN_BACK,
            "product:two-reads": Reason.WRITTEN_BACK,
            "product:replica": Reason.WRITTEN_BACK,
            "place:1": Reason.NOT_EVICTED,
            "product:never-published": Reason.EVENT_MISSING,
            "stock:1": Reason.RULE_MISSING,
            "prodcut:1": Reason.RULE_MISSING,
            "v2:product:1": Reason.RULE_MISSING,
        }
        await eventually(
            lambda: {key for key, one in findings(settings).items() if one.repaired} == expected.keys(), every=0.1
        )
    assert expected == {key: one.reason for key, one in findings(settings).items()}
    assert {Verdict.PERMANENT} == {one.verdict for one in findings(settings).values()}
    assert [None] * 8 == [next(filter(None, (node.get(key) for node in nodes)), None) for key in expected]
    assert as_json(NEW) == nodes[0].get("product:correct")
    assert counted(settings)[Verdict.PERMANENT] == 4, "keys without an event count in no number"
    reader.close()


async def test_a_value_on_a_node_where_its_key_is_not_evicted_is_of_another_ring(
    vhost: str, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    nodes = [memcached(), memcached()]
    settings = audited(vhost, nodes, tmp_path, memcached={"evict_on": "owner"})
    async with working(settings), auditing(Auditor(settings, Shop().source)), publishing(vhost) as publisher:
        (owner,) = Holders.of(settings).of_key(b"product:1")
        other = {"c1": nodes[1], "c2": nodes[0]}[owner]
        other.set("product:1", as_json(OLD))
        await publisher.update(1)
        await eventually(lambda: findings(settings), every=0.1)
    assert [(Reason.WRONG_RING, Verdict.PERMANENT)] == [
        (one.reason, one.verdict) for one in findings(settings).values()
    ]


async def test_a_node_that_only_the_worker_cannot_reach_is_late_and_not_touched(
    vhost: str, memcached: MemcachedFactory, proxy: ProxyFactory, tmp_path: Path
) -> None:
    node = memcached()
    between = await proxy(node.address)
    settings = audited(vhost, {"c1": node.address}, tmp_path)
    cut_off = audited(vhost, {"c1": between.address}, tmp_path)
    async with working(cut_off), auditing(Auditor(settings, Shop().source)), publishing(vhost) as publisher:
        await between.refuse()
        await between.reset()
        node.set("product:1", as_json(OLD))
        await publisher.update(1)
        await eventually(lambda: findings(settings), every=0.1)
        assert as_json(OLD) == node.get("product:1")
        await between.start()
        await eventually(lambda: node.get("product:1") is None)
    assert [(Reason.PARKED, Verdict.LATE)] == [(one.reason, one.verdict) for one in findings(settings).values()]


async def test_events_that_wait_in_the_clusters_queue_make_a_value_late(
    vhost: str, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    node = memcached()
    settings = audited(vhost, [node], tmp_path)
    async with working(settings):
        pass  # the queue exists, and nobody consumes
    async with auditing(Auditor(settings, Shop().source)), publishing(vhost) as publisher:
        node.set("product:1", as_json(OLD))
        await publisher.update(1)
        await eventually(lambda: findings(settings), every=0.1)
    assert [(Reason.BACKLOG, Verdict.LATE)] == [(one.reason, one.verdict) for one in findings(settings).values()]


async def test_a_repair_removes_no_value_that_came_meanwhile(memcached: MemcachedFactory) -> None:
    node = memcached()
    nodes = asked(node)
    node.set("product:1", as_json(OLD))
    seen = await sighted(nodes)
    node.set("product:1", as_json(NEW))
    assert not await nodes.remove("product:1", "c1", seen)
    assert as_json(NEW) == node.get("product:1")
    node.set("product:1", as_json(OLD))
    assert await nodes.remove("product:1", "c1", seen)
    assert node.get("product:1") is None
    nodes.close()


async def test_an_item_of_a_restarted_node_is_another_item_though_its_number_is_the_same(
    memcached: MemcachedFactory,
) -> None:
    node = memcached()
    nodes = asked(node)
    node.set("product:1", as_json(OLD))
    before = await sighted(nodes)
    node.restart()
    node.set("product:1", as_json(OLD))
    await until_it_answers(nodes)
    after = await sighted(nodes)
    assert (before.item, before.number) == (after.item, after.number)
    assert not before.is_same_as(after)
    nodes.close()


async def test_a_node_that_hangs_is_not_seen_and_its_late_answer_is_nobodys(memcached: MemcachedFactory) -> None:
    node = memcached()
    nodes = asked(node, deadline=0.3)
    node.set("product:1", as_json(OLD))
    await sighted(nodes)
    node.pause()
    assert {"c1": Unseen("no answer within 0.3 s")} == await nodes.gets("product:1")
    node.resume()
    await until_it_answers(nodes)
    assert {"c1": None} == await nodes.gets("product:2")
    assert as_json(OLD) == (await sighted(nodes)).item.data
    nodes.close()


def asked(node: Memcached, *, deadline: float = 2.0) -> AuditedNodes:
    return AuditedNodes({"c1": split_address(node.address, default_port=11211)}, Access, prefix="", deadline=deadline)


async def sighted(nodes: AuditedNodes) -> Sighting:
    seen = (await nodes.gets("product:1"))["c1"]
    assert isinstance(seen, Sighting)
    return seen


async def until_it_answers(nodes: AuditedNodes) -> None:
    """Ask until the node answers: for a second after a failure it is left alone."""
    async with asyncio.timeout(60):
        while isinstance((await nodes.gets("product:1"))["c1"], Unseen):
            await asyncio.sleep(0.05)
