"""Reading the log of events: a stream, over AMQP 0-9-1.

    mark (confirmed) ─> the log's first event: when? ─> events from a time on ─> … ─> the mark: the end

Rules of this file:

1. The broker closes the whole connection for much that other queues allow (automatic acks, get, reject). So the log
   is read on a connection of its own.
2. Nothing says where a stream ends, and a reader at its end waits in silence. So a message of ours, the mark, is put
   there first. All that was confirmed before it is read before it.
3. A log that does not reach back far enough begins in silence with what it has. So it reaches back if its first event
   was published before the time that was asked for, or if reading from that time begins behind the first event. The
   second needs no publisher that says when, and no clock but the broker's.
4. Marks and the statements of publishers are in it, too, and are no events.
5. A broker that comes back takes events before its streams are there, and confirms those that any other queue has
   stored. So a worker that found no broker says in its next mark since when: the log may have missed events until then.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import uuid4

from invalidator.broker.consume.session import Session
from invalidator.broker.gap import Gap
from invalidator.broker.messages import STATEMENT
from invalidator.broker.publish.publisher import ConfirmedPublisher, Properties
from invalidator.broker.topology import Topology
from invalidator.broker.wire.delivery import Delivery
from invalidator.broker.wire.timestamp import EARLIEST, published_at, stamp
from invalidator.errors import UnreachableError
from invalidator.settings import BrokerSettings

#: The type of a mark.
MARK = "invalidator_mark"
#: In the header of each mark and statement.
_OURS = b"invalidator_"
#: The header of a mark that says since when the log may have missed events, in milliseconds since 1970.
MISSED_SINCE = "x-invalidator-missed-since"
#: How much earlier than asked for reading begins, because clocks differ and timestamps are rounded.
EARLIER = timedelta(seconds=2)
#: Events held in memory while others are being evicted.
PREFETCH = 5000
#: Events that are read for the time of the first one, and seconds for them to come.
FIRST, FIRST_SECONDS = 1000, 5.0
OFFSET = "x-stream-offset"
#: The beginning of the header that RabbitMQ adds: its name, and the type of its value, 8 bytes.
_OFFSET = bytes([len(OFFSET)]) + OFFSET.encode() + b"l"


class Hole(NamedTuple):
    """A time in which the log may have missed events."""

    since: datetime
    until: datetime


class Logged(NamedTuple):
    """A part of the log, up to a mark."""

    events: list[Delivery]
    holes: list[Hole]
    is_at_the_mark: bool


async def put_mark(
    publisher: ConfirmedPublisher,
    topology: Topology,
    at: datetime | None = None,
    *,
    missed_since: datetime | None = None,
    queue: str = "",
) -> str:
    """Put a mark at the end of the log, or of another stream, and return its message id.

    ``at`` is a time at which the log was there already, by default now. The first mark of a new log says from when on
    gaps are covered, although no event was published yet. ``missed_since`` is the beginning of a hole that ends there.
    Raises `InvalidatorError` if it is not confirmed.
    """
    id = uuid4().hex
    headers = stamp(at or datetime.now(UTC))
    if missed_since:
        headers[MISSED_SINCE] = int(missed_since.timestamp() * 1000)
    properties = Properties(message_type=MARK, message_id=id, headers=headers)
    await publisher.publish(b"{}", exchange="", routing_key=queue or topology.log, properties=properties)
    return id


def of_ours(delivery: Delivery) -> tuple[str, str | None] | None:
    """Return type and id of a mark or a statement, None for an event."""
    if _OURS not in delivery.header:  # nearly always, and ten times quicker than decoding
        return None
    type, _, id, _, _ = delivery.meaning()
    return (type, id) if type in (MARK, STATEMENT) else None


def hole_of(mark: Delivery) -> Hole | None:
    """Return the time before a mark in which the log may have missed events, None without such a time."""
    since, until = (mark.properties.headers or {}).get(MISSED_SINCE), published_at(mark)
    # Anybody may write a mark.
    if not isinstance(since, int) or until is None or not EARLIEST <= since / 1000 <= until.timestamp():
        return None
    return Hole(datetime.fromtimestamp(since / 1000, UTC), until)


def events_before(mark: str, deliveries: Iterable[Delivery]) -> Logged:
    """Return the events before a mark."""
    found = Logged([], [], is_at_the_mark=False)
    for delivery in deliveries:
        if (ours := of_ours(delivery)) is None:
            delivery.header = without_offset(delivery.header)
            found.events.append(delivery)
            continue
        if hole := hole_of(delivery):
            found.holes.append(hole)
        if ours == (MARK, mark):
            return found._replace(is_at_the_mark=True)
    return found


def without_offset(header: bytes) -> bytes:
    """Return a header with the offset 0: as long as each is different, each is taken apart anew, at 6 µs (`learn`)."""
    at = header.find(_OFFSET)
    if at < 0:
        return header
    at += len(_OFFSET)
    return header[:at] + bytes(8) + header[at + 8 :]


@asynccontextmanager
async def log_session(broker: BrokerSettings, queue: str, name: str) -> AsyncIterator[Session]:
    """Yield a connection to read the log with, or another stream.

    Raises:
        UnreachableError: there is no log, or no broker answers.
    """
    session = await Session.open(broker, name=name)
    try:
        if await session.inspect(queue) is None:
            raise UnreachableError(f'there is no queue "{queue}"; to make it: invalidator topology declare')
        yield session
    finally:
        await session.close()


class Beginning(NamedTuple):
    """The beginning of the log, as far as it is known."""

    #: The time of the first event, None if none of the first thousand says when it was published.
    at: datetime | None
    offset: int | None

    def is_before(self, since: datetime | None, read_from: int | None) -> bool:
        """Return True if the log reaches back to a time, from which on reading begins at an offset."""
        if since is None:
            return False
        is_behind = self.offset is not None and read_from is not None and read_from > self.offset
        return is_behind or (self.at is not None and self.at <= since)


async def beginning(session: Session, queue: str) -> Beginning:
    """Return the beginning of a stream; call it only after reading has begun, as it may drop events between.

    Raises:
        RefusedError: this user may not read the log.
    """
    subscription = await session.subscribe(queue, tag="first", prefetch=FIRST, arguments={OFFSET: "first"})
    try:
        batch = await subscription.batch_within(FIRST_SECONDS, FIRST)
        deliveries = batch.deliveries if batch else []
        at = next(filter(None, map(published_at, deliveries)), None)
        return Beginning(at, offset_in(deliveries[0].header) if deliveries else None)
    finally:
        await subscription.close()


def offset_in(header: bytes) -> int | None:
    """Return the offset in the header of a logged event."""
    at = header.find(_OFFSET) + len(_OFFSET)
    return int.from_bytes(header[at : at + 8]) if at >= len(_OFFSET) else None


def offset_of(since: datetime | None) -> dict[str, object]:
    """Return the arguments of a consumer that reads from ``since`` on, None: from the log's first event on."""
    return {OFFSET: "first" if since is None else since - EARLIER}


def wanted(gap: Gap) -> Callable[[Delivery], bool]:
    """Return the test for the events of a gap: all, unless an operator named an end."""
    if not gap.is_asked_for:
        return lambda _: True
    return lambda delivery: (at := published_at(delivery)) is None or at <= gap.until
