"""200 stale values, planted in ten ways: each is found in time, with its reason, and removed where memcached holds it.

    pytest -m long tests/integration/test_audit_planted.py

Real servers throughout: a PostgreSQL primary whose log the auditor reads, a replica that stands still, three nodes of
which one cannot be reached by the worker, and a near cache that hears nothing.
"""

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from msgspec.structs import replace

from invalidator.app import LookAsideCache, NearCache
from invalidator.audit.auditor import ROUND_SECONDS, Auditor
from invalidator.audit.verdict import Reason, Verdict
from invalidator.memcached.cluster import Cluster
from invalidator.settings import AuditSettings, BrokerSettings, FollowSettings, RuleSettings, Secret, Settings
from tests.integration.auditing import auditing, findings
from tests.integration.conftest import MemcachedFactory, ProxyFactory, require
from tests.integration.shop import Publishing, eventually, publishing, settings_for, working
from tests.servers import Memcached, Postgres, TcpProxy, postgres_is_installed

#: Values planted in each way.
EACH = 20
DELAYS = [0.1, 1.0, 6.0]
#: Seconds after the last delay within which a value has to be found.
SOON = 2.0
RULES = [
    RuleSettings(on="changed:public.products", evict=["product:{id}"]),
    RuleSettings(on="product_updated", evict=["product:{id}"]),
    RuleSettings(on="review_written", evict=["reveiw:{id}"]),
]


class Expected(NamedTuple):
    """The finding about a planted value."""

    reason: Reason
    verdict: Verdict = Verdict.PERMANENT
    repaired: bool = True


class Scene:
    """A shop, and the keys that were planted in it."""

    def __init__(self, settings: Settings, primary: Postgres, replica: Postgres, nodes: dict[str, Memcached]) -> None:
        self.settings, self.primary, self.replica, self.nodes = settings, primary, replica, nodes
        self.reader = LookAsideCache({label: node.address for label, node in nodes.items()})
        self.publisher: Publishing
        self.expected: dict[str, Expected] = {}
        #: UNIX time until which each key has to be found.
        self.until: dict[str, float] = {}
        self._cluster = Cluster.of(settings)
        self._ids = itertools.count(1)

    def keys(self, prefix: str, *, owners: tuple[str, ...] = ("c1", "c2")) -> list[str]:
        """Return keys that live on these nodes, each of a product of its own."""
        found = (f"{prefix}{id}" for id in self._ids)
        return list(itertools.islice((key for key in found if self.owner(key) in owners), EACH))

    def owner(self, key: str) -> str:
        (label,) = self._cluster.placement(key.encode())
        return label

    def node(self, key: str) -> Memcached:
        return self.nodes[self.owner(key)]

    def value(self, key: str, server: Postgres | None = None) -> dict[str, Any]:
        """Return the product of a key, as a server knows it."""
        with psycopg.connect((server or self.primary).url(), autocommit=True) as connection:
            row = connection.execute("SELECT price, version FROM products WHERE id = %s", [number(key)]).fetchone()
        assert row
        return {"price": row[0], "version": row[1]}

    # Whatever blocks is done in a thread: the auditor, in the same process, is not to be held up.

    async def fill(self, keys: list[str]) -> dict[str, dict[str, Any]]:
        """Store the value of each key on its node, and return them."""
        values = {key: await asyncio.to_thread(self.value, key) for key in keys}
        await self.store(values)
        return values

    async def store(self, values: dict[str, dict[str, Any]]) -> None:
        """Store values on the nodes of their keys, by plain sets."""
        for key, value in values.items():
            await asyncio.to_thread(self.node(key).set, key, json.dumps(value).encode())

    async def load(self, key: str, read: Callable[[], dict[str, Any]]) -> None:
        """Let a reader fill a key with what it reads."""
        await asyncio.to_thread(self.reader.get_or_load, key, read, ttl=600)

    async def change(self, keys: list[str], event: str | None = "product_updated") -> None:
        """Change the product of each key, and publish an event of each."""
        for key in keys:
            await asyncio.to_thread(self._update, number(key))
            self.until[key] = time.time() + DELAYS[-1] + SOON
            if event:
                await self.publisher.raw(json.dumps({"type": event, "id": number(key)}).encode())

    def _update(self, id: int) -> None:
        with psycopg.connect(self.primary.url(), autocommit=True) as connection:
            connection.execute("UPDATE products SET price = price + 1, version = version + 1 WHERE id = %s", [id])

    async def evicted(self, keys: list[str]) -> None:
        for key in keys:
            while await asyncio.to_thread(self.node(key).get, key):
                await asyncio.sleep(0.02)

    def expect(self, keys: list[str], expected: Expected) -> None:
        self.expected.update(dict.fromkeys(keys, expected))

    def named(self, keys: list[str]) -> None:
        """Note that these keys are found without a change: a round later."""
        for key in keys:
            self.until[key] = time.time() + 1.5 * ROUND_SECONDS + DELAYS[-1] + SOON

    def source(self, key: str) -> Callable[[], object]:
        return lambda: self.value(key)


def number(key: str) -> int:
    return int(key.rpartition(":")[2])


# The ten ways


async def plain_set(scene: Scene, keys: list[str]) -> None:
    old = await scene.fill(keys)
    await scene.change(keys)
    await scene.evicted(keys)
    await scene.store(old)
    scene.expect(keys, Expected(Reason.WRITTEN_BACK))


async def never_published(scene: Scene, keys: list[str]) -> None:
    await scene.fill(keys)
    await scene.change(keys, event=None)
    scene.expect(keys, Expected(Reason.EVENT_MISSING))


async def rule_missing(scene: Scene, keys: list[str]) -> None:
    await scene.fill(keys)
    await scene.change(keys)
    scene.named(keys)
    scene.expect(keys, Expected(Reason.RULE_MISSING))


async def misspelt_in_the_rule(scene: Scene, keys: list[str]) -> None:
    await scene.fill(keys)
    await scene.change(keys, "review_written")
    scene.named(keys)
    scene.expect(keys, Expected(Reason.RULE_MISSING))


async def wrong_ring(scene: Scene, keys: list[str]) -> None:
    for key in keys:
        other = {"c1": "c2", "c2": "c1"}[scene.owner(key)]
        value = await asyncio.to_thread(scene.value, key)
        await asyncio.to_thread(scene.nodes[other].set, key, json.dumps(value).encode())
    await scene.change(keys)
    scene.expect(keys, Expected(Reason.WRONG_RING))


async def unreachable_for_the_worker(scene: Scene, keys: list[str]) -> None:
    await scene.fill(keys)
    await scene.change(keys)
    scene.expect(keys, Expected(Reason.PARKED, Verdict.LATE, repaired=False))


async def replica_lag(scene: Scene, keys: list[str]) -> None:
    await scene.fill(keys)
    await scene.change(keys)
    await scene.evicted(keys)
    for key in keys:
        await scene.load(key, partial(scene.value, key, scene.replica))
    scene.expect(keys, Expected(Reason.WRITTEN_BACK))


async def two_reads(scene: Scene, keys: list[str]) -> None:
    old = await scene.fill(keys)
    await scene.change(keys)
    await scene.evicted(keys)
    for key in keys:
        new = await asyncio.to_thread(scene.value, key)
        await scene.load(key, partial(dict, old[key] | {"version": new["version"]}))
    scene.expect(keys, Expected(Reason.WRITTEN_BACK))


async def other_prefix(scene: Scene, keys: list[str]) -> None:
    await scene.fill(keys)
    await scene.change(keys)
    scene.named(keys)
    scene.expect(keys, Expected(Reason.RULE_MISSING))


async def near_copy(scene: Scene, keys: list[str], near: NearCache, gate: TcpProxy) -> None:
    """Plant what a process stores that kept its own copies: its near cache has not heard of the eviction."""

    def read() -> dict[str, Any]:
        return {key: near.get_or_load(key, partial(scene.value, key), ttl=600) for key in keys}

    old = await scene.fill(keys)
    while len(near) < len(keys):
        assert old == await asyncio.to_thread(read)
    gate.replies.hold()
    await scene.change(keys)
    await scene.evicted(keys)
    kept = await asyncio.to_thread(read)
    gate.replies.release()
    assert old == kept, "the near cache has dropped its copies: this machine is too slow for the test"
    await scene.store(kept)
    scene.expect(keys, Expected(Reason.WRITTEN_BACK))


# The scene


@pytest.fixture
def databases() -> Iterator[tuple[Postgres, Postgres]]:
    """Start a primary and a replica that stands still after it has the products."""
    require("postgresql", installed=postgres_is_installed())
    with ExitStack() as stack:
        primary = stack.enter_context(Postgres("-c", "wal_level=logical"))
        primary.sql("CREATE TABLE products (id int PRIMARY KEY, price int, version int)")
        primary.sql("INSERT INTO products SELECT id, 100, 1 FROM generate_series(1, 5000) id")
        primary.sql("CREATE PUBLICATION invalidator FOR TABLE products")
        replica = stack.enter_context(Postgres(primary=primary))
        replica.sql("SELECT pg_wal_replay_pause()")
        yield primary, replica


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_200_stale_values_planted_in_ten_ways_are_found_in_time_with_their_reason_and_removed(
    vhost: str,
    memcached: MemcachedFactory,
    proxy: ProxyFactory,
    databases: tuple[Postgres, Postgres],
    tmp_path: Path,
) -> None:
    nodes = {label: memcached() for label in ("c1", "c2", "c3")}
    addresses = {label: node.address for label, node in nodes.items()}
    between = await proxy(addresses["c3"])
    broker = vhost.partition("@")[2].partition("/")[0]
    gate = await proxy(broker)
    audit = AuditSettings(
        account=str(tmp_path / "account.sqlite"), share=1.0, delays=DELAYS, reads=2000.0, commands=20_000.0
    )
    follow = FollowSettings(url=Secret(databases[0].url()))
    settings = settings_for(vhost, addresses, audit=audit, follow=follow, memcached={"evict_on": "owner"})
    settings = replace(settings, rule=RULES)
    scene = Scene(settings, *databases, nodes)
    cut_off = replace(settings, ring=replace(settings.ring, nodes=addresses | {"c3": between.address}))
    without_change = {
        rule_missing: scene.keys("stock:"),
        misspelt_in_the_rule: scene.keys("review:"),
        other_prefix: scene.keys("v2:product:"),
    }
    near = NearCache(scene.reader, BrokerSettings(url=vhost.replace(broker, gate.address)), cluster="eu", max_age=600)
    named = [key for keys in without_change.values() for key in keys]
    watching = replace(settings, audit=replace(audit, keys=named))
    async with working(cut_off), auditing(Auditor(watching, scene.source)), publishing(vhost) as scene.publisher:
        await between.refuse()
        await between.reset()
        for plant, keys in without_change.items():
            await plant(scene, keys)
        await unreachable_for_the_worker(scene, scene.keys("product:", owners=("c3",)))
        for plant in (plain_set, never_published, wrong_ring, replica_lag, two_reads):
            await plant(scene, scene.keys("product:"))
        await near_copy(scene, scene.keys("product:"), near, gate)
        last = max(scene.until.values())
        await eventually(lambda: done(scene) or time.time() > last + 5, every=0.2)
        parked = [key for key, expected in scene.expected.items() if not expected.repaired]
        assert all(scene.node(key).get(key) for key in parked), "the worker evicts these, once it reaches the node"
        await between.start()
        await scene.evicted(parked)
    near.close()
    scene.reader.close()
    found = findings(settings)
    assert 10 * EACH == len(scene.expected)
    assert scene.expected == {key: Expected(one.reason, one.verdict, one.repaired) for key, one in found.items()}
    assert {} == {key: one.at - scene.until[key] for key, one in found.items() if one.at > scene.until[key]}
    assert [] == [(label, key) for label, node in nodes.items() for key in scene.expected if node.get(key)]
    print(
        f"{len(found)} found, the slowest {max(found[key].at - scene.until[key] + SOON for key in found):.2f} s after"
    )


def done(scene: Scene) -> bool:
    """Return True if every key was found, after the last delay."""
    found = findings(scene.settings)
    return found.keys() == scene.expected.keys() and all(one.delay == DELAYS[-1] for one in found.values())
