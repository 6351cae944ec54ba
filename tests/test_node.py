"""One node against a scripted server on loopback: what confirms, what is repeated, what is given up, what returns."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from invalidator.memcached.breaker import Backoff
from invalidator.memcached.connection import Connection
from invalidator.memcached.eviction import Evicted, Unreachable
from invalidator.memcached.node import Node
from invalidator.memcached.wire import chunks

from .scripted_node import Answer, Batch, Peer, ScriptedNode, confirm, say, say_nothing

Change = tuple[str, str, str]

#: An example may take seconds where the code is wrong; hundreds of smaller ones would outlast the test's timeout.
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)


class Gate:
    """In place of the sleep between probes: nobody gets past it before `open` is set."""

    def __init__(self) -> None:
        self.delays: list[float] = []
        self.open = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.delays.append(seconds)
        await self.open.wait()
        # A probe that fails comes straight back here; others get their turn first.
        await asyncio.sleep(0)


class Changes:
    """What the node reported, and a way to wait for its return."""

    def __init__(self) -> None:
        self.seen: list[Change] = []
        self.back = asyncio.Event()

    def __call__(self, label: str, state: str, reason: str) -> None:
        self.seen.append((label, state, reason))
        if state == "closed":
            self.back.set()


@asynccontextmanager
async def node_at(address: tuple[str, int], **options: Any) -> AsyncIterator[Node]:
    defaults: dict[str, Any] = {"deadline": 10.0, "sleep": Gate().sleep}
    node = Node("n1", address, **defaults | options)
    try:
        yield node
    finally:
        await node.close()


def refused_address() -> tuple[str, int]:
    """Where nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host, port = unused.getsockname()
        return host, port


async def reset(peer: Peer, batch: Batch) -> None:
    peer.reset()


async def close(peer: Peer, batch: Batch) -> None:
    peer.close()


async def half_then_close(peer: Peer, batch: Batch) -> None:
    await peer.send(batch.missed[:9])
    peer.close()


async def another_number(peer: Peer, batch: Batch) -> None:
    await peer.send(b"NF O%d\r\n" % (int(batch.number) + 1))


async def stray_line_first(peer: Peer, batch: Batch) -> None:
    await peer.send(b"DELETED\r\n" + batch.missed)


async def twice(peer: Peer, batch: Batch) -> None:
    await peer.send(batch.missed * 2)


async def stored(peer: Peer, batch: Batch) -> None:
    """Somebody has stored the reserved key."""
    await peer.send(batch.hit)


async def drips(peer: Peer, batch: Batch) -> None:
    for byte in batch.missed:
        await peer.send(bytes([byte]))
        await asyncio.sleep(0)


async def slow_drips(peer: Peer, batch: Batch) -> None:
    for byte in batch.missed:
        await peer.send(bytes([byte]))
        await asyncio.sleep(0.02)


WRONG: list[Answer] = [
    reset,
    close,
    half_then_close,
    another_number,
    stray_line_first,
    say(b"SERVER_ERROR out of memory\r\n"),
    say(b"ERROR\r\n"),
    say(b"\x80\x81 garbage"),
    say(b"\r\n"),
]


# What goes over the wire, and what confirms


async def test_node_reads_the_deletes_and_their_fence_and_nothing_else() -> None:
    async with ScriptedNode() as server, node_at(server.address) as node:
        assert await node.evict(chunks([b"product:1", b"product:2"], prefix=b"shop:")) == Evicted(2)
        [peer] = server.peers
        assert peer.received == (
            b"delete shop:product:1 noreply\r\n"
            b"delete shop:product:2 noreply\r\n"
            b"md invalidator\xc2\xb7fence O" + peer.batches[0].number + b"\r\n"
        )


@pytest.mark.parametrize("answer", [confirm, stored, drips])
async def test_confirmed_deletes_are_evicted(answer: Answer) -> None:
    async with ScriptedNode([answer]) as server, node_at(server.address) as node:
        assert await node.evict(chunks([b"a", b"b"])) == Evicted(2)
        assert len(server.batches) == 1


async def test_one_connection_serves_many_evictions() -> None:
    async with ScriptedNode() as server, node_at(server.address) as node:
        answers = await asyncio.gather(*(node.evict(chunks([b"%d" % index])) for index in range(50)))
        assert answers == [Evicted(1)] * 50
        assert len(server.peers) == 1


async def test_no_keys_cost_nothing() -> None:
    async with ScriptedNode() as server, node_at(server.address) as node:
        assert await node.evict([]) == Evicted(0)
        assert server.peers == []


async def test_no_more_chunks_are_outstanding_than_allowed() -> None:
    hold = asyncio.Event()

    async def confirm_when_let(peer: Peer, batch: Batch) -> None:
        await hold.wait()
        await confirm(peer, batch)

    async with ScriptedNode(then=confirm_when_let) as server, node_at(server.address, chunks_in_flight=2) as node:
        eviction = node.submit(chunks([b"a", b"b", b"c", b"d", b"e"], size=1))
        await server.asked.wait()
        connection = node._connection
        assert connection
        assert len(connection.outstanding) == 2
        hold.set()
        assert await eviction == Evicted(5)
        assert [batch.keys for batch in server.batches] == [[b"a"], [b"b"], [b"c"], [b"d"], [b"e"]]


# What is repeated


@pytest.mark.parametrize("wrong", WRONG)
async def test_chunk_that_was_not_confirmed_is_sent_whole_on_a_fresh_connection(wrong: Answer) -> None:
    async with ScriptedNode([wrong]) as server, node_at(server.address) as node:
        assert await node.evict(chunks([b"a", b"b"])) == Evicted(2)
        first, second = server.batches
        assert first.keys == second.keys == [b"a", b"b"]
        assert first.number != second.number
        assert len(server.peers) == 2


@pytest.mark.parametrize("wrong", WRONG)
async def test_chunk_that_is_not_confirmed_twice_is_unreachable(wrong: Answer) -> None:
    async with ScriptedNode([wrong, wrong]) as server, node_at(server.address) as node:
        answer = await node.evict(chunks([b"a", b"b"]))
        assert isinstance(answer, Unreachable)
        assert (answer.keys, answer.waited, answer.evicted) == ((b"a", b"b"), True, 0)
        assert node.state.is_open
        assert len(server.batches) == 2


async def test_only_chunks_not_yet_confirmed_are_repeated() -> None:
    async with ScriptedNode([confirm, say(b"ERROR\r\n")]) as server, node_at(server.address) as node:
        assert await node.evict(chunks([b"a", b"b", b"c", b"d"], size=1)) == Evicted(4)
        assert [batch.keys for batch in server.peers[1].batches] == [[b"b"], [b"c"], [b"d"]]


async def test_answer_given_twice_never_confirms_the_next_chunk() -> None:
    async with ScriptedNode([twice]) as server, node_at(server.address) as node:
        assert await node.evict(chunks([b"a", b"b"], size=1)) == Evicted(2)
        assert [batch.keys for batch in server.confirmed()] == [[b"a"], [b"b"]]
        assert len(server.peers) == 2


async def test_keys_owed_are_those_of_the_chunks_not_confirmed() -> None:
    script = [confirm, say(b"ERROR\r\n"), say(b"ERROR\r\n")]
    async with ScriptedNode(script) as server, node_at(server.address, chunks_in_flight=1) as node:
        answer = await node.evict(chunks([b"a", b"b", b"c", b"d", b"e"], size=2))
        assert isinstance(answer, Unreachable)
        assert (answer.keys, answer.evicted) == ((b"c", b"d", b"e"), 2)


async def test_connection_closed_while_idle_is_opened_again_on_demand() -> None:
    async with ScriptedNode() as server, node_at(server.address) as node:
        await node.evict(chunks([b"a"]))
        server.peers[0].close()
        await server.peers[0].writer.wait_closed()
        assert await node.evict(chunks([b"b"])) == Evicted(1)
        assert not node.state.is_open


# What is given up


async def test_hung_node_costs_all_that_wait_for_it_one_deadline_together() -> None:
    async with (
        ScriptedNode(then=say_nothing) as server,
        node_at(server.address, deadline=0.2, chunks_in_flight=1) as node,
    ):
        loop = asyncio.get_running_loop()
        start = loop.time()
        answers = await asyncio.gather(*(node.evict(chunks([b"%d" % index])) for index in range(6)))
        assert 0.2 <= loop.time() - start < 0.6
        expected = [Unreachable((b"%d" % index,), "no confirmation for 0.2 s", True) for index in range(6)]
        assert answers == expected
        assert node.state.waited == 6


async def test_drips_do_not_extend_the_deadline() -> None:
    async with ScriptedNode(then=slow_drips) as server, node_at(server.address, deadline=0.1) as node:
        answer = await node.evict(chunks([b"a"]))
        assert answer == Unreachable((b"a",), "no confirmation for 0.1 s", True)


async def test_repeating_does_not_extend_the_deadline() -> None:
    async def reset_late(peer: Peer, batch: Batch) -> None:
        await asyncio.sleep(0.3)
        peer.reset()

    async with ScriptedNode([reset_late, say_nothing]) as server, node_at(server.address, deadline=0.4) as node:
        loop = asyncio.get_running_loop()
        start = loop.time()
        answer = await node.evict(chunks([b"a"]))
        assert loop.time() - start < 0.65
        assert answer == Unreachable((b"a",), "no confirmation for 0.4 s", True)
        assert len(server.batches) == 2


async def test_confirmations_extend_the_deadline_for_what_waits_behind_them() -> None:
    async def slowly(peer: Peer, batch: Batch) -> None:
        await asyncio.sleep(0.15)
        await confirm(peer, batch)

    async with ScriptedNode(then=slowly) as server, node_at(server.address, deadline=0.6, chunks_in_flight=1) as node:
        assert await node.evict(chunks([b"%d" % index for index in range(6)], size=1)) == Evicted(6)


async def test_deadline_includes_connecting() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        # Its queue is full with this one; the kernel drops whoever comes next.
        with socket.create_connection(listener.getsockname()):
            async with node_at(listener.getsockname(), deadline=0.1) as node:
                assert await node.evict(chunks([b"a"])) == Unreachable((b"a",), "no confirmation for 0.1 s", True)


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


# The breaker


async def test_open_breaker_answers_at_once_and_sends_nothing() -> None:
    async with ScriptedNode([reset, reset]) as server, node_at(server.address) as node:
        await node.evict(chunks([b"a"]))
        answer = node.submit(chunks([b"b"]))
        assert answer.done()
        assert answer.result() == Unreachable((b"b",), node.state.reason, False)
        assert len(server.peers) == 2
        assert node.state.waited == 1


async def test_probe_carries_no_keys_and_its_connection_stays() -> None:
    gate, changes = Gate(), Changes()
    async with (
        ScriptedNode([reset, reset]) as server,
        node_at(server.address, sleep=gate.sleep, on_change=changes) as node,
    ):
        await node.evict(chunks([b"a"]))
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
        assert changes.seen == [("n1", "open", "connection closed by the node"), ("n1", "closed", "")]
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


async def test_hung_probe_fails_by_the_deadline_and_is_tried_again() -> None:
    gate, changes = Gate(), Changes()
    async with (
        ScriptedNode([say_nothing] * 3) as server,
        node_at(server.address, deadline=0.05, sleep=gate.sleep, on_change=changes) as node,
    ):
        await node.evict(chunks([b"a"]))
        gate.open.set()
        await changes.back.wait()
        assert len(gate.delays) == 3


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
        assert [state for _, state, _ in changes.seen] == ["open", "closed", "open", "closed"]


# The end


async def test_closing_leaves_what_is_not_confirmed_unreachable() -> None:
    async with ScriptedNode(then=say_nothing) as server, node_at(server.address) as node:
        eviction = node.submit(chunks([b"a"]))
        await server.asked.wait()
        await node.close()
        assert await eviction == Unreachable((b"a",), "this worker is stopping", True)
        assert await node.evict(chunks([b"b"])) == Unreachable((b"b",), "this worker is stopping", False)


async def test_cancelled_eviction_disturbs_nobody() -> None:
    async with ScriptedNode([drips]) as server, node_at(server.address) as node:
        cancelled = asyncio.ensure_future(node.evict(chunks([b"a"])))
        await asyncio.sleep(0)
        cancelled.cancel()
        assert await node.evict(chunks([b"b"])) == Evicted(1)


# Whatever a node says


class Liar:
    """Answers that need a memory: the last batch's answer comes with this one's."""

    def __init__(self) -> None:
        self.kept = b""

    async def keep(self, peer: Peer, batch: Batch) -> None:
        self.kept += batch.missed

    async def answer_late(self, peer: Peer, batch: Batch) -> None:
        kept, self.kept = self.kept, b""
        await peer.send(kept + batch.missed)


def behaviours(liar: Liar) -> dict[str, Answer]:
    named: list[Answer] = [confirm, stored, drips, twice, say_nothing, liar.keep, liar.answer_late, *WRONG]
    return {str(index): answer for index, answer in enumerate(named)}


@given(
    script=st.lists(st.sampled_from(sorted(behaviours(Liar()))), max_size=10),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    window=st.integers(1, 4),
    greeting=st.sampled_from([b"", b"", b"", b"NF O1\r\n"]),
)
@settings(max_examples=80, deadline=None, phases=NO_SHRINKING)
def test_chunk_is_confirmed_only_if_the_server_sent_exactly_its_answer_after_having_read_all_its_deletes(
    script: list[str], sizes: list[int], window: int, greeting: bytes
) -> None:
    asyncio.run(check_against_a_liar(script, sizes, window=window, greeting=greeting))


async def check_against_a_liar(script: list[str], sizes: list[int], *, window: int, greeting: bytes) -> None:
    async def soon(seconds: float) -> None:
        await asyncio.sleep(0)

    known: dict[str, Callable[[Peer, Batch], Any]] = behaviours(Liar())
    parts = [[b"%d:%d" % (batch, key) for key in range(size)] for batch, size in enumerate(sizes)]
    async with (
        ScriptedNode([known[name] for name in script], greeting=greeting) as server,
        node_at(server.address, deadline=0.03, chunks_in_flight=window, sleep=soon) as node,
    ):
        answers = await asyncio.gather(*(node.evict(chunks(part, size=2)) for part in parts))
        truly = {key for batch in server.confirmed() for key in batch.keys}
        for part, answer in zip(parts, answers, strict=True):
            owed = answer.keys if isinstance(answer, Unreachable) else ()
            assert set(part) - set(owed) <= truly
            assert answer == Evicted(len(part)) or (
                isinstance(answer, Unreachable) and answer.evicted + len(answer.keys) == len(part)
            )
