"""A cluster: keys to nodes, and the nodes' answers to one outcome."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from invalidator.errors import ConfigurationError, PoisonError
from invalidator.memcached.cluster import Cluster, Outcome
from invalidator.memcached.eviction import Evicted, Unreachable
from invalidator.memcached.failure import Failure
from invalidator.memcached.ring import Ketama, Rendezvous
from invalidator.settings import Address

from .scripted_node import Answer, ScriptedNode, confirm, say_nothing
from .virtual_time import in_virtual_time

LABELS = ("a:1", "b:1", "c:1")
KEYS = [b"product:%d" % index for index in range(30)]


@asynccontextmanager
async def cluster_of(*answers: Answer, **options: Any) -> AsyncIterator[tuple[Cluster, dict[str, ScriptedNode]]]:
    """Start a node for each answer, which it gives to everything, and yield a cluster of them."""
    async with AsyncExitStack() as stack:
        servers = {
            label: await stack.enter_async_context(ScriptedNode(then=answer))
            for label, answer in zip(LABELS, answers, strict=False)
        }
        addresses = {label: Address(*server.address) for label, server in servers.items()}
        cluster = Cluster(addresses, **{"deadline": 10.0} | options)
        try:
            yield cluster, servers
        finally:
            await cluster.close()


def read_by(server: ScriptedNode) -> list[bytes]:
    return [key for batch in server.batches for key in batch.keys]


async def test_every_key_is_evicted_on_every_node() -> None:
    async with cluster_of(confirm, confirm, confirm) as (cluster, servers):
        assert await cluster.evict(KEYS) == Outcome(dict.fromkeys(LABELS, 30), {})
        assert [read_by(server) for server in servers.values()] == [KEYS, KEYS, KEYS]
        assert cluster.placement(b"product:1") == LABELS


async def test_every_key_is_evicted_on_its_owner_only() -> None:
    ring = Rendezvous(LABELS)
    async with cluster_of(confirm, confirm, confirm, rings=[ring]) as (cluster, servers):
        outcome = await cluster.evict(KEYS)
        for label, server in servers.items():
            assert read_by(server) == [key for key in KEYS if ring.owner(key) == label]
            assert outcome.evicted[label] == len(read_by(server))


async def test_during_a_change_keys_are_evicted_on_the_owners_of_both_rings() -> None:
    now, before = Ketama(LABELS), Rendezvous(LABELS[:2])
    async with cluster_of(confirm, confirm, confirm, rings=[now, before]) as (cluster, servers):
        await cluster.evict(KEYS)
        for label, server in servers.items():
            owned = [key for key in KEYS if label in (now.owner(key), before.owner(key))]
            assert sorted(read_by(server)) == sorted(owned)
        assert set(cluster.placement(KEYS[0])) == {now.owner(KEYS[0]), before.owner(KEYS[0])}


async def test_prefix_is_on_the_wire_and_not_in_the_hash() -> None:
    ring = Rendezvous(LABELS)
    async with cluster_of(confirm, confirm, confirm, rings=[ring], prefix=b"shop:") as (cluster, servers):
        await cluster.evict(KEYS)
        for label, server in servers.items():
            assert read_by(server) == [b"shop:" + key for key in KEYS if ring.owner(key) == label]


@in_virtual_time
async def test_hung_node_moves_no_key_and_hides_no_confirmation() -> None:
    ring = Rendezvous(LABELS)
    async with cluster_of(confirm, say_nothing, confirm, rings=[ring], deadline=0.1) as (cluster, servers):
        unconfirmed = tuple(key for key in KEYS if ring.owner(key) == "b:1")
        for waited in (True, False):
            outcome = await cluster.evict(KEYS)
            assert outcome.unreachable == {
                "b:1": Unreachable(unconfirmed, "no confirmation for 0.1 s", waited, 0, Failure.DEADLINE)
            }
            assert outcome.evicted == {label: len(read_by(servers[label])) // (2 - waited) for label in ("a:1", "c:1")}
        for label in ("a:1", "c:1"):
            assert {ring.owner(key) for key in read_by(servers[label])} == {label}


@in_virtual_time
async def test_unreachable_keys_are_logical_keys() -> None:
    async with cluster_of(say_nothing, prefix=b"shop:", deadline=0.1) as (cluster, _):
        outcome = await cluster.evict([b"a", b"b"])
        assert outcome.unreachable["a:1"].keys == (b"a", b"b")


@in_virtual_time
async def test_node_that_confirmed_a_part_is_in_both() -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(ScriptedNode([confirm], then=say_nothing))
        cluster = Cluster({"a:1": Address(*server.address)}, deadline=0.1, chunk_keys=2)
        outcome = await cluster.evict([b"a", b"b", b"c"])
        await cluster.close()
        assert outcome.evicted == {"a:1": 2}
        assert outcome.unreachable["a:1"].keys == (b"c",)


@in_virtual_time
async def test_nodes_are_waited_for_at_once() -> None:
    async with cluster_of(say_nothing, say_nothing, say_nothing, deadline=0.3) as (cluster, _):
        loop = asyncio.get_running_loop()
        start = loop.time()
        outcome = await cluster.evict([b"a"])
        assert pytest.approx(0.3) == loop.time() - start
        assert outcome.unreachable.keys() == set(LABELS)


async def test_keys_can_be_evicted_on_one_node_alone() -> None:
    async with cluster_of(confirm, confirm, rings=[Rendezvous(LABELS[:2])]) as (cluster, servers):
        assert await cluster.evict_on("b:1", KEYS) == Evicted(30)
        assert [len(read_by(server)) for server in servers.values()] == [0, 30]


async def test_bad_key_is_refused_before_a_byte_is_sent() -> None:
    async with cluster_of(confirm, confirm) as (cluster, servers):
        with pytest.raises(PoisonError):
            await cluster.evict([b"good", b"1\r\nflush_all"])
        assert [server.peers for server in servers.values()] == [[], []]


async def test_bad_key_of_one_owner_stops_the_others_too() -> None:
    async with cluster_of(confirm, confirm, confirm, rings=[Rendezvous(LABELS)]) as (cluster, servers):
        with pytest.raises(PoisonError):
            await cluster.evict([*KEYS, b"1\r\nflush_all"])
        assert [server.peers for server in servers.values()] == [[], [], []]


async def test_no_keys_are_an_empty_outcome() -> None:
    async with cluster_of(confirm) as (cluster, _):
        assert await cluster.evict([]) == Outcome({}, {})


@in_virtual_time
async def test_states_name_the_node_that_is_away_and_why() -> None:
    async with cluster_of(confirm, say_nothing, deadline=0.1) as (cluster, _):
        await cluster.evict([b"a"])
        states = cluster.states()
        assert not states["a:1"].is_open
        assert states["b:1"].is_open
        assert states["b:1"].reason == "no confirmation for 0.1 s"


def test_cluster_without_nodes_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least one memcached node"):
        Cluster({})


def test_ring_with_an_unknown_node_is_refused() -> None:
    with pytest.raises(ConfigurationError, match='"b:1" without an address'):
        Cluster({"a:1": Address("127.0.0.1", 1)}, rings=[Rendezvous(LABELS[:2])])
