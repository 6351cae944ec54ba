"""Guards of a node: each test is red without the line that it names."""

import asyncio

import pytest

from invalidator.memcached.access import Access
from invalidator.memcached.eviction import Evicted, Unreachable
from invalidator.memcached.failure import Failure
from invalidator.memcached.node import STOPPING, Node
from invalidator.memcached.wire import chunks
from invalidator.settings import Address
from tests.scripted_node import ScriptedNode, node_at, say_nothing
from tests.test_memcached_connection import FakeTransport
from tests.virtual_time import in_virtual_time


async def test_a_closed_node_refuses_what_comes_later_and_connects_no_more() -> None:
    async with ScriptedNode() as server:
        node = Node("c1", Address(*server.address))
        assert Evicted(1) == await node.evict(chunks([b"a"]))
        await node.close()
        assert Unreachable((b"b",), STOPPING, False, failure=Failure.BROKEN) == await node.evict(chunks([b"b"]))
        assert 1 == len(server.peers)
        assert node._dialling is None


async def test_closing_ends_the_deadline_and_opens_no_breaker() -> None:
    async with ScriptedNode(then=say_nothing) as server:
        node = Node("c1", Address(*server.address))
        answer = node.submit(chunks([b"a"]))
        await server.asked.wait()
        await node.close()
        assert Unreachable((b"a",), STOPPING, True, failure=Failure.BROKEN) == await answer
        assert node._timer is None or node._timer.cancelled()
        assert not node.state.is_open


async def test_closing_waits_for_the_connection_that_is_being_opened() -> None:
    async with ScriptedNode() as server:
        node = Node("c1", Address(*server.address))
        node.submit(chunks([b"a"]))
        dialling = node._dialling
        assert dialling
        await node.close()
        assert dialling.done()


async def test_a_node_has_the_address_of_its_connection_while_it_has_one() -> None:
    async with ScriptedNode() as server, node_at(server.address) as node:
        assert node.peer is None
        await node.evict(chunks([b"a"]))
        assert server.address[0] == node.peer


@in_virtual_time
async def test_closing_takes_no_time_and_leaves_no_socket() -> None:
    async with ScriptedNode() as server:
        node = Node("c1", Address(*server.address))
        await node.evict(chunks([b"a"]))
        assert node._connection
        assert node._connection._transport
        connected = node._connection._transport.get_extra_info("socket")
        began = asyncio.get_running_loop().time()
        await node.close()
        assert (began, -1) == (asyncio.get_running_loop().time(), connected.fileno())


async def test_a_login_that_is_not_answered_is_given_up_with_its_connection() -> None:
    async with ScriptedNode(then=say_nothing) as server:
        node = Node("c1", Address(*server.address), access=lambda: Access(login=b"md invalidator\xc2\xb7fence O1\r\n"))
        answer = node.submit(chunks([b"a"]))
        await server.asked.wait()
        await node.close()
        assert isinstance(await answer, Unreachable)
        (peer,) = server.peers
        await peer.writer.wait_closed()


async def test_a_connection_that_is_given_up_just_when_it_is_handed_over_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transport, handed_over = FakeTransport(), asyncio.Event()

    async def dial(address: Address, access: Access, protocol: asyncio.BaseProtocol) -> None:
        protocol.connection_made(transport)
        handed_over.set()
        await asyncio.Event().wait()

    monkeypatch.setattr("invalidator.memcached.node.dial", dial)
    node = Node("c1", Address("127.0.0.1", 11211))
    node.submit(chunks([b"a"]))
    await handed_over.wait()
    await node.close()
    assert transport.aborted


async def test_closing_waits_for_a_connection_whose_end_takes_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def dial(address: Address, access: Access, protocol: asyncio.BaseProtocol) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            ended.set()

    monkeypatch.setattr("invalidator.memcached.node.dial", dial)
    node = Node("c1", Address("127.0.0.1", 11211))
    node.submit(chunks([b"a"]))
    await begun.wait()
    await node.close()
    assert ended.is_set()
