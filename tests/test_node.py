"""One node against a scripted server on loopback: its bytes, its confirmations, and its end."""

import asyncio

import pytest

from invalidator.memcached.eviction import Evicted, Unreachable
from invalidator.memcached.wire import chunks
from tests.scripted_node import Answer, Batch, Peer, ScriptedNode, confirm, drips, node_at, say_nothing, stored


async def test_node_reads_the_deletes_and_their_fence_and_nothing_else() -> None:
    async with ScriptedNode() as server, node_at(server.address) as node:
        assert await node.evict(chunks([b"product:1", b"product:2"], prefix=b"shop:")) == Evicted(2)
        [peer] = server.peers
        assert peer.received == (
            b"delete shop:product:1 noreply\r\n"
            b"delete shop:product:2 noreply\r\n"
            b"md invalidator\xc2\xb7fence O" + peer.batches[0].number + b"\r\n"
        )


@pytest.mark.parametrize("answer", [confirm, stored, drips])
async def test_confirmed_deletes_are_evicted(answer: Answer) -> None:
    async with ScriptedNode([answer]) as server, node_at(server.address) as node:
        assert await node.evict(chunks([b"a", b"b"])) == Evicted(2)
        assert len(server.batches) == 1


async def test_one_connection_serves_many_evictions() -> None:
    async with ScriptedNode() as server, node_at(server.address) as node:
        answers = await asyncio.gather(*(node.evict(chunks([b"%d" % index])) for index in range(50)))
        assert answers == [Evicted(1)] * 50
        assert len(server.peers) == 1


async def test_no_keys_cost_nothing() -> None:
    async with ScriptedNode() as server, node_at(server.address) as node:
        assert await node.evict([]) == Evicted(0)
        assert server.peers == []


async def test_no_more_chunks_are_outstanding_than_allowed() -> None:
    hold = asyncio.Event()

    async def confirm_when_let(peer: Peer, batch: Batch) -> None:
        await hold.wait()
        await confirm(peer, batch)

    async with ScriptedNode(then=confirm_when_let) as server, node_at(server.address, chunks_in_flight=2) as node:
        eviction = node.submit(chunks([b"a", b"b", b"c", b"d", b"e"], size=1))
        await server.asked.wait()
        connection = node._connection
        assert connection
        assert len(connection.outstanding) == 2
        hold.set()
        assert await eviction == Evicted(5)
        assert [batch.keys for batch in server.batches] == [[b"a"], [b"b"], [b"c"], [b"d"], [b"e"]]


async def test_closing_leaves_what_is_not_confirmed_unreachable() -> None:
    async with ScriptedNode(then=say_nothing) as server, node_at(server.address) as node:
        eviction = node.submit(chunks([b"a"]))
        await server.asked.wait()
        await node.close()
        assert await eviction == Unreachable((b"a",), "this worker is stopping", True)
        assert await node.evict(chunks([b"b"])) == Unreachable((b"b",), "this worker is stopping", False)


async def test_cancelled_eviction_disturbs_nobody() -> None:
    async with ScriptedNode([drips]) as server, node_at(server.address) as node:
        cancelled = asyncio.ensure_future(node.evict(chunks([b"a"])))
        await asyncio.sleep(0)
        cancelled.cancel()
        assert await node.evict(chunks([b"b"])) == Evicted(1)
