"""Nodes that are given up: at the deadline, without a connection, or when a connection is refused."""

import asyncio
import socket
from typing import Any

import pytest

from invalidator.memcached.connection import Connection
from invalidator.memcached.eviction import Evicted, Unreachable
from invalidator.memcached.failure import Failure
from invalidator.memcached.wire import chunks
from tests.scripted_node import (
    Batch,
    Changes,
    Gate,
    Peer,
    ScriptedNode,
    close,
    confirm,
    node_at,
    refused_address,
    say_nothing,
    slow_drips,
)
from tests.virtual_time import in_virtual_time


@in_virtual_time
async def test_hung_node_costs_all_that_wait_for_it_one_deadline_together() -> None:
    async with (
        ScriptedNode(then=say_nothing) as server,
        node_at(server.address, deadline=0.2, chunks_in_flight=1) as node,
    ):
        loop = asyncio.get_running_loop()
        start = loop.time()
        answers = await asyncio.gather(*(node.evict(chunks([b"%d" % index])) for index in range(6)))
        assert pytest.approx(0.2) == loop.time() - start
        expected = [
            Unreachable((b"%d" % index,), "no confirmation for 0.2 s", True, 0, Failure.DEADLINE) for index in range(6)
        ]
        assert answers == expected
        assert node.state.waited == 6


@in_virtual_time
async def test_drips_do_not_extend_the_deadline() -> None:
    async with ScriptedNode(then=slow_drips) as server, node_at(server.address, deadline=0.1) as node:
        answer = await node.evict(chunks([b"a"]))
        assert answer == Unreachable((b"a",), "no confirmation for 0.1 s", True, 0, Failure.DEADLINE)


@in_virtual_time
async def test_repeating_does_not_extend_the_deadline() -> None:
    async def reset_late(peer: Peer, batch: Batch) -> None:
        await asyncio.sleep(0.3)
        peer.reset()

    async with ScriptedNode([reset_late, say_nothing]) as server, node_at(server.address, deadline=0.4) as node:
        loop = asyncio.get_running_loop()
        start = loop.time()
        answer = await node.evict(chunks([b"a"]))
        assert pytest.approx(0.4) == loop.time() - start
        assert answer == Unreachable((b"a",), "no confirmation for 0.4 s", True, 0, Failure.DEADLINE)
        assert len(server.batches) == 2


@in_virtual_time
async def test_confirmations_extend_the_deadline_for_what_waits_behind_them() -> None:
    async def slowly(peer: Peer, batch: Batch) -> None:
        await asyncio.sleep(0.15)
        await confirm(peer, batch)

    async with ScriptedNode(then=slowly) as server, node_at(server.address, deadline=0.6, chunks_in_flight=1) as node:
        assert await node.evict(chunks([b"%d" % index for index in range(6)], size=1)) == Evicted(6)


@in_virtual_time
async def test_deadline_includes_connecting() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        # Its queue is full with this one; the kernel drops further connections.
        with socket.create_connection(listener.getsockname()):
            async with node_at(listener.getsockname(), deadline=0.1) as node:
                assert await node.evict(chunks([b"a"])) == Unreachable(
                    (b"a",), "no confirmation for 0.1 s", True, 0, Failure.DEADLINE
                )


@in_virtual_time
async def test_late_answer_confirms_nothing() -> None:
    late = asyncio.Event()

    async def answer_late(peer: Peer, batch: Batch) -> None:
        await late.wait()
        await confirm(peer, batch)

    gate, changes = Gate(), Changes()
    async with (
        ScriptedNode([answer_late, confirm, say_nothing]) as server,
        node_at(server.address, deadline=0.1, sleep=gate.sleep, on_change=changes) as node,
    ):
        eviction = node.submit(chunks([b"a"]))
        await server.asked.wait()
        first = node._connection
        assert isinstance(await eviction, Unreachable)
        assert first
        assert first.ended
        gate.open.set()
        await changes.back.wait()
        eviction = node.submit(chunks([b"b"]))
        late.set()
        assert isinstance(await eviction, Unreachable)


async def test_refused_connection_is_unreachable_at_once() -> None:
    async with node_at(refused_address()) as node:
        answer = await node.evict(chunks([b"a"]))
        assert isinstance(answer, Unreachable)
        assert answer.reason.startswith("cannot connect: ")
        assert answer.waited


async def test_too_many_connections_is_unreachable_after_the_second_try() -> None:
    full = b"ERROR Too many open connections\r\n"
    async with ScriptedNode(greeting=full, then=close) as server, node_at(server.address) as node:
        answer = await node.evict(chunks([b"a"]))
        assert isinstance(answer, Unreachable)
        assert "Too many open connections" in answer.reason
        assert len(server.peers) == 2


async def test_connection_that_ended_before_it_was_ours_counts_as_a_try() -> None:
    async with ScriptedNode() as server, node_at(server.address) as node:
        eviction = node.submit(chunks([b"a"]))
        # asyncio's own loop hands a connection over before it reads from it; others may not.
        ended = Connection(node)
        ended.abort("closed at once")
        node._adopt(ended)
        assert await eviction == Evicted(1)
        assert len(server.batches) == 1


async def test_one_timer_serves_all_evictions_of_a_busy_node(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ScriptedNode() as server, node_at(server.address) as node:
        loop = asyncio.get_running_loop()
        timers: list[Any] = []

        def call_at(when: float, callback: Any, *arguments: Any, **options: Any) -> asyncio.TimerHandle:
            timers.append(callback)
            return real(when, callback, *arguments, **options)

        real = loop.call_at
        monkeypatch.setattr(loop, "call_at", call_at)
        for _ in range(10):
            assert Evicted(1) == await node.evict(chunks([b"a"]))
        assert [node._check_deadline] == [timer for timer in timers if timer == node._check_deadline]


async def test_new_evictions_do_not_extend_the_deadline() -> None:
    async with ScriptedNode(then=say_nothing) as server, node_at(server.address, deadline=0.2) as node:
        first = node.submit(chunks([b"first"]))
        for number in range(100):
            if first.done():
                break
            node.submit(chunks([b"%d" % number]))
            await asyncio.sleep(0.02)
        assert first.done()
        assert first.result() == Unreachable((b"first",), "no confirmation for 0.2 s", True, 0, Failure.DEADLINE)
