"""A node's name stands for one address, or for the IPv6 and IPv4 address of one host."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from invalidator.app import AsyncLookAsideCache, LookAsideCache
from invalidator.app.cache.nodes import blocking_nodes as blocking
from invalidator.app.cache.nodes.dialing import Target, first_error, new_socket, targets
from invalidator.memcached.access import Access
from invalidator.memcached.host import LOOKUP_SECONDS, SeveralMachinesError
from invalidator.settings import Address
from tests.logs import capture_logs
from tests.lying_memcached import LyingMemcached

FOUR, SIX = socket.AF_INET, socket.AF_INET6


def info(family: Any, address: str, port: int = 11211) -> Any:
    return family, socket.SOCK_STREAM, 6, "", (address, port)


def test_addresses_of_both_families_are_tried_in_turn() -> None:
    found = [info(SIX, "::1"), info(FOUR, "127.0.0.1"), info(FOUR, "127.0.0.1")]
    assert [Target(SIX, ("::1", 11211)), Target(FOUR, ("127.0.0.1", 11211))] == targets("localhost", found)


def test_several_addresses_of_a_family_are_refused_by_name() -> None:
    found = [info(FOUR, "10.0.0.2"), info(FOUR, "10.0.0.1"), info(SIX, "::1")]
    with pytest.raises(SeveralMachinesError, match=r'"cache" has several addresses \(10.0.0.2, 10.0.0.1, ::1\)'):
        targets("cache", found)


def test_the_first_address_says_why_a_machine_cannot_be_reached() -> None:
    refused, hung = ConnectionRefusedError(), TimeoutError()
    assert refused is first_error([refused, hung])
    assert "the name has no address" == str(first_error([]))


def test_requests_are_sent_without_delay_and_a_unix_socket_knows_none() -> None:
    with new_socket(Target(FOUR, ("127.0.0.1", 11211))) as tcp, new_socket(Target(socket.AF_UNIX, "/x")) as unix:
        assert tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert socket.AF_UNIX == unix.family


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    def both(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        return [info(FOUR, "127.0.0.1", port), info(FOUR, "127.0.0.2", port)]

    monkeypatch.setattr(socket, "getaddrinfo", both)


@pytest.mark.usefixtures("two_nodes")
def test_reader_of_a_name_with_several_addresses_serves_from_the_source_and_fills_neither() -> None:
    async def read(cache: AsyncLookAsideCache) -> int:
        async def load() -> int:
            return 1

        return await cache.get_or_load("k", load, ttl=60)

    with LyingMemcached() as node:
        port = node.address.partition(":")[2]
        with capture_logs() as logs:
            assert 1 == LookAsideCache([f"memcached.internal:{port}"]).get_or_load("k", lambda: 1, ttl=60)
            assert 1 == asyncio.run(read(AsyncLookAsideCache([f"memcached.internal:{port}"])))
        assert [] == node.accepted
    assert 2 == len([log for log in logs if "has several addresses (127.0.0.1, 127.0.0.2)" in log["error"]])


@pytest.fixture(params=["threads", "asyncio"])
def read(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Callable[[], Any]]]:
    """Yield a function that makes a reader of one node's address."""
    with asyncio.Runner() as runner:
        made: list[AsyncLookAsideCache | LookAsideCache] = []

        def reader(address: str) -> Callable[[], Any]:
            if request.param == "threads":
                made.append(blocking_cache := LookAsideCache([address]))
                return lambda: blocking_cache.get_or_load("k", never, ttl=60)
            made.append(cache := AsyncLookAsideCache([address]))
            return lambda: runner.run(cache.get_or_load("k", async_never, ttl=60))

        yield reader
        runner.run(closed(made))


async def closed(caches: list[AsyncLookAsideCache | LookAsideCache]) -> None:
    for cache in caches:
        cache.close()


def never() -> Any:
    raise AssertionError("loaded, and should not have been")


async def async_never() -> Any:
    never()


def test_name_that_moves_is_followed_though_the_old_machine_still_answers(
    read: Callable[[str], Callable[[], Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, seconds = time.monotonic, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock() + seconds[0])
    with LyingMemcached() as old, LyingMemcached() as new:
        here = [old]

        def lookup(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
            address, port = here[0].address.split(":")
            return [info(FOUR, address, int(port))]

        monkeypatch.setattr(socket, "getaddrinfo", lookup)
        old.put("k", b'"old"')
        new.put("k", b'"new"')
        value = read("memcached.internal")
        assert "old" == value()
        here[0] = new
        seconds[0] = LOOKUP_SECONDS
        assert "new" == value()


@pytest.mark.usefixtures("two_nodes")
def test_ip_address_is_never_looked_up_again() -> None:
    node = blocking.BlockingNode("n1", Address("127.0.0.1", 11211), prefix="", timeout=1, access=Access())
    assert float("inf") == node._longest_life
