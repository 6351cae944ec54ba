"""A cluster's dead letters, one by one, oldest first: looked at, replayed, dropped.

    get ─> is it one of those meant? ─┬─> publish to the cluster's queue, confirmed ─> ack        replay
                                      ├─> ack                                                     drop
                                      └─> (the channel closes: back in the queue)                 look

Rules of this file:

1. Looking costs nothing. What was got and not acknowledged goes back when the channel closes; that counts as a
   delivery, so where the queue has a delivery limit all the same, nothing is looked at.
2. A letter is acknowledged only when the broker has confirmed that its event is stored again. A crash in between leaves
   it twice, which does no harm.
3. No more letters are got than were there at first: one that dies again is not met again.
"""

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from aiormq.abc import AbstractChannel as RawChannel
from msgspec import Struct

from invalidator.assemble import rules_of
from invalidator.broker.address import connection_name
from invalidator.broker.connection import Connection, in_our_words, raw_channel
from invalidator.broker.declare import inspect_queue, major_version
from invalidator.broker.publisher import ConfirmedPublisher
from invalidator.broker.topology import NEEDS_NO_LIMIT, Topology
from invalidator.errors import ConfigurationError, InvalidatorError, UnreachableError
from invalidator.operate.dead_letter import DEBT, Cause, Letter, cause_of
from invalidator.operate.durability import Losses
from invalidator.operate.management import Management, vhost_of
from invalidator.operate.publish import paced
from invalidator.operate.topology import connected
from invalidator.settings import Settings
from invalidator.worker.planner import Planner


@dataclass(frozen=True)
class Filter:
    """Which letters are meant; an empty collection means any."""

    ids: Collection[str] = ()
    reasons: Collection[str] = ()
    types: Collection[str] = ()
    #: How many at most.
    limit: int | None = None

    def matches(self, letter: Letter, cause: Cause) -> bool:
        wanted = ((self.ids, letter.id), (self.reasons, cause.reason), (self.types, letter.type))
        return all(not choice or value in choice for choice, value in wanted)


class Group(Struct):
    """Letters that died for the same reason."""

    reason: str
    type: str
    letters: int = 0
    #: When the first and the last of them died.
    first: datetime | None = None
    last: datetime | None = None
    #: Of the last one.
    id: str = ""
    detail: str = ""

    def add(self, letter: Letter, cause: Cause) -> None:
        self.letters += 1
        died_at = letter.died_at
        if died_at is None or self.last is None or died_at >= self.last:
            self.id, self.detail, self.last = letter.id, cause.detail, died_at or self.last
        if died_at:
            self.first = min(self.first or died_at, died_at)


class DeadLetters:
    """The dead letters of the settings' cluster, through one connection."""

    def __init__(self, settings: Settings, channel: RawChannel, count: int, unverified: str | None) -> None:
        self._settings = settings
        self._channel = channel
        self._topology = Topology.of(settings)
        self._plans = Planner(rules_of(settings), body_bytes=settings.limits.body_bytes)
        #: How many there were at first.
        self.count = count
        #: Why it is not known that looking costs nothing.
        self.unverified = unverified

    async def matching(self, chosen: Filter, *, looked_at: Callable[[], None]) -> AsyncIterator[tuple[Letter, Cause]]:
        """The letters that are meant, with their causes; ``looked_at`` is called for every letter got."""
        found = 0
        for _ in range(self.count):
            if found == chosen.limit or (letter := await self._get()) is None:
                return
            looked_at()
            cause = cause_of(letter, self._plans)
            if chosen.matches(letter, cause):
                found += 1
                yield letter, cause

    async def grouped(self, chosen: Filter, *, looked_at: Callable[[], None]) -> list[Group]:
        """The letters that are meant by reason and type, most of them first."""
        groups: dict[tuple[str, str], Group] = {}
        async for letter, cause in self.matching(chosen, looked_at=looked_at):
            kind = (cause.reason, letter.type)
            groups.setdefault(kind, Group(*kind)).add(letter, cause)
        return sorted(groups.values(), key=lambda group: -group.letters)

    async def replay(self, chosen: Filter, *, rate: float | None, looked_at: Callable[[], None]) -> AsyncIterator[bool]:
        """Publish each event again, to this cluster only; says for each whether it was one.

        Raises:
            InvalidatorError: the broker did not confirm one; it and those after it are dead letters still.
        """
        name = connection_name("dead replay", self._settings.cluster)
        publisher = ConfirmedPublisher(lambda: self._settings.broker, name=name)
        try:
            async for letter, cause in paced(self.matching(chosen, looked_at=looked_at), rate):
                if cause.reason != DEBT:
                    await publisher.publish(
                        letter.body, exchange="", routing_key=self._topology.queue, properties=letter.as_event()
                    )
                    await self.remove(letter)
                yield cause.reason != DEBT
        finally:
            await publisher.close()

    async def remove(self, letter: Letter) -> None:
        """Acknowledge it: it is gone."""
        async with in_our_words(f'acknowledging on "{self._topology.dead}"'):
            await self._channel.basic_ack(letter.tag)

    async def _get(self) -> Letter | None:
        async with in_our_words(f'getting from "{self._topology.dead}"'):
            got = await self._channel.basic_get(self._topology.dead)
        if got.delivery_tag is None:
            return None  # somebody else took the rest
        return Letter(got.body, got.header.properties, got.delivery_tag)


@asynccontextmanager
async def dead_letters(settings: Settings) -> AsyncIterator[DeadLetters]:
    """The cluster's dead letters; what was not removed is back in the queue at the end.

    Raises:
        ConfigurationError: the queue has a delivery limit, so that looking would cost letters.
        UnreachableError: there is no such queue, or no broker.
        RefusedError: this user may not read it.
    """
    dead = Topology.of(settings).dead
    async with connected(settings, "dead") as connection:
        if (found := await inspect_queue(connection, dead)) is None:
            raise UnreachableError(f'there is no queue "{dead}": invalidator topology declare, or start a worker')
        unverified = await _assert_looking_is_free(settings, connection)
        channel = await raw_channel(connection)
        yield DeadLetters(settings, channel, found[0], unverified)


async def _assert_looking_is_free(settings: Settings, connection: Connection) -> str | None:
    """Returns why it is not known, where it is not; only RabbitMQ 4 has a limit that nobody has set."""
    topology, major = Topology.of(settings), major_version(connection)
    try:
        described = await Management(settings).queue(topology.dead) or {}
    except InvalidatorError as error:
        return f"not verified that looking costs no letter: {error}" if major >= NEEDS_NO_LIMIT else None
    losses = Losses(topology, vhost_of(settings), major)
    if (limit := losses.delivery_limit(described)) is not None:
        text = f'"{topology.dead}" has a delivery limit of {limit}: so many looks delete what they look at'
        raise ConfigurationError(f"{text}; take it away first: {losses.no_limit()}")
    return None
