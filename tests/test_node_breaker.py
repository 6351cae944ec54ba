"""An unreachable node: later evictions fail at once, and probes find out when it answers again."""

import asyncio
from typing import Any

import pytest

from invalidator.memcached.breaker import Backoff
from invalidator.memcached.dial import dial
from invalidator.memcached.eviction import Evicted, Unreachable
from invalidator.memcached.failure import Failure
from invalidator.memcached.wire import chunks
from tests.scripted_node import Changes, Gate, ScriptedNode, close, confirm, node_at, reset, say_nothing
from tests.virtual_time import in_virtual_time


async def test_open_breaker_answers_at_once_and_sends_nothing() -> None:
    async with ScriptedNode([reset, reset]) as server, node_at(server.address) as node:
        await node.evict(chunks([b"a"]))
        answer = node.submit(chunks([b"b"]))
        assert answer.done()
        assert answer.result() == Unreachable((b"b",), node.state.reason, False, failure=Failure.CLOSED)
        assert len(server.peers) == 2
        assert node.state.waited == 1


async def test_probe_carries_no_keys_and_its_connection_stays() -> None:
    gate, changes = Gate(), Changes()
    async with (
        ScriptedNode([reset, reset]) as server,
        node_at(server.address, sleep=gate.sleep, on_change=changes, chunks_in_flight=1) as node,
    ):
        await node.evict(chunks([b"a", b"waits"], size=1))
        gate.open.set()
        await changes.back.wait()
        assert await node.evict(chunks([b"b"])) == Evicted(1)
        assert [batch.keys for batch in server.peers[2].batches] == [[], [b"b"]]
        assert len(server.peers) == 3


async def test_state_is_reported_only_when_it_changes() -> None:
    gate, changes = Gate(), Changes()
    # Two probes of two tries each fail; the third is answered.
    async with (
        ScriptedNode([close] * 6) as server,
        node_at(server.address, sleep=gate.sleep, on_change=changes) as node,
    ):
        await node.evict(chunks([b"a"]))
        await node.evict(chunks([b"b"]))
        gate.open.set()
        await changes.back.wait()
        assert changes.seen == [("n1", True, "connection closed by the node"), ("n1", False, "")]
        assert not node.state.is_open


async def test_probes_back_off_until_one_is_answered() -> None:
    gate, changes = Gate(), Changes()
    backoff = Backoff(first=0.1, longest=0.5, uniform=lambda low, high: high)
    async with (
        ScriptedNode([close] * 10) as server,
        node_at(server.address, sleep=gate.sleep, on_change=changes, backoff=backoff) as node,
    ):
        await node.evict(chunks([b"a"]))
        gate.open.set()
        await changes.back.wait()
        assert gate.delays == [0.1, 0.2, 0.4, 0.5, 0.5]


@in_virtual_time
async def test_hung_probe_fails_by_the_deadline_and_is_tried_again() -> None:
    gate, changes = Gate(), Changes()
    async with (
        ScriptedNode([say_nothing] * 3) as server,
        node_at(server.address, deadline=0.05, sleep=gate.sleep, on_change=changes) as node,
    ):
        await node.evict(chunks([b"a"]))
        gate.open.set()
        await changes.back.wait()
        # More if the node's answer was not read within a deadline of virtual time.
        assert len(gate.delays) >= 3


async def test_node_that_fails_again_is_reported_again() -> None:
    gate, changes = Gate(), Changes()
    gate.open.set()
    async with (
        ScriptedNode([close, close, confirm, close, close]) as server,
        node_at(server.address, sleep=gate.sleep, on_change=changes) as node,
    ):
        await node.evict(chunks([b"a"]))
        await changes.back.wait()
        changes.back.clear()
        await node.evict(chunks([b"b"]))
        await changes.back.wait()
        assert [is_open for _, is_open, _ in changes.seen] == [True, False, True, False]


@in_virtual_time
async def test_node_that_accepted_no_connection_in_time_is_connected_to_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 0

    async def dial_late(*arguments: Any) -> asyncio.Transport:
        nonlocal tries
        tries += 1
        if tries == 1:
            await asyncio.Event().wait()
        return await dial(*arguments)

    monkeypatch.setattr("invalidator.memcached.node.dial", dial_late)
    gate, changes = Gate(), Changes()
    gate.open.set()
    async with (
        ScriptedNode() as server,
        node_at(server.address, deadline=0.1, sleep=gate.sleep, on_change=changes) as node,
    ):
        assert isinstance(await node.evict(chunks([b"a"])), Unreachable)
        await changes.back.wait()
        assert await node.evict(chunks([b"b"])) == Evicted(1)


async def test_node_whose_changes_nobody_asks_for_opens_and_closes_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = Gate()
    gate.open.set()
    async with ScriptedNode([reset, reset]) as server, node_at(server.address, sleep=gate.sleep) as node:
        await node.evict(chunks([b"a"]))
        while node.state.is_open:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert [] == caplog.messages
