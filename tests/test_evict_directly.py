"""`evict --direct`: deletes on blocking sockets, confirmed only by exactly the answer of their own fence."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from invalidator.app.cache.nodes.protocol import MalformedError
from invalidator.errors import PoisonError
from invalidator.memcached.wire import chunks
from invalidator.operate.evict import Confirmation, NodeOutcome, evict_directly
from invalidator.settings import MemcachedSettings, RingSettings, Settings

from .scripted_node import (
    WRONG,
    Answer,
    ScriptedNode,
    confirm,
    drips,
    refused_address,
    reset,
    say,
    say_nothing,
    slow_drips,
    stored,
)

KEYS = [b"product:%d" % index for index in range(7)]


Nodes = tuple[Settings, list[ScriptedNode]]


@asynccontextmanager
async def nodes(*scripts: Answer | list[Answer], **memcached: Any) -> AsyncIterator[Nodes]:
    """Start a node for each script: one answer to everything, or the first answers."""
    async with AsyncExitStack() as stack:
        servers = []
        for script in scripts:
            node = ScriptedNode(script) if isinstance(script, list) else ScriptedNode(then=script)
            servers.append(await stack.enter_async_context(node))
        addresses = {f"c{n}": "{}:{}".format(*server.address) for n, server in enumerate(servers, 1)}
        defaults: dict[str, Any] = {"deadline": 10.0, "evict_on": "every-node"}
        yield Settings(ring=RingSettings(nodes=addresses), memcached=MemcachedSettings(**defaults | memcached)), servers


async def evicted(settings: Settings, keys: list[bytes]) -> list[NodeOutcome]:
    return await asyncio.to_thread(evict_directly, settings, keys)


@pytest.mark.parametrize("answer", [confirm, stored, drips])
async def test_every_node_deletes_every_key_and_confirms(answer: Answer) -> None:
    async with nodes(answer, answer, chunk_keys=3) as (settings, servers):
        outcomes = await evicted(settings, KEYS)
    assert [("c1", 7, 0, None), ("c2", 7, 0, None)] == [(o.node, o.evicted, o.unconfirmed, o.reason) for o in outcomes]
    assert [[KEYS[:3], KEYS[3:6], KEYS[6:]]] * 2 == [[batch.keys for batch in server.batches] for server in servers]


async def test_with_a_ring_only_owners_are_asked() -> None:
    async with nodes(confirm, confirm, confirm, evict_on="owner", prefix="shop:") as (settings, servers):
        outcomes = await evicted(settings, KEYS[:1])
    (asked,) = [server for server in servers if server.peers]
    assert [[b"shop:product:0"]] == [batch.keys for batch in asked.batches]
    assert [(1, 0)] == [(outcome.evicted, outcome.unconfirmed) for outcome in outcomes]


def test_an_answer_that_something_follows_confirms_nothing() -> None:
    (chunk,) = chunks(KEYS)
    with pytest.raises(MalformedError, match="the node answered"):
        Confirmation(chunk, 10.0).feed(chunk.answers[0] * 2)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda answer: answer.__name__)
async def test_any_other_answer_confirms_nothing_and_the_rest_is_not_sent(wrong: Answer) -> None:
    async with nodes([confirm, wrong], chunk_keys=3) as (settings, (server,)):
        (outcome,) = await evicted(settings, KEYS)
    assert (3, 4) == (outcome.evicted, outcome.unconfirmed)
    assert outcome.reason
    assert 2 == len(server.batches)


async def test_a_hung_node_and_one_that_drips_take_one_deadline_and_cost_the_others_nothing() -> None:
    async with nodes(confirm, say_nothing, slow_drips, deadline=0.2) as (settings, _):
        outcomes = await evicted(settings, KEYS)
    late = "no confirmation for 0.2 s"
    assert [(7, None), (0, late), (0, late)] == [(outcome.evicted, outcome.reason) for outcome in outcomes]


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        (say(b"ERROR\r\n"), "it knows no meta commands"),
        (say(b"HTTP/1.1 400 Bad Request\r\n"), "it speaks HTTP"),
        (say(b"CLIENT_ERROR unauthenticated\r\n"), "it requires a login"),
    ],
    ids=["old", "http", "login"],
)
async def test_the_reason_says_what_the_node_is(answer: Answer, meaning: str) -> None:
    async with nodes(answer) as (settings, _):
        (outcome,) = await evicted(settings, KEYS)
    assert meaning.removeprefix("it ") in (outcome.reason or "")


async def test_a_node_that_refuses_connections_is_named_and_the_others_evict() -> None:
    async with nodes(confirm) as (settings, servers):
        gone = "{}:{}".format(*refused_address())
        ring = RingSettings(nodes={"c1": "{}:{}".format(*servers[0].address), "c2": gone})
        there, absent = await evicted(replace(settings, ring=ring), KEYS)
    assert (7, 0) == (there.evicted, there.unconfirmed)
    assert (gone, 0, 7) == (absent.address, absent.evicted, absent.unconfirmed)
    assert (absent.reason or "").startswith("cannot connect: ")


async def test_a_name_with_several_addresses_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(2, 1, 6, "", (address, 11211)) for address in ("10.0.0.1", "10.0.0.2")]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: found)
    settings = Settings(ring=RingSettings(nodes={"c1": "cache.internal:11211"}))
    (outcome,) = evict_directly(settings, KEYS)
    assert "several addresses" in (outcome.reason or "")


async def test_a_key_that_memcached_cannot_store_is_refused_before_anything_is_sent() -> None:
    async with nodes(confirm, prefix="x" * 100) as (settings, (server,)):
        with pytest.raises(PoisonError, match="over 250 bytes"):
            await evicted(settings, [b"k" * 151])
    assert [] == server.peers


async def test_a_connection_that_is_lost_half_way_leaves_the_rest_unconfirmed() -> None:
    async with nodes([confirm, confirm, reset], chunk_keys=1) as (settings, _):
        (outcome,) = await evicted(settings, KEYS)
    assert (2, 5) == (outcome.evicted, outcome.unconfirmed)
