"""A cluster's dead letters, oldest first: read, replayed, dropped.

    get ─> does the filter match? ─┬─> publish to the cluster's queue, confirmed ─> ack        replay, then receipts
                                   ├─> ack                                                     drop
                                   └─> (the channel closes: back in the queue)                 show

Rules of this file:

1. Reading costs nothing. A message that is not acknowledged goes back when the channel closes. That counts as a
   delivery, so nothing is read from a queue that has a delivery limit all the same.
2. A dead letter is acknowledged only when the broker has confirmed that its event is stored again. A crash in between
   leaves it twice, which does no harm.
3. No more dead letters are read than there were at first, so one that dies again is not met again.
"""

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from aiormq.abc import AbstractChannel as RawChannel
from msgspec import Struct

from invalidator.assemble import rules_of, type_source_of
from invalidator.broker.address import connection_name
from invalidator.broker.connection import Connection, connected, in_our_words, raw_channel
from invalidator.broker.declare import inspect_queue, major_version
from invalidator.broker.publish.publisher import ConfirmedPublisher
from invalidator.broker.topology import NEEDS_NO_LIMIT, Topology
from invalidator.broker.wire.guard import header_of
from invalidator.errors import ConfigurationError, InvalidatorError, UnreachableError
from invalidator.operate.dead_letter import DEBT, Cause, DeadLetter, cause_of
from invalidator.operate.durability import Losses
from invalidator.operate.management import Management, vhost_of
from invalidator.operate.publish import paced
from invalidator.operate.receipt_inbox import Inbox
from invalidator.settings import Settings
from invalidator.worker.planner import Planner


@dataclass(frozen=True)
class Filter:
    """A choice of dead letters. An empty collection matches any."""

    ids: Collection[str] = ()
    reasons: Collection[str] = ()
    types: Collection[str] = ()
    #: The largest number of dead letters.
    limit: int | None = None

    def matches(self, dead_letter: DeadLetter, cause: Cause) -> bool:
        wanted = ((self.ids, dead_letter.id), (self.reasons, cause.reason), (self.types, dead_letter.type))
        return all(not choice or value in choice for choice, value in wanted)


class Group(Struct):
    """Dead letters of one type that died for the same reason."""

    reason: str
    type: str
    count: int = 0
    #: When the first and the last of them died.
    first: datetime | None = None
    last: datetime | None = None
    #: Of the last one.
    id: str = ""
    detail: str = ""

    def add(self, dead_letter: DeadLetter, cause: Cause) -> None:
        self.count += 1
        died_at = dead_letter.died_at
        if died_at is None or self.last is None or died_at >= self.last:
            self.id, self.detail, self.last = dead_letter.id, cause.detail, died_at or self.last
        if died_at:
            self.first = min(self.first or died_at, died_at)


class DeadLetters:
    """The dead letters of the settings' cluster, read through one connection."""

    def __init__(
        self, settings: Settings, connection: Connection, channel: RawChannel, count: int, unverified: str | None
    ) -> None:
        self._settings = settings
        self._connection = connection
        self._channel = channel
        self._topology = Topology.of(settings)
        source = type_source_of(settings)
        self._plans = Planner(rules_of(settings), body_bytes=settings.limits.body_bytes, source=source)
        #: The number of dead letters at first.
        self.count = count
        #: The reason why it is not known that reading costs nothing.
        self.unverified = unverified

    async def matching(self, chosen: Filter, *, advance: Callable[[], None]) -> AsyncIterator[tuple[DeadLetter, Cause]]:
        """Yield the dead letters that match, with their causes. Calls ``advance`` for every one that it reads."""
        found = 0
        for _ in range(self.count):
            if found == chosen.limit or (dead_letter := await self._get()) is None:
                return
            advance()
            cause = cause_of(dead_letter, self._plans)
            if chosen.matches(dead_letter, cause):
                found += 1
                yield dead_letter, cause

    async def grouped(self, chosen: Filter, *, advance: Callable[[], None]) -> list[Group]:
        """Return the dead letters that match, by reason and type, the largest group first."""
        groups: dict[tuple[str, str], Group] = {}
        async for dead_letter, cause in self.matching(chosen, advance=advance):
            kind = (cause.reason, dead_letter.type)
            groups.setdefault(kind, Group(*kind)).add(dead_letter, cause)
        return sorted(groups.values(), key=lambda group: -group.count)

    async def replay(
        self, chosen: Filter, *, rate: float | None, advance: Callable[[], None], inbox: Inbox | None = None
    ) -> AsyncIterator[bool]:
        """Publish each event again, to this cluster only. Yields True for an event, False for anything else.

        With an inbox it waits for the receipts at the end, unless no worker consumes.

        Raises:
            InvalidatorError: the broker did not confirm an event. It and those after it are still dead letters.
        """
        name = connection_name("dead replay", self._settings.cluster)
        publisher = ConfirmedPublisher(
            lambda: self._settings.broker, name=name, on_channel=inbox.open_on if inbox else None
        )
        try:
            async for dead_letter, cause in paced(self.matching(chosen, advance=advance), rate):
                if cause.reason != DEBT:
                    await self._publish(dead_letter, publisher, inbox)
                    await self.remove(dead_letter)
                yield cause.reason != DEBT
            if inbox and await self._is_consumed():
                await inbox.wait()
        finally:
            await publisher.close()

    async def _is_consumed(self) -> bool:
        found = await inspect_queue(self._connection, self._topology.queue)
        return found is not None and found[1] > 0

    async def _publish(self, dead_letter: DeadLetter, publisher: ConfirmedPublisher, inbox: Inbox | None) -> None:
        properties = dead_letter.as_event()
        if inbox:
            inbox.ask(properties)
        await publisher.publish(dead_letter.body, exchange="", routing_key=self._topology.queue, properties=properties)

    async def remove(self, dead_letter: DeadLetter) -> None:
        """Acknowledge a dead letter, which removes it for good."""
        async with in_our_words(f'acknowledging on "{self._topology.dead}"'):
            await self._channel.basic_ack(dead_letter.tag)

    async def _get(self) -> DeadLetter | None:
        async with in_our_words(f'getting from "{self._topology.dead}"'):
            got = await self._channel.basic_get(self._topology.dead)
        if got.delivery_tag is None:
            return None  # somebody else took the rest
        return DeadLetter(got.body, header_of(got), got.delivery_tag)


@asynccontextmanager
async def dead_letters(settings: Settings) -> AsyncIterator[DeadLetters]:
    """Yield the cluster's dead letters. Those that were not removed are back in the queue at the end.

    Raises:
        ConfigurationError: the queue has a delivery limit, so reading would delete dead letters.
        UnreachableError: the queue does not exist, or no broker answers.
        RefusedError: this user may not read the queue.
    """
    dead = Topology.of(settings).dead
    async with connected(settings, "dead") as connection:
        if (found := await inspect_queue(connection, dead)) is None:
            raise UnreachableError(f'there is no queue "{dead}": invalidator topology declare, or start a worker')
        unverified = await _assert_reading_is_free(settings, connection)
        channel = await raw_channel(connection)
        yield DeadLetters(settings, connection, channel, found[0], unverified)


async def _assert_reading_is_free(settings: Settings, connection: Connection) -> str | None:
    """Return why it is not known that reading costs nothing, or None. Only RabbitMQ 4 sets a limit by default."""
    topology, major = Topology.of(settings), major_version(connection)
    try:
        described = await Management(settings).queue(topology.dead) or {}
    except InvalidatorError as error:
        return f"not verified that reading deletes no dead letter: {error}" if major >= NEEDS_NO_LIMIT else None
    losses = Losses(topology, vhost_of(settings), major)
    if (limit := losses.delivery_limit(described)) is not None:
        text = f'"{topology.dead}" has a delivery limit of {limit}: reading a message that often deletes it'
        raise ConfigurationError(f"{text}; remove the limit first: {losses.no_limit()}")
    return None
