"""Chunks that a node did not confirm: sent again whole on a fresh connection, once, then unreachable."""

import asyncio

import pytest

from invalidator.memcached.eviction import Evicted, Unreachable
from invalidator.memcached.wire import chunks
from tests.scripted_node import WRONG, Answer, ScriptedNode, confirm, node_at, say, twice


@pytest.mark.parametrize("wrong", WRONG)
async def test_chunk_that_was_not_confirmed_is_sent_whole_on_a_fresh_connection(wrong: Answer) -> None:
    async with ScriptedNode([wrong]) as server, node_at(server.address) as node:
        assert await node.evict(chunks([b"a", b"b"])) == Evicted(2)
        first, second = server.batches
        assert first.keys == second.keys == [b"a", b"b"]
        assert first.number != second.number
        assert len(server.peers) == 2


@pytest.mark.parametrize("wrong", WRONG)
async def test_chunk_that_is_not_confirmed_twice_is_unreachable(wrong: Answer) -> None:
    async with ScriptedNode([wrong, wrong]) as server, node_at(server.address) as node:
        answer = await node.evict(chunks([b"a", b"b"]))
        assert isinstance(answer, Unreachable)
        assert (answer.keys, answer.waited, answer.evicted) == ((b"a", b"b"), True, 0)
        assert node.state.is_open
        assert len(server.batches) == 2


async def test_only_chunks_not_yet_confirmed_are_repeated() -> None:
    async with ScriptedNode([confirm, say(b"ERROR\r\n")]) as server, node_at(server.address) as node:
        assert await node.evict(chunks([b"a", b"b", b"c", b"d"], size=1)) == Evicted(4)
        assert [batch.keys for batch in server.peers[1].batches] == [[b"b"], [b"c"], [b"d"]]


async def test_answer_given_twice_never_confirms_the_next_chunk() -> None:
    async with ScriptedNode([twice]) as server, node_at(server.address) as node:
        assert await node.evict(chunks([b"a", b"b"], size=1)) == Evicted(2)
        assert [batch.keys for batch in server.confirmed()] == [[b"a"], [b"b"]]
        assert len(server.peers) == 2


async def test_unreachable_keys_are_those_of_the_chunks_not_confirmed() -> None:
    script = [confirm, say(b"ERROR\r\n"), say(b"ERROR\r\n")]
    async with ScriptedNode(script) as server, node_at(server.address, chunks_in_flight=1) as node:
        answer = await node.evict(chunks([b"a", b"b", b"c", b"d", b"e"], size=2))
        assert isinstance(answer, Unreachable)
        assert (answer.keys, answer.evicted) == ((b"c", b"d", b"e"), 2)


async def test_connection_closed_while_idle_is_opened_again_on_demand() -> None:
    async with ScriptedNode() as server, node_at(server.address) as node:
        await node.evict(chunks([b"a"]))
        server.peers[0].close()
        await server.peers[0].writer.wait_closed()
        await asyncio.sleep(0.01)
        assert 1 == len(server.peers), "not before there is something to send"
        assert await node.evict(chunks([b"b"])) == Evicted(1)
        assert not node.state.is_open
