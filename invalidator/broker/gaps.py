"""The gaps of a cluster, remembered in a queue of their own: they outlive every worker, until a flush clears them.

    a worker finds a gap ─> remember_gap ─> invalidator.<cluster>.gaps ─┬─> remembered_gaps: status, check
                                                                        ├─> open_gaps.py: healed from the log
                                                                        └─> clear_gaps: after a flush

Reading takes nothing out of the queue: it gets every message, and gives all of them back. Whatever one reader holds at
the moment, another does not find, so `remembered_gaps` reads twice.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
from aiormq.abc import AbstractChannel as RawChannel

from invalidator.broker.connection import Connection, in_our_words, raw_channel
from invalidator.broker.declare import inspect_queue
from invalidator.broker.gap import Gap
from invalidator.broker.publish.publisher import ConfirmedPublisher, Properties
from invalidator.broker.topology import Topology

#: It is not to be healed: nobody knows what it was.
UNREADABLE = Gap(None, datetime.fromtimestamp(0, UTC), "a message that this version cannot read")

#: Seconds for which a worker or a command that reads the gaps may hold them.
AGAIN_SECONDS = 0.1


async def remember_gap(publisher: ConfirmedPublisher, topology: Topology, gap: Gap) -> None:
    """Store a gap.

    Raises:
        InvalidatorError: it is not confirmed; remember it again.
    """
    await publisher.publish(
        msgspec.json.encode(gap),
        exchange="",
        routing_key=topology.gaps,
        properties=Properties(content_type="application/json", message_type="gap"),
    )


async def _moment() -> None:
    await asyncio.sleep(AGAIN_SECONDS)


async def remembered_gaps(
    connection: Connection, topology: Topology, *, moment: Callable[[], Awaitable[None]] = _moment
) -> list[Gap]:
    """Return the gaps that were not cleared, the first one first; those of several workers that overlap are one gap.

    Those that a worker is healing are not among them.

    Raises:
        RefusedError: this user may not read the queue.
        UnreachableError: the broker is gone.
    """
    found = await _free_gaps(connection, topology)
    await moment()
    return _merged(found | await _free_gaps(connection, topology))


async def _free_gaps(connection: Connection, topology: Topology) -> set[Gap]:
    """Return the gaps that nobody else holds. Raises as above."""
    async with stored_gaps(connection, topology) as (_, stored):
        return {gap for _, gap in stored}


async def clear_gaps(connection: Connection, topology: Topology, *, until: datetime) -> int:
    """Forget the gaps that had ended at ``until``, when the flush began; return their number. Raises as above."""
    cleared = 0
    async with stored_gaps(connection, topology) as (channel, stored):
        for tag, gap in stored:
            if gap.until <= until:
                await channel.basic_ack(tag)
                cleared += 1
    return cleared


async def is_first_start(inspect: Callable[[str], Awaitable[Any]], topology: Topology) -> bool:
    """Return True if this cluster's queues were never declared: its missing queue has lost nothing.

    ``inspect`` returns None for a queue that does not exist. The queue of the events is declared before all others. So
    if one of those exists and it does not, it was deleted, unless it is being declared at this very moment.
    """
    if not any([await inspect(name) is not None for name in (topology.gaps, topology.dead)]):
        return True
    return await inspect(topology.queue) is not None


@asynccontextmanager
async def stored_gaps(
    connection: Connection, topology: Topology
) -> AsyncIterator[tuple[RawChannel, list[tuple[int, Gap]]]]:
    """Yield every gap with its delivery tag; those that are not acknowledged go back. Raises as above."""
    async with messages_of(connection, topology.gaps) as (channel, stored):
        yield channel, [(tag, _read(body)) for tag, body in stored]


@asynccontextmanager
async def messages_of(connection: Connection, queue: str) -> AsyncIterator[tuple[RawChannel, list[tuple[int, bytes]]]]:
    """Get every message with its delivery tag; give back those that are not acknowledged by closing the channel."""
    is_there = await inspect_queue(connection, queue) is not None
    async with in_our_words(f'reading "{queue}"'):
        channel = await raw_channel(connection)
        stored: list[tuple[int, bytes]] = []
        while is_there and (got := await channel.basic_get(queue)).delivery_tag is not None:
            stored.append((got.delivery_tag, got.body))
    try:
        yield channel, stored
    finally:
        async with in_our_words(f'giving back to "{queue}"'):
            await channel.close()


def _read(body: bytes) -> Gap:
    try:
        return msgspec.json.decode(body, type=Gap)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return UNREADABLE


def _merged(gaps: Iterable[Gap]) -> list[Gap]:
    """Merge gaps of one reason that overlap: each worker of a cluster reports the same one."""
    merged: list[Gap] = []
    for gap in sorted(gaps, key=lambda gap: (gap.since or gap.until, gap.until)):
        for index, known in enumerate(merged):
            is_same = known.reason == gap.reason and known.healing == gap.healing
            if is_same and (gap.since is None or gap.since <= known.until):
                merged[index] = replace(known, since=gap.since and known.since, until=max(known.until, gap.until))
                break
        else:
            merged.append(gap)
    return merged
