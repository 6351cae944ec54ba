"""How one key is read, so that an evicted value never comes back. READ THIS FIRST of the application's half. Pure.

    get ── a value ──> return it                                                              one command
     │
     ├─ nothing ──> add a placeholder ── stored ──┐
     │                    └── not stored ──┐      ├──> load ──> proven? ──> gets ── mine? ──> cas       four commands
     └─ a placeholder ──> wait a little ───┴──────┘

`Reader.read` yields commands and is sent their answers; it does no I/O. `LookAsideCache`, `AsyncLookAsideCache` and the
explorer in the tests, which tries it against every interleaving, drive this one function.

Rules of this file:

1. A value is stored only by `cas` over a placeholder that was there *before* the read of the source began, and has been
   since: an eviction in between has taken it away. A nonce says that it is the same one. CAS numbers cannot: they begin
   again when memcached does.
2. Whose placeholder it is does not matter. So a reader that has waited in vain, its owner having died, say, loads and
   fills over the placeholder it saw; only one can.
3. `Gets` is answered with the connection, exclusively, in `Held.token`; the very next command is its `Cas` or `LetGo`.
4. What `load` read is stored only if the source proves it new enough (`invalidator.app.cache.freshness`). Else it is
   served and not stored, and the placeholder stays: a later read may be proven against it.
5. A `Cas` that did not store is never repeated, and never becomes a `set`.
6. Whatever memcached does, the read is answered if the source answers.
"""

import random
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import msgspec
import structlog

from invalidator.app.cache.commands import (
    Add,
    Cas,
    Command,
    Failure,
    Get,
    Gets,
    LetGo,
    Load,
    Outcome,
    Position,
    Reading,
    Steps,
    Wait,
)
from invalidator.app.cache.freshness import Lease, Loaded, Source
from invalidator.app.cache.hot_keys import Bounded
from invalidator.app.cache.items import LEASE, Item, Serializer, UnreadableError, decode, encode, placeholder

#: Seconds that a placeholder lives: a reader that takes longer does not fill.
LEASE_SECONDS = 30
#: Seconds between the looks of a reader that waits for another one's fill: so many at first, each twice the one before.
SHORTEST_PAUSE, LONGEST_PAUSE = 0.005, 0.05
#: memcached takes longer TTLs for dates, long past.
LONGEST_TTL = 30 * 24 * 3600
#: An `expire` of -1 is over at once: with `cas`, a conditional delete.
EXPIRED = -1

log = structlog.get_logger()


class Copy(NamedTuple):
    item: Item
    seen_at: float


class Terms(msgspec.Struct, frozen=True):
    """What the caller asks for, in seconds."""

    ttl: float
    #: For None; 0: it is not stored.
    negative_ttl: float
    stale_for: float = 0.0


class Reader:
    """The protocol, and what a process remembers for it; for any number of threads."""

    def __init__(
        self,
        source: Source,
        serializer: Serializer,
        *,
        patience: float = 0.5,
        memory: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
        new_placeholder: Callable[[], Item] = placeholder,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._source = source
        self._serializer = serializer
        self._pauses = tuple(_pauses(patience))
        self._clock = clock
        self._new_placeholder = new_placeholder
        self._uniform = uniform
        self._lease_seconds = LEASE_SECONDS + int(source.max_lag or 0)
        #: Placeholders over which a read was not proven, by nonce; the next one may be.
        self._unproven: Bounded[bytes, Lease] = Bounded(memory)
        self._copies: Bounded[str, Copy] = Bounded(memory)

    def read(self, key: str, terms: Terms) -> Steps:
        """The steps of reading `key`."""
        outcome = Outcome.HIT
        for pause in (*self._pauses, None):
            found = yield Get(key)
            if isinstance(found, Item) and found.flags != LEASE:
                return (yield from self._hit(key, found, terms, outcome))
            lease, is_at_work = yield from self._lease(key, found)
            if not is_at_work:
                break
            if copy := self._recent_copy(key, terms):
                return copy
            if pause is not None:
                outcome = Outcome.WAITED
                yield Wait(pause)
        if lease is None:
            return (yield from self._load_only(key))
        return (yield from self._load_and_fill(key, lease, terms))

    def _lease(self, key: str, found: Item | Failure | None) -> Generator[Command, Any, tuple[Item | None, bool]]:
        """The placeholder that stands under `key` now, if that is known, and whether somebody else is at work on it."""
        if isinstance(found, Item):
            return found, self._unproven.get(found.data) is None
        if found is not None:
            return None, False
        mine = self._new_placeholder()
        added = yield Add(key, mine, self._lease_seconds)
        return (mine, False) if added is True else (None, added is False)

    def _hit(self, key: str, item: Item, terms: Terms, outcome: Outcome) -> Steps:
        try:
            value = decode(item, self._serializer)
        except UnreadableError as error:
            log.warning("what is cached cannot be read; it is loaded instead", key=key, error=str(error))
            return (yield from self._load_only(key))
        self._keep_copy(key, item, terms, seen_at=self._clock())
        return Reading(value, outcome)

    def _load_only(self, key: str) -> Steps:
        loaded: Loaded[Any] = yield Load(key)
        return Reading(loaded.value, Outcome.UNFILLED)

    def _load_and_fill(self, key: str, mine: Item, terms: Terms) -> Steps:
        lease = self._unproven.get(mine.data)
        if lease is None:
            seen_at = self._clock()
            lease = Lease(seen_at, (yield Position()) if self._source.has_position else None)
        began_at = self._clock()
        try:
            loaded: Loaded[Any] = yield Load(key)
        except Exception:
            yield from self._replace(key, mine, mine, EXPIRED)
            raise
        try:
            item = encode(loaded.value, self._serializer)
            value = decode(item, self._serializer)  # a miss returns what a hit will
        except Exception as error:  # noqa: BLE001  whatever a serializer raises
            log.error("the value cannot be serialized; it is served and not cached", key=key, error=repr(error))
            yield from self._replace(key, mine, mine, EXPIRED)
            return Reading(loaded.value, Outcome.UNFILLED)
        self._keep_copy(key, item, terms, seen_at=began_at)
        if not self._source.proves(lease, as_of=loaded.as_of, began_at=began_at):
            self._unproven.put(mine.data, lease)
            return Reading(value, Outcome.UNPROVEN)
        return Reading(value, (yield from self._fill(key, mine, item, terms)))

    def _fill(self, key: str, mine: Item, item: Item, terms: Terms) -> Generator[Command, Any, Outcome]:
        ttl = terms.ttl if item.flags == 0 else terms.negative_ttl
        stored = yield from self._replace(key, mine, item, self._expire(ttl))
        if stored is Failure.REFUSED:
            log.warning("memcached does not take the value; it is served and not cached", key=key, bytes=len(item.data))
            yield from self._replace(key, mine, mine, EXPIRED)
        if isinstance(stored, Failure):
            return Outcome.UNFILLED
        return Outcome.FILLED if stored else Outcome.EVICTED

    def _replace(self, key: str, mine: Item, item: Item, expire: int) -> Generator[Command, Any, bool | Failure]:
        """Put `item` where `mine` still stands; whether that was so."""
        held = yield Gets(key)
        if held is None or isinstance(held, Failure):
            return held or False
        if held.item != mine:
            yield LetGo(held.token)
            return False
        stored: bool | Failure = yield Cas(key, item, expire, held.token)
        return stored

    def _expire(self, ttl: float) -> int:
        """Whole seconds, up to a tenth fewer than asked for: what was filled together shall not expire together."""
        if ttl <= 0:
            return EXPIRED
        return max(1, int(min(ttl, LONGEST_TTL) * self._uniform(0.9, 1.0)))

    def _keep_copy(self, key: str, item: Item, terms: Terms, *, seen_at: float) -> None:
        if terms.stale_for > 0:
            self._copies.put(key, Copy(item, seen_at))

    def _recent_copy(self, key: str, terms: Terms) -> Reading | None:
        copy = self._copies.get(key) if terms.stale_for > 0 else None
        if copy is None or self._clock() - copy.seen_at > terms.stale_for:
            return None
        return Reading(decode(copy.item, self._serializer), Outcome.STALE)


def _pauses(patience: float) -> Iterator[float]:
    pause = SHORTEST_PAUSE
    while patience > 0:
        yield min(pause, patience)
        patience = round(patience - pause, 6)
        pause = min(2 * pause, LONGEST_PAUSE)
