"""The private servers do what the tests of everything else rely on."""

import asyncio

import pytest

from tests.integration.conftest import MemcachedFactory, ProxyFactory
from tests.servers import Broker, ServerError


def test_memcached_comes_back_empty_on_the_same_address(memcached: MemcachedFactory) -> None:
    node = memcached()
    address = node.address
    node.set("k", b"value")
    assert node.get("k") == b"value"
    node.restart()
    assert node.address == address
    assert node.get("k") is None


def test_paused_memcached_accepts_but_never_answers(memcached: MemcachedFactory) -> None:
    node = memcached()
    node.pause()
    with pytest.raises(TimeoutError):
        node.command(b"version\r\n", timeout=0.2)
    node.resume()
    assert node.command(b"version\r\n").startswith(b"VERSION")


def test_vhosts_come_and_go(broker: Broker) -> None:
    broker.add_vhost("a/b")
    assert "a/b" in [vhost["name"] for vhost in broker.api("GET", "/vhosts")]
    broker.delete_vhost("a/b")
    assert "a/b" not in [vhost["name"] for vhost in broker.api("GET", "/vhosts")]


def test_a_failing_rabbitmqctl_raises_what_it_said(broker: Broker) -> None:
    with pytest.raises(ServerError, match="no_such_command"):
        broker.ctl("no_such_command")


def test_rabbitmqctl_reaches_the_private_node(broker: Broker) -> None:
    assert broker.node in broker.ctl("status")


async def test_proxy_passes_bytes_and_rewrites_replies(memcached: MemcachedFactory, proxy: ProxyFactory) -> None:
    node = memcached()
    way = await proxy(node.address)
    way.replies.rewrite = lambda data: data.replace(b"VERSION", b"GARBAGE")
    reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
    writer.write(b"version\r\n")
    assert (await reader.readline()).startswith(b"GARBAGE ")
    writer.close()


async def test_proxy_resets_connections_and_refuses_new_ones(memcached: MemcachedFactory, proxy: ProxyFactory) -> None:
    way = await proxy(memcached().address)
    reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
    writer.write(b"version\r\n")
    await reader.readline()
    await way.refuse()
    await way.reset()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", way.port)
    await way.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
    writer.write(b"version\r\n")
    assert (await reader.readline()).startswith(b"VERSION ")
    writer.close()
