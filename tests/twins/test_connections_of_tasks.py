"""The connections of tasks, which share one for each loop."""

import asyncio
import gc

import pytest

from invalidator.app.cache.commands import Cas, Failure, Get, Gets, LetGo
from invalidator.app.cache.items import Item
from invalidator.app.cache.nodes.async_connection import AsyncConnection
from invalidator.app.cache.nodes.async_nodes import AsyncNode, AsyncNodes
from invalidator.app.cache.nodes.protocol import retrieval
from invalidator.memcached.access import Access
from invalidator.settings import Address
from tests.lying_memcached import LyingMemcached


@pytest.fixture
def shared(node: LyingMemcached) -> AsyncNode:
    host, port = node.address.split(":")
    return AsyncNode("n1", Address(host, int(port)), prefix="", timeout=20, access=Access())


async def ended(shared: AsyncNode) -> None:
    shared.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_tasks_that_begin_together_dial_once(node: LyingMemcached, shared: AsyncNode) -> None:
    assert [[None]] * 8 == await asyncio.gather(*(shared.answer([Get(key)]) for key in "abcdefgh"))
    assert 1 == len(node.accepted)
    await ended(shared)


async def test_a_task_that_is_cancelled_while_it_dials_takes_the_connection_from_no_other(
    node: LyingMemcached, shared: AsyncNode
) -> None:
    first, second = (asyncio.create_task(shared.answer([Get("k")])) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert [None] == await second
    assert ([True], 1) == ([first.cancelled()], len(node.accepted))
    await ended(shared)


@pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning")  # asyncio's, of the first loop
def test_a_loop_that_is_closed_leaves_no_connection_behind(node: LyingMemcached, shared: AsyncNode) -> None:
    before: list[AsyncConnection] = []

    async def read(*, last: bool = False) -> None:
        assert [None] == await shared.answer([Get("k")])
        if last:
            assert [-1] == [connection._socket.fileno() for connection in before]
            await ended(shared)

    asyncio.run(read())
    before.extend(shared._connections.values())
    asyncio.run(read(last=True))
    assert {} == shared._connections
    before.clear()
    gc.collect()


def test_each_loop_keeps_its_connection(node: LyingMemcached, shared: AsyncNode) -> None:
    with asyncio.Runner() as one, asyncio.Runner() as two:
        for runner in (one, two, one, two):
            assert [[None]] == [runner.run(shared.answer([Get("k")]))]
        assert 2 == len(node.accepted)
        for runner in (one, two):
            runner.run(ended(shared))


async def test_a_cas_is_sent_on_the_connection_of_its_gets_or_not_at_all(
    node: LyingMemcached, shared: AsyncNode
) -> None:
    node.put("k", b"1")
    (held,) = await shared.answer([Gets("k")])
    held.token.connection.close()
    assert [Item(b"1")] == await shared.answer([Get("k")])
    assert [Failure.DOWN] == await shared.answer([Cas("k", Item(b"2"), 60, held.token)])
    assert b"1" == node.value("k")
    await ended(shared)


async def test_a_connection_whose_life_is_over_serves_those_that_wait_on_it(
    node: LyingMemcached, shared: AsyncNode
) -> None:
    assert [None] == await shared.answer([Get("k")])
    (old,) = shared._connections.values()
    shared._longest_life = 0.0
    waiting = old.ask(retrieval([b"k"]).data, retrieval([b"k"]).reply)
    assert [None] == await shared.answer([Get("k")])
    assert await waiting is None
    assert (False, 2) == (old.is_open, len(node.accepted))
    await ended(shared)


async def test_commands_for_several_nodes_are_answered_by_each(node: LyingMemcached) -> None:
    with LyingMemcached() as other:
        nodes = {each.address: Address("127.0.0.1", int(each.address.partition(":")[2])) for each in (node, other)}
        for each in (node, other):
            each.put("a", b"1")
            each.put("b", b"2")
        shared = AsyncNodes(nodes, ring="rendezvous", prefix="", timeout=20, access=Access())
        held = await shared.answer([Gets(key) for key in "abc"])
        assert [Item(b"1"), Item(b"2"), None] == [each and each.item for each in held]
        assert [True, True] == await shared.answer(
            [Cas(key, Item(b"3"), 60, each.token) for key, each in zip("ab", held, strict=False)]
        )
        assert [Item(b"3"), Item(b"3"), None] == await shared.get_many("abc")
        assert [Failure.DOWN] == await shared.answer([Get("not good")])
        assert [Failure.DOWN, Failure.DOWN] == await shared.answer([LetGo(each.token) for each in held[:2]])
        shared.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
