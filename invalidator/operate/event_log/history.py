"""The history of a key or an event, oldest first, by today's rules.

    log ─> is it this event, or does it evict this key? ─> when, by whom, which event
    evictions of this cluster ─> is the key, or one of the events, among them? ─> which worker, parked where, drained
    dead letters of this cluster ─> is it among them? ─> why
    gaps ─> when were events missed, and were they healed?

Announcements of evictions may be lost, so a missing one proves nothing.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import UTC, datetime

import msgspec
from msgspec import Struct

from invalidator.broker.connection import connected
from invalidator.broker.gaps import remembered_gaps
from invalidator.broker.messages import read_announcement
from invalidator.broker.topology import Topology
from invalidator.broker.wire.delivery import Delivery
from invalidator.broker.wire.properties import string_of
from invalidator.broker.wire.timestamp import published_at
from invalidator.errors import InvalidatorError
from invalidator.operate.dead_letters import Filter, dead_letters
from invalidator.operate.event_log.reading import reading_log
from invalidator.operate.tail import Interpreter
from invalidator.settings import Settings


class Entry(Struct, omit_defaults=True):
    """One thing that happened to a key or an event."""

    #: None if nobody said when.
    at: datetime | None
    #: "event", "poison" (an event that no worker could evict), "evicted", "parked", "dead letter" or "gap".
    what: str
    #: The event's type.
    type: str = ""
    #: The event's message id.
    id: str = ""
    #: Its publisher's app_id, or the worker.
    by: str = ""
    keys: list[str] = []
    detail: str = ""


class History(Struct):
    """The entries of a key or an event, oldest first."""

    entries: list[Entry]
    #: The time of the log's first event, if it is later than asked for.
    log_begins: datetime | None = None


async def history(settings: Settings, wanted: str, since: datetime) -> History:
    """Return what the log, the dead letters and the gaps say of a key or an event's id. Raises as `reading_log`."""
    found, touches = History([]), _Touches(settings, wanted)
    async with reading_log(settings, since, doing="history") as log:
        found.log_begins = log.log_begins
        async for batch in log.batches():
            found.entries += touches.among(batch)
    found.entries += [entry async for entry in _evictions(settings, wanted, since)]
    found.entries += [entry async for entry in _dead(settings, wanted, {entry.id for entry in found.entries} - {""})]
    if found.entries:
        found.entries += [gap async for gap in _gaps(settings, since)]
    oldest = datetime.min.replace(tzinfo=UTC)
    found.entries.sort(key=lambda entry: entry.at or oldest)
    return found


class _Touches:
    """Finds the events that have an id or evict a key."""

    def __init__(self, settings: Settings, wanted: str) -> None:
        self._interpreter = Interpreter(settings)
        self._wanted = wanted
        self._bytes = wanted.encode()

    def among(self, deliveries: list[Delivery]) -> Iterator[Entry]:
        for delivery in deliveries:
            is_this = self._bytes in delivery.header
            seen = self._interpreter.interpret(delivery)
            if seen and (self._wanted in seen.keys or (is_this and self._wanted in seen.ids)):
                by = string_of(delivery.header, "app_id") or ""
                ids = "".join(seen.ids)
                yield Entry(published_at(delivery), seen.what, seen.of, ids, by, seen.keys, seen.detail)


async def _evictions(settings: Settings, wanted: str, since: datetime) -> AsyncIterator[Entry]:
    """Yield what workers announced of a key or an event, if that is kept, and this user may read it."""
    quoted = msgspec.json.encode(wanted)
    with suppress(InvalidatorError):
        queue = Topology.of(settings).evictions
        async with reading_log(settings, since, doing="history", queue=queue) as log:
            async for batch in log.batches():
                for delivery in batch:
                    if quoted in delivery.body or b'"everything":true' in delivery.body:
                        yield _eviction(wanted, delivery)


def _eviction(wanted: str, delivery: Delivery) -> Entry:
    announced = read_announcement(delivery.body)
    at, worker = published_at(delivery), announced.worker.rpartition(".")[0]
    if announced.everything:
        return Entry(at, "evicted", by=worker, detail="a whole node was emptied")
    keys = announced.keys if wanted in announced.events else [wanted]
    id = wanted if wanted in announced.events else ""
    if announced.parked:
        return Entry(at, "parked", id=id, by=worker, keys=keys, detail=f"for {', '.join(announced.parked)}")
    return Entry(at, "evicted", id=id, by=worker, keys=keys, detail=announced.why)


async def _dead(settings: Settings, wanted: str, ids: set[str]) -> AsyncIterator[Entry]:
    """Yield the dead letters of these events, if this user may read them."""
    with suppress(InvalidatorError):
        async with dead_letters(settings) as found:
            async for letter, cause in found.matching(Filter(), advance=lambda: None):
                if letter.message_id and letter.message_id in {wanted, *ids}:
                    detail = f"{cause.reason}: {cause.detail}"
                    yield Entry(letter.died_at, "dead letter", letter.type, letter.message_id, detail=detail)


async def _gaps(settings: Settings, since: datetime) -> AsyncIterator[Entry]:
    with suppress(InvalidatorError):
        async with connected(settings, "history") as connection:
            for gap in await remembered_gaps(connection, Topology.of(settings)):
                if gap.until >= since:
                    yield Entry(gap.since, "gap", detail=gap.story)
