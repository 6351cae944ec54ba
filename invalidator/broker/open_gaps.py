"""The gaps that the log may heal, held by the worker that heals them.

every stored gap ─┬─> open: all that were lost at once are healed together, a replay alone ─> healed ─> forgotten
                  ├─> healed with another one: forgotten at once, or its rest is open
                  └─> not covered, or healed before: given back, and of those healed the last few are kept
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace

from aiormq.abc import AbstractChannel as RawChannel

from invalidator.broker.connection import Connection, in_our_words
from invalidator.broker.gap import Gap
from invalidator.broker.gaps import UNREADABLE, stored_gaps
from invalidator.broker.topology import Topology

#: Healed gaps and replays that are remembered. Their queue drops its oldest message when it is full, and that must
#: never be a gap that is still open.
REMEMBERED = 20


class OpenGaps:
    """The gaps that are not healed yet, held so that no other worker heals them at the same time."""

    def __init__(self, channel: RawChannel, stored: list[tuple[int, Gap]]) -> None:
        self._channel = channel
        #: Messages that were read. Those that another reader holds meanwhile are not among them.
        self.read = len(stored)
        ended = [gap for _, gap in stored if gap.healing]
        rests = {tag: _rest(gap, ended) for tag, gap in stored if gap.can_heal}
        is_open = {tag: gap for tag, gap in rests.items() if gap}
        #: Tags of gaps that were healed together with another one.
        self._covered = [tag for tag, gap in rests.items() if gap is None]
        lost = [tag for tag, gap in is_open.items() if not gap.is_asked_for]
        asked_for = [tag for tag, gap in is_open.items() if gap.is_asked_for]
        #: Tags of the gaps to heal now: all that were lost together, or one that was asked for.
        self._chosen = lost or asked_for[:1]
        #: From the beginning of the first of these to the end of the last one; None if nothing is open.
        self.gap = _around([is_open[tag] for tag in self._chosen]) if self._chosen else None

    async def clear(self) -> None:
        """Forget the gaps in `gap`, once their healing is remembered."""
        await self._clear(self._chosen)

    async def clear_covered(self) -> None:
        """Forget the gaps that were healed already."""
        await self._clear(self._covered)

    async def _clear(self, tags: list[int]) -> None:
        async with in_our_words("clearing the gaps that are healed"):
            for tag in tags:
                await self._channel.basic_ack(tag)


@asynccontextmanager
async def open_gaps(connection: Connection, topology: Topology) -> AsyncIterator[OpenGaps]:
    """Yield the open gaps; those that are not cleared are free again at the end. Raises as `remembered_gaps`."""
    async with stored_gaps(connection, topology) as (channel, stored):
        old = superfluous(stored)
        async with in_our_words(f'giving back to "{topology.gaps}"'):
            for tag, gap in stored:
                if tag in old:
                    await channel.basic_ack(tag)
                elif not gap.can_heal or gap is UNREADABLE:
                    await channel.basic_nack(tag, requeue=True)
        yield OpenGaps(channel, [(tag, gap) for tag, gap in stored if gap is not UNREADABLE])


def superfluous(stored: Iterable[tuple[int, Gap]]) -> set[int]:
    """Return the tags of healed gaps and replays, except the last few. Pure."""
    past = [(gap.healing.read_at, tag) for tag, gap in stored if gap.healing and not gap.may_have_lost]
    return {tag for _, tag in sorted(past)[:-REMEMBERED]}


def _rest(gap: Gap, ended: Iterable[Gap]) -> Gap | None:
    """Return the part of a gap that no healing has covered."""
    rest: Gap | None = gap
    for healed in ended:
        rest = rest and rest.rest_after(healed)
    return rest


def _around(gaps: list[Gap]) -> Gap:
    beginnings = [gap.since for gap in gaps if gap.since]
    since = min(beginnings) if len(beginnings) == len(gaps) else None
    return replace(gaps[0], since=since, until=max(gap.until for gap in gaps))
