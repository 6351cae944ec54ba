"""Real memcached nodes: evicted, hung, killed, full, cut off, back."""

import asyncio
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from invalidator.memcached.breaker import Backoff, State
from invalidator.memcached.cluster import Cluster, Outcome
from invalidator.memcached.eviction import Evicted, Unreachable
from invalidator.memcached.failure import Failure
from invalidator.memcached.wire import RESERVED_KEY
from invalidator.settings import Address
from tests.servers import Memcached

from .conftest import MemcachedFactory, ProxyFactory

QUICK = Backoff(first=0.02, longest=0.1)


def split(address: str) -> tuple[str, int]:
    host, port = address.rsplit(":", 1)
    return host, int(port)


def hang(node: Memcached) -> None:
    """Pause the node, and return once it has stopped: until then it may still answer, in a thread of its own."""
    node.pause()
    assert node.process
    tasks = Path(f"/proc/{node.process.pid}/task")
    while any("State:\tT" not in (task / "status").read_text() for task in tasks.iterdir()):
        time.sleep(0.001)


class Watched:
    """A cluster, with an event for a node that goes down and one for a node that comes back."""

    def __init__(self, addresses: dict[str, str], **options: Any) -> None:
        self.down, self.back = asyncio.Event(), asyncio.Event()
        self.cluster = Cluster(
            {label: Address(*split(address)) for label, address in addresses.items()},
            on_change=self.changed,
            **{"backoff": QUICK} | options,
        )

    def changed(self, label: str, state: State) -> None:
        (self.down if state.is_open else self.back).set()

    async def __aenter__(self) -> "Watched":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.cluster.close()


async def test_evicted_keys_are_gone_and_the_others_stay(memcached: MemcachedFactory) -> None:
    node = memcached()
    for key in ("product:1", "product:2", "product:3"):
        node.set(key, b"old")
    async with Watched({"n1": node.address}) as watched:
        assert await watched.cluster.evict([b"product:1", b"product:2", b"never:there"]) == Outcome({"n1": 3}, {})
    assert [node.get(key) for key in ("product:1", "product:2", "product:3")] == [None, None, b"old"]


async def test_hundred_thousand_keys_are_evicted_in_chunks(memcached: MemcachedFactory) -> None:
    node = memcached()
    keys = [b"product:%d" % index for index in range(100_000)]
    node.set("product:0", b"old")
    node.set("product:99999", b"old")
    async with Watched({"n1": node.address}) as watched:
        assert await watched.cluster.evict(keys) == Outcome({"n1": 100_000}, {})
    assert node.get("product:0") is node.get("product:99999") is None
    # And not one command more: a fence for each chunk of 1,000.
    stats = node.stats()
    assert int(stats["delete_hits"]) + int(stats["delete_misses"]) == 100_000 + 100


async def test_longest_key_with_its_prefix_is_evicted(memcached: MemcachedFactory) -> None:
    node = memcached()
    key = "k" * 245
    node.set(f"shop:{key}", b"old")
    async with Watched({"n1": node.address}, prefix=b"shop:") as watched:
        assert await watched.cluster.evict([key.encode()]) == Outcome({"n1": 1}, {})
    assert node.get(f"shop:{key}") is None


async def test_stored_reserved_key_confirms_all_the_same(memcached: MemcachedFactory) -> None:
    node = memcached()
    node.set(RESERVED_KEY.decode(), b"somebody's")
    async with Watched({"n1": node.address}) as watched:
        for _ in range(2):
            assert await watched.cluster.evict([b"product:1"]) == Outcome({"n1": 1}, {})


async def test_small_requests_are_not_held_back_by_the_kernel(memcached: MemcachedFactory) -> None:
    async with Watched({"n1": memcached().address}) as watched:
        await watched.cluster.evict([b"product:1"])
        connection = watched.cluster._nodes["n1"]._connection
        assert connection and connection._transport
        mine = connection._transport.get_extra_info("socket")
        assert mine.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_hung_node_costs_one_deadline_and_comes_back_by_probe(memcached: MemcachedFactory) -> None:
    healthy, hung = memcached(), memcached()
    for node in (healthy, hung):
        node.set("product:1", b"old")
    addresses = {"healthy": healthy.address, "hung": hung.address}
    async with Watched(addresses, deadline=1.0) as watched:
        loop, cluster = asyncio.get_running_loop(), watched.cluster
        await cluster.evict([b"warm:up"])
        hang(hung)
        start = loop.time()
        outcomes = await asyncio.gather(*(cluster.evict([b"product:1"]) for _ in range(5)))
        assert 1.0 <= loop.time() - start < 5 * 1.0, "five deadlines, one after the other"
        unconfirmed = Unreachable((b"product:1",), "no confirmation for 1 s", True, 0, Failure.DEADLINE)
        assert outcomes == [Outcome({"healthy": 1}, {"hung": unconfirmed})] * 5
        assert cluster.states()["hung"].waited == 5

        outcome = await cluster.evict([b"product:1"])
        assert not outcome.unreachable["hung"].waited

        hung.resume()
        await watched.back.wait()
        assert await cluster.evict_on("hung", outcome.unreachable["hung"].keys) == Evicted(1)
        assert hung.get("product:1") is None


async def test_killed_node_is_unreachable_until_it_is_started_again(memcached: MemcachedFactory) -> None:
    node = memcached()
    async with Watched({"n1": node.address}) as watched:
        await watched.cluster.evict([b"product:1"])
        node.kill()
        outcome = await watched.cluster.evict([b"product:1"])
        assert outcome.unreachable["n1"].reason.startswith("cannot connect: ")
        node.start()
        node.set("product:1", b"old")
        await watched.back.wait()
        assert await watched.cluster.evict([b"product:1"]) == Outcome({"n1": 1}, {})
        assert node.get("product:1") is None


async def test_restart_between_two_evictions_costs_nothing(memcached: MemcachedFactory) -> None:
    node = memcached()
    async with Watched({"n1": node.address}) as watched:
        await watched.cluster.evict([b"product:1"])
        node.restart()
        assert await watched.cluster.evict([b"product:1"]) == Outcome({"n1": 1}, {})
        assert not watched.down.is_set()


async def test_node_that_returns_with_its_old_values_is_fixed_by_its_debt(
    memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    node = memcached()
    node.set("product:1", b"old")
    between = await proxy(node.address)
    async with Watched({"n1": between.address}) as watched:
        await watched.cluster.evict([b"warm:up"])
        await between.refuse()
        await between.cut()
        outcome = await watched.cluster.evict([b"product:1"])
        assert outcome.unreachable["n1"].keys == (b"product:1",)
        assert node.get("product:1") == b"old"
        await between.start()
        await watched.back.wait()
        assert await watched.cluster.evict_on("n1", [b"product:1"]) == Evicted(1)
        assert node.get("product:1") is None


async def test_partition_costs_one_deadline(memcached: MemcachedFactory, proxy: ProxyFactory) -> None:
    between = await proxy(memcached().address)
    async with Watched({"n1": between.address}, deadline=1.0) as watched:
        await watched.cluster.evict([b"warm:up"])
        between.requests.swallow = between.replies.swallow = True
        outcome = await watched.cluster.evict([b"product:1"])
        assert outcome.unreachable["n1"].reason == "no confirmation for 1 s"
        between.requests.swallow = between.replies.swallow = False
        await between.cut()
        await watched.back.wait()
        assert await watched.cluster.evict([b"product:1"]) == Outcome({"n1": 1}, {})


@pytest.mark.parametrize("spoilt", [b"", b"NF", b"NF O1\r\n", b"SERVER_ERROR out of memory\r\n", b"\xff\xfe"])
async def test_spoilt_reply_is_never_a_confirmation(
    memcached: MemcachedFactory, proxy: ProxyFactory, spoilt: bytes
) -> None:
    node = memcached()
    between = await proxy(node.address)
    async with Watched({"n1": between.address}, deadline=1.0) as watched:
        between.replies.rewrite = lambda data: spoilt
        outcome = await watched.cluster.evict([b"product:1"])
        assert outcome.unreachable["n1"].keys == (b"product:1",)
        between.replies.rewrite = None
        await watched.back.wait()
        assert await watched.cluster.evict([b"product:1"]) == Outcome({"n1": 1}, {})


async def test_shifted_replies_end_the_connection_and_the_batch_is_sent_again(
    memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    node = memcached()
    between = await proxy(node.address)
    async with Watched({"n1": between.address}) as watched:
        await watched.cluster.evict([b"warm:up"])
        node.set("product:1", b"old")
        between.inject(b"NF O1\r\n")
        assert await watched.cluster.evict([b"product:1"]) == Outcome({"n1": 1}, {})
        assert between.accepted == 2
    assert node.get("product:1") is None


async def test_reset_in_the_middle_of_a_reply_is_repeated(memcached: MemcachedFactory, proxy: ProxyFactory) -> None:
    node = memcached()
    node.set("product:1", b"old")
    between = await proxy(node.address)
    async with Watched({"n1": between.address}) as watched:
        between.replies.hold()
        eviction = asyncio.ensure_future(watched.cluster.evict([b"product:1"]))
        while between.accepted == 0 or node.get("product:1"):
            await asyncio.sleep(0.005)
        between.replies.release()
        await between.reset()
        assert await eviction == Outcome({"n1": 1}, {})


async def test_full_node_is_asked_again_when_it_has_room(memcached: MemcachedFactory) -> None:
    node = memcached("-c", "40", "-t", "1")
    async with Watched({"n1": node.address}, deadline=1.0) as watched:
        with ExitStack() as crowd:
            fill(node, crowd)
            outcome = await watched.cluster.evict([b"product:1"])
            assert outcome.unreachable["n1"].keys == (b"product:1",)
            assert watched.cluster.states()["n1"].is_open
        await watched.back.wait()
        assert await watched.cluster.evict([b"product:1"]) == Outcome({"n1": 1}, {})


def fill(node: Memcached, crowd: ExitStack) -> None:
    """Take all the connections that the node has."""
    for _ in range(60):
        client = crowd.enter_context(socket.create_connection(split(node.address)))
        client.settimeout(0.5)
        try:
            client.sendall(b"version\r\n")
            if not client.recv(100).startswith(b"VERSION"):
                return
        except OSError:
            return
    raise AssertionError("the node took sixty connections")
