"""The log of one database as events and positions, in the order of the commits.

BEGIN: wait at the gate ─> rows ─> an event each, if a rule is for them ─> COMMIT: a position
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Any

import psycopg

from invalidator.app.publish.message import Message
from invalidator.follow import slot
from invalidator.follow.changes import Changes
from invalidator.follow.pgoutput import Begin, Change, Commit, Decoder, LogMessage, Relation, Truncate
from invalidator.follow.progress import Position
from invalidator.follow.stream import Stream
from invalidator.follow.values import Values
from invalidator.postgres.gate import Gate, current_snapshot
from invalidator.settings import FollowSettings


class LogReader:
    """Reads a stream; asks the same database what is visible, and which types it has of its own."""

    def __init__(
        self, stream: Stream, database: "psycopg.AsyncConnection[Any]", *, types: Collection[str], prefix: str
    ) -> None:
        """Read events of these `types`, and the log messages marked with `prefix`."""
        self._stream = stream
        self._database = database
        self._values = Values()
        self._decoder = Decoder(self._values.converter)
        self._changes = Changes(self._decoder, types=types, prefix=prefix)
        self._gate = Gate(self._snapshot)
        self._xid = 0

    @classmethod
    async def open(
        cls,
        follow: FollowSettings,
        database: "psycopg.AsyncConnection[Any]",
        *,
        types: Collection[str],
        temporary_slot: str | None = None,
    ) -> "LogReader":
        """Begin to read from the slot's position on, or from now on with a temporary slot; raises as `Stream.open`."""
        assert follow.url
        stream = await Stream.open(
            follow.url.reveal(),
            slot=temporary_slot or follow.slot,
            publication=follow.publication,
            is_temporary=temporary_slot is not None,
        )
        return cls(stream, database, types=types, prefix=follow.prefix)

    async def items(self, *, waits: bool = True) -> AsyncIterator[Message | Position]:
        """Yield the events of each transaction, then the position behind it; raises as `Stream.receive`.

        A position may come without events before it: of a transaction without any, or of an idle server. Without
        `waits` an event may come before new reads see its change: call `visible` for those that matter.
        """
        decode, changes = self._decoder.decode, self._changes
        committed_at = None
        while True:
            received = await self._stream.receive()
            await asyncio.sleep(0)  # a server that sends without a pause must not hold up the loop
            for position, data in received:
                if data is None:
                    if not changes.is_inside:
                        yield Position(position, committed_at)
                    continue
                match decode(data):
                    case Change() | Truncate() | LogMessage() as change:
                        for message in changes.of(change):
                            yield message
                    case Begin() as begin:
                        committed_at = begin.committed_at
                        await self._begin(begin, waits=waits)
                    case Commit(end):
                        changes.end()
                        yield Position(end, committed_at)
                    case Relation() as relation:
                        await self._learn(relation)

    async def _begin(self, begin: Begin, *, waits: bool) -> None:
        self._changes.begin(begin)
        self._xid = begin.xid
        if waits:
            await self.visible()

    async def visible(self) -> None:
        """Wait until new reads see the transaction whose event came last; raises as `Gate.wait`."""
        await self._gate.wait(self._xid)

    @property
    def waits_for(self) -> int | None:
        """The transaction that is committed and not visible yet, if there is one."""
        return self._gate.waits_for

    @property
    def seen(self) -> int:
        """The furthest position that the server has named."""
        return self._stream.seen

    def confirm(self, position: int, *, at_once: bool = False) -> None:
        """Let the server forget its log up to here; at once, it also answers with the position that it has read."""
        self._stream.confirm(position, at_once=at_once)

    async def close(self) -> None:
        """Send the last position and close the stream; never raises."""
        await self._stream.close()

    async def _learn(self, relation: Relation) -> None:
        """Ask the catalogue for types that only this database has."""
        if not self._changes.wants(relation):
            return
        if unknown := self._values.unknown(column.type_oid for column in relation.columns):
            self._values.learn(await slot.own_types(self._database, unknown))

    async def _snapshot(self) -> str:
        return await current_snapshot(self._database)
