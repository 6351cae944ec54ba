"""The history of a key or an event, oldest first, by today's rules.

    log ─> is it this event, or does it evict this key? ─> when, by whom, which rule
    announcements of this cluster ─> evicted, parked where, drained, healed, or never announced
    dead letters of this cluster ─> is it among them? ─> why
    gaps ─> when were events missed, and were they healed?

Only the log is needed. What else cannot be read is said (`History.unread`).
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from msgspec import Struct

from invalidator.broker.connection import connected
from invalidator.broker.gaps import remembered_gaps
from invalidator.broker.topology import Topology
from invalidator.errors import InvalidatorError
from invalidator.operate.dead_letters import Filter, dead_letters
from invalidator.operate.event_log.entry import OLDEST, Entry
from invalidator.operate.event_log.evictions import Evictions
from invalidator.operate.event_log.reading import reading_log
from invalidator.operate.event_log.touches import Touches
from invalidator.settings import Settings


class History(Struct, omit_defaults=True):
    """The entries of a key or an event, oldest first."""

    wanted: str
    since: datetime
    cluster: str
    entries: list[Entry] = []
    #: The time of the log's first event, if it is later than asked for.
    log_begins: datetime | None = None
    #: That of the first announcement.
    announcements_begin: datetime | None = None
    #: What could not be read, and why.
    unread: list[str] = []

    def sort(self) -> None:
        """Put the entries in their order. Clocks differ, but an eviction comes behind the event that it answers."""
        published = {entry.id: entry.at for entry in self.entries if entry.what == "event" and entry.at}

        def order(entry: Entry) -> tuple[datetime, bool]:
            at, is_answer = entry.at or OLDEST, entry.what not in ("event", "poison")
            return max([at, *(published[id] for id in entry.id.split(", ") if id in published)]), is_answer

        self.entries.sort(key=order)


async def history(
    settings: Settings, wanted: str, since: datetime, *, advance: Callable[[int], None] = lambda _: None
) -> History:
    """Return what is known of a key or an event's id since a time. Calls ``advance`` with numbers of events read.

    Raises as `reading_log`.
    """
    found = History(wanted, since, settings.cluster)
    touches = Touches(settings, wanted)
    async with reading_log(settings, since, doing="history") as log:
        found.log_begins = log.log_begins
        async for batch in log.batches():
            found.entries += touches.among(batch)
            advance(len(batch))
    with _unread(found, "evictions"):
        await _read_evictions(settings, found)
    with _unread(found, "dead letters"):
        found.entries += [entry async for entry in _dead(settings, found)]
    if found.entries:
        with _unread(found, "gaps"):
            found.entries += [gap async for gap in _gaps(settings, since)]
    found.sort()
    return found


@contextmanager
def _unread(found: History, what: str) -> Iterator[None]:
    try:
        yield
    except InvalidatorError as error:
        found.unread.append(f"{what}: {error}")


async def _read_evictions(settings: Settings, found: History) -> None:
    queue = Topology.of(settings).evictions
    evictions, read_at = Evictions(settings, found.wanted, list(found.entries)), datetime.now(UTC)
    async with reading_log(settings, found.since, doing="history", queue=queue) as log:
        found.announcements_begin = log.log_begins
        async for batch in log.batches():
            found.entries += evictions.among(batch)
    if count := evictions.doubt.unreadable:
        found.unread.append(f"evictions: {count} announcements that this version cannot read")
    found.entries += evictions.never_announced(found.announcements_begin or found.since, read_at)


async def _dead(settings: Settings, found: History) -> AsyncIterator[Entry]:
    """Yield the dead letters among the events."""
    ids = {found.wanted, *(entry.id for entry in found.entries if entry.id)}
    async with dead_letters(settings) as letters:
        async for letter, cause in letters.matching(Filter(), advance=lambda: None):
            if letter.message_id in ids:
                yield Entry(
                    letter.died_at,
                    "dead letter",
                    letter.type,
                    letter.message_id,
                    cluster=settings.cluster,
                    detail=f"{cause.reason}: {cause.detail}",
                )


async def _gaps(settings: Settings, since: datetime) -> AsyncIterator[Entry]:
    async with connected(settings, "history") as connection:
        for gap in await remembered_gaps(connection, Topology.of(settings)):
            if gap.until >= since:
                yield Entry(gap.since, "gap", cluster=settings.cluster, detail=gap.story)
