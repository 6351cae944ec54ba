"""A reader's connections, over a pair of sockets: what a request costs, and what ends a connection."""

import asyncio
import gc
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import pytest
import trustme

from invalidator.app.cache.items import Item
from invalidator.app.cache.nodes import blocking_connection
from invalidator.app.cache.nodes.async_connection import AbandonedError, AsyncConnection, Ended
from invalidator.app.cache.nodes.blocking_connection import BlockingConnection, _leave_timeout_to_the_kernel
from invalidator.app.cache.nodes.protocol import ErrorReply, MalformedError, Request, retrieval
from invalidator.errors import ConfigurationError
from invalidator.memcached.access import Access
from invalidator.settings import Address
from tests.lying_memcached import LyingMemcached
from tests.virtual_time import in_virtual_time

TIMEOUT = 0.3


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[AsyncConnection, socket.socket]]:
    """Yield a connection, and the socket at memcached's end."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    loop = asyncio.get_running_loop()
    connection = AsyncConnection(ours, loop, TIMEOUT)
    await loop.create_connection(lambda: connection, sock=ours)
    try:
        yield connection, theirs
    finally:
        connection.close()
        theirs.close()
        await asyncio.sleep(0)


def ask(connection: AsyncConnection, key: bytes = b"k") -> tuple[Request, Ended]:
    asked = retrieval([key])
    return asked, connection.ask(asked.data, asked.reply)


def answer(key: bytes, value: bytes = b"1") -> bytes:
    return b"VALUE %b 0 %d\r\n%b\r\nEND\r\n" % (key, len(value), value)


# asyncio: answers


async def test_answers_belong_to_the_requests_in_their_order_though_they_arrive_in_one_piece() -> None:
    async with connected() as (connection, node):
        (first, one), (second, two) = ask(connection, b"a"), ask(connection, b"b")
        node.sendall(answer(b"a") + answer(b"b", b"2"))
        assert [None, None] == [await one, await two]
        assert ([Item(b"1")], [Item(b"2")]) == (first.reply.answers, second.reply.answers)
        assert b"get a\r\nget b\r\n" == node.recv(100)
        assert connection.is_fit()


async def test_the_answer_to_a_request_that_was_cancelled_is_read_and_dropped() -> None:
    async with connected() as (connection, node):
        _, given_up = ask(connection, b"a")
        given_up.cancel()
        asked, ended = ask(connection, b"b")
        node.sendall(answer(b"a") + answer(b"b", b"2"))
        assert await ended is None
        assert [Item(b"2")] == asked.reply.answers


@pytest.mark.parametrize("data", [b"END\r\nEND\r\n", b"nonsense\r\n"])
async def test_an_answer_that_does_not_fit_ends_the_connection_and_all_that_wait_on_it(data: bytes) -> None:
    async with connected() as (connection, node):
        _, one = ask(connection)
        node.sendall(data)
        assert isinstance(await one, MalformedError)
        assert not connection.is_open
        await asyncio.sleep(0)
        assert -1 == connection._socket.fileno()


async def test_an_error_line_is_the_answer_to_the_first_request_only() -> None:
    async with connected() as (connection, node):
        waiting = [ask(connection, key)[1] for key in (b"a", b"b", b"c")]
        node.sendall(b"ERROR\r\n")
        assert [ErrorReply, AbandonedError, AbandonedError] == [type(await each) for each in waiting]


async def test_bytes_that_nobody_asked_for_end_an_idle_connection(caplog: pytest.LogCaptureFixture) -> None:
    async with connected() as (connection, node):
        assert connection.is_fit()
        node.sendall(b"END\r\n")
        assert (True, False) == (connection.is_open, connection.is_fit()), "before the loop has read them"
        await asyncio.sleep(0.01)
        assert (False, []) == (connection.is_open, caplog.messages)


async def test_a_connection_with_an_answer_on_its_way_is_fit() -> None:
    async with connected() as (connection, node):
        _, ended = ask(connection)
        node.sendall(b"END\r\n")
        assert connection.is_fit()
        await ended


# asyncio: ends


@pytest.mark.parametrize("is_reset", [True, False])
async def test_a_connection_that_memcached_closes_fails_what_waits_on_it(is_reset: bool) -> None:
    async with connected() as (connection, node):
        _, one = ask(connection)
        if not is_reset:  # unread bytes make a reset of the close
            node.recv(100)
        node.close()
        error = await one
        assert isinstance(error, ConnectionError)
        assert not isinstance(error, AbandonedError)
        assert is_reset or "memcached closed the connection" == str(error)


async def test_a_connection_that_has_ended_takes_no_request() -> None:
    async with connected() as (connection, _):
        connection.close()
        _, ended = ask(connection)
        assert ended.done()
        assert isinstance(ended.result(), ConnectionError)


async def test_closing_fails_what_waits_and_says_nothing_against_the_node() -> None:
    async with connected() as (connection, _):
        _, ended = ask(connection)
        connection.close()
        assert isinstance(await ended, AbandonedError)


async def test_a_retired_connection_ends_once_nothing_waits_on_it() -> None:
    async with connected() as (connection, node):
        _, ended = ask(connection)
        connection.retire()
        assert connection.is_open
        node.sendall(b"END\r\n")
        assert await ended is None
        assert not connection.is_open
    async with connected() as (connection, _):
        connection.retire()
        assert not connection.is_open


async def test_an_abandoned_connection_leaves_its_loop_alone_and_its_descriptor_closed() -> None:
    async with connected() as (connection, _):
        _, ended = ask(connection)
        connection.abandon()
        assert (False, False, -1) == (connection.is_open, ended.done(), connection._socket.fileno())


# asyncio: the deadline


@in_virtual_time
async def test_later_requests_do_not_extend_the_deadline_of_the_first() -> None:
    async with connected() as (connection, _):
        loop = asyncio.get_running_loop()
        began = loop.time()
        _, first = ask(connection)
        while not first.done() and loop.time() < began + 10:
            await asyncio.sleep(TIMEOUT / 3)
            ask(connection)
        assert isinstance(first.result(), TimeoutError)
        assert loop.time() - began < 2 * TIMEOUT
        assert not connection.is_open


@in_virtual_time
async def test_each_piece_of_an_answer_extends_the_deadline() -> None:
    async with connected() as (connection, node):
        _, ended = ask(connection)
        for piece in (b"VALUE k 0 1\r\n", b"1\r\n", b"END\r\n"):
            await asyncio.sleep(0.8 * TIMEOUT)
            node.sendall(piece)
        assert await ended is None


@in_virtual_time
async def test_an_idle_time_does_not_count_for_the_next_request() -> None:
    async with connected() as (connection, node):
        for wait, takes in ((0.0, 0.1), (0.8, 0.8), (0.9, 0.8), (5.0, 0.8)):
            await asyncio.sleep(wait * TIMEOUT)
            _, ended = ask(connection)
            await asyncio.sleep(takes * TIMEOUT)
            node.sendall(b"END\r\n")
            assert await ended is None


@in_virtual_time
async def test_a_request_that_is_not_answered_fails_after_its_timeout_and_neither_sooner_nor_later() -> None:
    async with connected() as (connection, node):
        loop = asyncio.get_running_loop()
        _, ended = ask(connection)
        node.sendall(b"END\r\n")
        await ended
        await asyncio.sleep(1.0)
        began = loop.time()
        error = await ask(connection)[1]
        assert pytest.approx(TIMEOUT) == loop.time() - began
        assert f"memcached sent nothing for {TIMEOUT} s" == str(error)


async def test_one_timer_serves_all_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected() as (connection, node):
        timers = []

        def call_later(delay: float, callback: object, *arguments: object) -> object:
            timers.append(callback)
            return real(delay, callback, *arguments)  # type: ignore[arg-type]

        loop = asyncio.get_running_loop()
        real = loop.call_later
        monkeypatch.setattr(loop, "call_later", call_later)
        for _ in range(5):
            _, ended = ask(connection)
            node.sendall(b"END\r\n")
            await ended
        assert [connection._check_progress] == timers


# Threads


@contextmanager
def pair() -> Iterator[tuple[BlockingConnection, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(60.0)  # for connecting
    _leave_timeout_to_the_kernel(ours, TIMEOUT)
    connection = BlockingConnection(ours)
    yield connection, theirs
    connection.close()
    theirs.close()


def test_a_thread_gets_the_answer_in_whatever_pieces() -> None:
    with pair() as (connection, node):
        node.sendall(answer(b"k"))
        assert Item(b"1") == connection.get(b"k")
        node.sendall(answer(b"k", b"x" * 200_000)[:70_000])
        sending = answer(b"k", b"x" * 200_000)[70_000:]
        rest = threading.Thread(target=node.sendall, args=[sending])
        rest.start()
        assert Item(b"x" * 200_000) == connection.get(b"k")
        rest.join()
        assert connection.is_fit()


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", TimeoutError),
        (b"VALUE k 0 1\r\n", TimeoutError),
        (b"END\r\nEND\r\n", MalformedError),
        (b"nonsense\r\n", MalformedError),
        (b"ERROR\r\n", ErrorReply),
    ],
)
@pytest.mark.parametrize("way", ["get", "receive"])
def test_a_failed_request_of_a_thread_closes_its_connection(way: str, data: bytes, error: type[Exception]) -> None:
    with pair() as (connection, node):
        node.sendall(data)
        request = (
            partial(connection.get, b"k") if way == "get" else partial(connection.receive, retrieval([b"k"]).reply)
        )
        with pytest.raises(error):
            request()
        assert (False, False) == (connection.is_open, connection.is_fit())
        assert -1 == connection._socket.fileno()


def test_a_node_that_takes_no_bytes_costs_a_thread_one_timeout() -> None:
    with pair() as (connection, _):
        with pytest.raises(TimeoutError, match="memcached took nothing in time"):
            connection.send(b"x" * 10_000_000)
        assert not connection.is_open


def test_an_idle_connection_of_a_thread_that_has_something_to_read_is_not_fit() -> None:
    with pair() as (connection, node):
        assert connection.is_fit()
        node.sendall(b"END\r\n")
        assert not connection.is_fit()


def test_the_kernel_keeps_the_timeout_of_a_thread() -> None:
    with pair() as (connection, _):
        assert connection._socket.gettimeout() is None, "Python's own costs a call of `poll` before each"
        with pytest.raises(TimeoutError, match="memcached sent nothing in time"):
            connection.get(b"k")


@pytest.mark.parametrize("timeout", [2.5, 0.0000001])
def test_a_timeout_has_seconds_and_microseconds_and_is_never_none(timeout: float) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        _leave_timeout_to_the_kernel(ours, timeout)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            seconds, micros = struct.unpack("ll", ours.getsockopt(socket.SOL_SOCKET, option, 16))
            # The kernel counts in ticks of a few milliseconds.
            assert max(timeout, 0.0001) <= seconds + micros / 1e6 < timeout + 0.02


def test_names_that_are_none_are_errors_of_the_node_and_not_of_python() -> None:
    address = Address("a" * 70 + ".example", 11211)
    with pytest.raises(OSError, match=r"is not a name"):
        BlockingConnection.dial(address, Access(), 1.0)
    with pytest.raises(OSError, match=r"is not a name"):
        asyncio.run(AsyncConnection.dial(address, Access(), 1.0))


def test_the_second_address_of_a_machine_is_tried_if_the_first_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with LyingMemcached() as node:
        port = int(node.address.partition(":")[2])

        def both(host: object, port: int, *args: object, **kwargs: object) -> object:
            return [
                (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port)),
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
            ]

        monkeypatch.setattr(socket, "getaddrinfo", both)
        BlockingConnection.dial(Address("cache", port), Access(), 5.0).close()

        async def dial() -> None:
            (await AsyncConnection.dial(Address("cache", port), Access(), 5.0)).close()
            await asyncio.sleep(0)

        asyncio.run(dial())
        assert 2 == len(node.accepted)


def test_a_machine_that_takes_no_connection_costs_a_timeout() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        # Its queue is full with this one, and the kernel drops further connections.
        with socket.create_connection(listener.getsockname()):
            address = Address(*listener.getsockname())
            with pytest.raises(TimeoutError):
                BlockingConnection.dial(address, Access(), 0.1)
            with pytest.raises(TimeoutError):
                asyncio.run(AsyncConnection.dial(address, Access(), 0.1))


def test_a_node_is_known_by_the_name_in_its_certificate() -> None:
    authority, server, client = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("cache.internal").configure_cert(server)
    authority.configure_trust(client)
    with LyingMemcached(tls=server) as node:
        host, port = node.address.split(":")
        address, access = Address(host, int(port)), Access(lambda: client, "cache.internal")
        BlockingConnection.dial(address, access, 20.0).close()

        async def dial() -> None:
            (await AsyncConnection.dial(address, access, 20.0)).close()
            await asyncio.sleep(0)

        asyncio.run(dial())


def test_a_certificate_that_cannot_be_read_leaves_no_socket() -> None:
    """A socket that is left is a ResourceWarning, which fails the test."""

    def unreadable() -> ssl.SSLContext:
        raise ConfigurationError("tls_ca cannot be read")

    with LyingMemcached() as node:
        host, port = node.address.split(":")
        address, access = Address(host, int(port)), Access(unreadable)
        with pytest.raises(ConfigurationError):
            BlockingConnection.dial(address, access, 20.0)
        with pytest.raises(ConfigurationError):
            asyncio.run(AsyncConnection.dial(address, access, 20.0))
    gc.collect()


def test_an_interrupted_connecting_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(socket.socket):
        def connect(self, address: object) -> None:
            raise KeyboardInterrupt

    made = Interrupted()
    monkeypatch.setattr(blocking_connection, "new_socket", lambda target: made)
    with pytest.raises(KeyboardInterrupt):
        BlockingConnection.dial(Address("127.0.0.1", 1), Access(), 1.0)
    assert -1 == made.fileno()
