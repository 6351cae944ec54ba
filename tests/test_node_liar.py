"""Nodes that answer anything: a chunk counts as confirmed only if the node truly confirmed it."""

import asyncio
from collections.abc import Callable
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from invalidator.memcached.eviction import Evicted, Unreachable
from invalidator.memcached.wire import chunks
from tests.scripted_node import (
    WRONG,
    Answer,
    Batch,
    Peer,
    ScriptedNode,
    confirm,
    drips,
    node_at,
    say_nothing,
    stored,
    twice,
)

#: An example may take seconds where the code is wrong; hundreds of smaller ones would outlast the test's timeout.
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)


class Liar:
    """A node with a memory: it sends the last batch's answer together with this one's."""

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
            unconfirmed = answer.keys if isinstance(answer, Unreachable) else ()
            assert set(part) - set(unconfirmed) <= truly
            assert answer == Evicted(len(part)) or (
                isinstance(answer, Unreachable) and answer.evicted + len(answer.keys) == len(part)
            )
