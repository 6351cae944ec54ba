"""Names of nodes: each stands for one machine, and the connection follows it to another one."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from invalidator.errors import UnreachableError
from invalidator.memcached import lookup as module
from invalidator.memcached.eviction import Evicted, Unreachable
from invalidator.memcached.failure import Failure
from invalidator.memcached.host import SeveralMachinesError, is_name, one_machine
from invalidator.memcached.lookup import lookup
from invalidator.memcached.wire import chunks
from invalidator.settings import Address
from tests.logs import capture_logs
from tests.scripted_node import ScriptedNode, node_at
from tests.servers import free_port

FOUR, SIX = socket.AF_INET, socket.AF_INET6
#: The machines of these tests.
OLD, NEW = "127.0.0.2", "127.0.0.3"


class Names:
    """A name service whose one name, ``cache``, has the addresses that the test sets."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self.lookups = 0
        self._real = socket.getaddrinfo

    def __call__(self, host: str, port: Any, *rest: Any, **options: Any) -> Any:
        if host != "cache":
            return self._real(host, port, *rest, **options)
        self.lookups += 1
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [entry for address in self.addresses for entry in self._real(address, port, *rest, **options)]

    async def looked_up_again(self) -> None:
        before = self.lookups
        async with asyncio.timeout(10):
            while self.lookups < before + 2:
                await asyncio.sleep(0)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names(OLD)
    monkeypatch.setattr(socket, "getaddrinfo", names)
    monkeypatch.setattr(module, "LOOKUP_SECONDS", 0.01)
    return names


@asynccontextmanager
async def machines() -> AsyncIterator[tuple[ScriptedNode, ScriptedNode, tuple[str, int]]]:
    """Start a node on each of two machines, on one port, and yield them with the address by name."""
    port = free_port()
    async with AsyncExitStack() as stack:
        old, new = [await stack.enter_async_context(ScriptedNode(host=host, port=port)) for host in (OLD, NEW)]
        yield old, new, ("cache", port)


async def test_a_name_with_several_addresses_is_refused_and_they_are_named(names: Names) -> None:
    names.addresses = [OLD, NEW]
    async with machines() as (old, new, address), node_at(address) as node:
        answer = await node.evict(chunks([b"a"]))
        assert isinstance(answer, Unreachable)
        assert (answer.keys, answer.failure) == ((b"a",), Failure.SEVERAL_MACHINES)
        assert f'"cache" has several addresses ({OLD}, {NEW}): name each node by its own' in answer.reason
        assert [old.batches, new.batches] == [[], []], "nothing was sent to either"


async def test_a_second_address_does_not_confirm_for_a_first_one_that_refuses(names: Names) -> None:
    names.addresses = ["127.0.0.4", NEW]  # nothing listens on the first one
    async with machines() as (_, new, address), node_at(address) as node:
        assert isinstance(await node.evict(chunks([b"a"])), Unreachable)
        assert [] == new.batches


async def test_the_connection_follows_a_name_that_moves_while_the_old_machine_still_answers(names: Names) -> None:
    async with machines() as (old, new, address), node_at(address) as node:
        assert Evicted(1) == await node.evict(chunks([b"a"]))
        with capture_logs() as logs:
            names.addresses = [NEW]
            async with asyncio.timeout(10):
                while not logs:
                    await asyncio.sleep(0)
        assert Evicted(1) == await node.evict(chunks([b"b"]))
        assert [[[b"a"]], [[b"b"]]] == [[batch.keys for batch in server.batches] for server in (old, new)]
        assert [f'"cache" is {NEW} now, no longer {OLD}'] == [line["reason"] for line in logs]


async def test_a_name_is_looked_up_for_the_connection_in_use_only_and_an_ip_address_never(names: Names) -> None:
    async with machines() as (old, _, address), node_at(address) as node:
        for number in range(2):
            assert Evicted(1) == await node.evict(chunks([b"a"]))
            before = node._following
            assert before
            old.peers[number].reset()
            assert Evicted(1) == await node.evict(chunks([b"b"]))
            await asyncio.sleep(0)
            assert before.cancelled()
    async with ScriptedNode() as server, node_at(server.address) as node:
        assert Evicted(1) == await node.evict(chunks([b"a"]))
        assert node._following is None


async def test_a_name_that_moves_after_its_connection_has_ended_is_nothing_to_report(names: Names) -> None:
    async with machines() as (old, _, address), node_at(address) as node:
        assert Evicted(1) == await node.evict(chunks([b"a"]))
        connection = node._connection
        assert connection
        old.peers[0].reset()
        while not connection.ended:
            await asyncio.sleep(0)
        with capture_logs() as logs:
            names.addresses = [NEW]
            assert node._following
            await node._following
        assert [] == logs


async def test_a_name_that_gets_a_second_address_is_refused_from_then_on(names: Names) -> None:
    async with machines() as (_, _, address), node_at(address) as node:
        assert Evicted(1) == await node.evict(chunks([b"a"]))
        connection = node._connection
        assert connection
        names.addresses = [OLD, NEW]
        async with asyncio.timeout(10):
            while not connection.ended:
                await asyncio.sleep(0)
        assert isinstance(await node.evict(chunks([b"b"])), Unreachable)


async def test_an_outage_of_the_name_service_stops_nothing_on_a_connection_that_works(names: Names) -> None:
    async with machines() as (old, _, address), node_at(address) as node:
        assert Evicted(1) == await node.evict(chunks([b"a"]))
        names.addresses = []
        await names.looked_up_again()
        assert Evicted(1) == await node.evict(chunks([b"b"]))
        assert 1 == len(old.peers)


async def test_a_name_that_does_not_exist_is_unreachable(names: Names) -> None:
    names.addresses = []
    with pytest.raises(UnreachableError, match=r'cannot resolve "cache": .*not known'):
        await lookup(Address("cache", 11211))


def entry(family: int, address: str) -> tuple[Any, ...]:
    return (family, socket.SOCK_STREAM, 6, "", (address, 11211))


def test_ipv4_and_ipv6_of_one_host_are_one_machine() -> None:
    found = [entry(SIX, "::1"), entry(FOUR, "127.0.0.1"), entry(FOUR, "127.0.0.1")]
    assert ["::1", "127.0.0.1"] == one_machine("localhost", found)


@pytest.mark.parametrize("family", [FOUR, SIX])
def test_two_addresses_of_one_family_are_two_machines(family: int) -> None:
    with pytest.raises(SeveralMachinesError, match=r'"cache" has several addresses \(a, b, c\)'):
        one_machine("cache", [entry(family, "a"), entry(family, "b"), entry(FOUR if family == SIX else SIX, "c")])


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (Address("cache.internal", 1), True),
        (Address("localhost", 1), True),
        (Address("127.0.0.1", 1), False),
        (Address("::1", 1), False),
        (Address("/run/memcached.sock", 0), False),
    ],
)
def test_only_names_are_looked_up_again(address: Address, expected: bool) -> None:
    assert is_name(address) == expected
