"""Logging in to a node: only exactly STORED accepts the login, and nothing else is sent before it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invalidator.errors import RefusedError, UnreachableError
from invalidator.memcached.access import Access, login_command
from invalidator.memcached.breaker import Backoff
from invalidator.memcached.dial import STORED, Entrance, dial
from invalidator.memcached.eviction import Evicted, Unreachable
from invalidator.memcached.node import Node
from invalidator.memcached.wire import bare_fence
from invalidator.settings import Address, MemcachedSettings
from tests.test_memcached_connection import FakeTransport

LOGIN = login_command("shop", "hush")

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Recorder(asyncio.Protocol):
    """A protocol that keeps what it receives."""

    def __init__(self) -> None:
        self.made, self.data = 0, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made += 1

    def data_received(self, data: bytes) -> None:
        self.data += data


class Transport(FakeTransport):
    """A transport whose protocol can be replaced."""

    def __init__(self, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol


def test_the_login_is_stored_as_expired_already() -> None:
    assert b"set invalidator\xc2\xb7fence 0 -1 9\r\nshop hush\r\n" == LOGIN
    assert login_command("shop", "é").endswith(b" 0 -1 7\r\nshop \xc3\xa9\r\n")


def test_it_is_not_shown() -> None:
    assert "hush" not in repr(Access(login=LOGIN))


@given(st.lists(st.sampled_from([b"S", b"STORED", b"\r", b"\n", b"\r\n", b"TORED\r\n", b"x", STORED]), max_size=5))
def test_only_exactly_stored_accepts_the_login_however_it_is_cut(pieces: list[bytes]) -> None:
    loop = asyncio.new_event_loop()
    try:
        recorder = Recorder()
        asyncio.set_event_loop(loop)
        entrance = loop.run_until_complete(_entrance(recorder))
        transport = Transport(entrance)
        entrance.connection_made(transport)
        said = b""
        for piece in pieces:
            if transport.protocol is not entrance or entrance.accepted.done():
                break
            said += piece
            entrance.data_received(piece)
        assert (said == STORED) == (recorder.made == 1) == (transport.protocol is recorder)
        assert entrance.accepted.done() == (said == STORED or not STORED.startswith(said))
        if entrance.accepted.done() and said != STORED:
            assert isinstance(entrance.accepted.exception(), RefusedError)
        assert [LOGIN] == transport.written
    finally:
        asyncio.set_event_loop(None)
        loop.close()


async def _entrance(protocol: asyncio.Protocol) -> Entrance:
    return Entrance(LOGIN, protocol)


@asynccontextmanager
async def serving(script: Script) -> AsyncIterator[tuple[str, int]]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            assert LOGIN == await reader.readexactly(len(LOGIN))
            await script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()


@asynccontextmanager
async def node_at(address: tuple[str, int], deadline: float = 10.0) -> AsyncIterator[Node]:
    async def once(_: float) -> None:
        await asyncio.Event().wait()  # no probe in these tests

    node = Node(
        "n", Address(*address), access=lambda: Access(login=LOGIN), deadline=deadline, backoff=Backoff(), sleep=once
    )
    try:
        yield node
    finally:
        await node.close()


async def test_nothing_is_sent_before_the_node_has_accepted_the_login() -> None:
    chunk = bare_fence()

    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"STO")
        reading = asyncio.create_task(reader.readexactly(len(chunk.request)))
        await asyncio.wait({reading}, timeout=0.05)
        assert not reading.done()
        writer.write(b"RED\r\n")
        assert chunk.request == await reading
        writer.write(chunk.answers[0])

    async with serving(slowly) as address, node_at(address) as node:
        assert Evicted(0) == await node.evict([chunk])


async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"CLIENT_ERROR authentication failure\r\n")
    await writer.drain()


async def close(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    """Without a word."""


async def say_too_much(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"STORED\r\nNF O1\r\n")
    await writer.drain()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (refuse, "it answers user and password with b'CLIENT_ERROR authentication failure\\r\\n'"),
        (close, "connection closed during login"),
        (say_too_much, "it answers user and password with b'STORED\\r\\nNF O1\\r\\n'"),
    ],
)
async def test_a_node_that_does_not_accept_the_login_is_unreachable_with_the_reason(
    script: Script, expected: str
) -> None:
    async with serving(script) as address, node_at(address) as node:
        answer = await node.evict([bare_fence()])
    assert isinstance(answer, Unreachable)
    assert f"cannot connect: {expected}" == answer.reason


async def test_a_node_that_never_answers_the_login_costs_one_deadline_and_the_connection_is_closed() -> None:
    closed = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        finally:
            closed.set()

    async with serving(say_nothing) as address, node_at(address, deadline=0.1) as node:
        answer = await node.evict([bare_fence()])
        assert isinstance(answer, Unreachable)
        assert "no confirmation for 0.1 s" == answer.reason
        await closed.wait()


async def test_without_a_login_the_protocol_has_the_connection_at_once() -> None:
    recorder = Recorder()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        await dial(Address(*server.sockets[0].getsockname()), Access(), recorder)
    assert 1 == recorder.made


async def test_a_file_that_goes_missing_later_leaves_the_node_unreachable() -> None:
    access = Access.of(MemcachedSettings(tls=True, tls_ca="/nowhere"))
    with pytest.raises(UnreachableError, match=r'"memcached\.tls_ca": cannot read certificates in /nowhere'):
        await dial(Address("127.0.0.1", 1), access, Recorder())
