"""A memcached node hangs, dies, is full, or answers unasked; its keys are sent again or parked."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from invalidator.runtime import metrics
from tests.integration.aftermath import trial
from tests.integration.conftest import MemcachedFactory, ProxyFactory
from tests.integration.shop import eventually, settings_for
from tests.integration.test_memcached import fill as crowd
from tests.servers import TcpProxy


def once(way: str, spoilt: Callable[[bytes], bytes], *, reset: bool = False) -> Callable[[TcpProxy], None]:
    """Spoil the next bytes that go one way, and perhaps end the connection right after them."""

    def spoil(gate: TcpProxy) -> None:
        def rewrite(data: bytes) -> bytes:
            getattr(gate, way).rewrite = None
            if reset:
                asyncio.get_running_loop().call_later(0.01, lambda: resets.append(asyncio.ensure_future(gate.reset())))
            return spoilt(data)

        getattr(gate, way).rewrite = rewrite

    resets: list[asyncio.Future[None]] = []
    return spoil


SPOILT = {
    "request written by half, then reset": once("requests", lambda data: data[: len(data) // 2], reset=True),
    "request lost": once("requests", lambda data: b""),
    "reply reset in its middle": once("replies", lambda data: data[:4], reset=True),
    "reply lost": once("replies", lambda data: b""),
    "reply cut short": once("replies", lambda data: data[:-2]),
    "garbage": once("replies", lambda data: b"\xff\xfe\x00 garbage\r\n"),
    "reply of another fence": once("replies", lambda data: b"NF O1\r\n"),
    "reply given twice": once("replies", lambda data: data + data),
    "reply unasked, before it": lambda gate: gate.inject(b"NF O1\r\n"),
    "server error, once": once("replies", lambda data: b"SERVER_ERROR out of memory\r\n"),
}


@pytest.mark.parametrize("what", SPOILT)
async def test_keys_of_a_spoilt_conversation_are_sent_again_on_another_connection_or_parked(
    what: str, vhost: str, memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    node = memcached()
    gate = await proxy(node.address)
    settings = settings_for(vhost, {"c1": gate.address}, memcached={"deadline": 0.3})
    async with trial(settings, [node]) as (shop, _):
        shop.fill(0)
        await shop.publish(0)
        await eventually(shop.is_gone)
        SPOILT[what](gate)
        for product in range(1, 6):
            shop.fill(product)
            await shop.publish(product)
    assert gate.accepted >= 2


async def test_keys_are_parked_for_a_node_while_it_answers_errors_only(
    vhost: str, memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    node = memcached()
    gate = await proxy(node.address)
    async with trial(settings_for(vhost, {"c1": gate.address}), [node]) as (shop, _):
        gate.replies.rewrite = lambda data: b"SERVER_ERROR out of memory\r\n"
        gate.requests.rewrite = lambda data: b"version\r\n"  # nothing gets through, everything is answered
        shop.fill(*range(10))
        await shop.publish(*range(10))
        await shop.is_parked("c1")
        assert not shop.is_gone(*range(10))
        gate.requests.rewrite = gate.replies.rewrite = None


async def test_keys_are_parked_for_a_node_that_has_too_many_connections_until_it_has_room(
    vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached("-c", "40", "-t", "1")
    async with trial(settings_for(vhost, [node], memcached={"deadline": 0.3}), [node]) as (shop, _):
        shop.fill(*range(10))
        with ExitStack() as others:
            crowd(node, others)
            await shop.publish(*range(10))
            await shop.is_parked("c1")


async def test_keys_are_parked_for_a_killed_node_and_drained_when_it_is_back_and_empty(
    vhost: str, memcached: MemcachedFactory
) -> None:
    healthy, killed = memcached(), memcached()
    async with trial(settings_for(vhost, [healthy, killed]), [healthy, killed]) as (shop, _):
        shop.fill(*range(10))
        killed.kill()
        await shop.publish(*range(10))
        await shop.is_parked("c2")
        await eventually(lambda: shop.holds_none(healthy))
        await asyncio.to_thread(killed.start)


async def test_only_batches_in_flight_when_a_node_hangs_wait_for_it(vhost: str, memcached: MemcachedFactory) -> None:
    healthy, hung = memcached(), memcached()
    settings = settings_for(
        vhost,
        {"healthy": healthy.address, "hung": hung.address},
        memcached={"deadline": 0.5},
        worker={"batch_events": 5},
    )
    waited, spared = (metrics.UNREACHABLE.labels("hung", waited)._value for waited in ("yes", "no"))
    before = waited.get(), spared.get()
    async with trial(settings, [healthy, hung]) as (shop, _):
        shop.fill(*range(500))
        hung.pause()
        await shop.publish(*range(500))
        await shop.becomes_ready(0)
        await shop.is_parked("hung")
        await eventually(lambda: shop.holds_none(healthy))
        assert waited.get() - before[0] <= settings.worker.batches_in_flight
        assert spared.get() - before[1] >= 90
        hung.resume()
