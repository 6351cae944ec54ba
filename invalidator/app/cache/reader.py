"""The protocol for reading one key, so that an evicted value never comes back. READ THIS FIRST in this room. Pure.

    get ── a value ──> return it                                                              one command
     │
     ├─ nothing ──> add a placeholder ── stored ──┐
     │                    └── not stored ──┐      ├──> load ──> proven? ──> gets ── mine? ──> cas       four commands
     └─ a placeholder ──> wait a little ───┴──────┘

Of the readers of a process that do not hit, one goes on. The others wait for it (see `flights`).

`Reader.read` yields commands and is sent their answers; it does no I/O. `LookAsideCache` and `AsyncLookAsideCache`
drive this one function. So does the explorer in the tests, which tries it against every interleaving.

Rules of this file:

1. A value is stored only by `cas` over a placeholder that was stored *before* the read of the source began and is still
   there: an eviction in between would have removed it. The nonce identifies the placeholder. CAS numbers cannot:
   they start again when memcached restarts.
2. Any reader may fill over any placeholder that it saw. So a reader that has waited in vain, because the owner died for
   example, loads and fills over it. Only one such fill succeeds.
3. The answer to `Gets` hands over the connection, exclusively, in `Held.token`. The very next command is its `Cas` or
   `LetGo`.
4. A loaded value is stored only if the source proves that it is fresh enough (`invalidator.app.cache.freshness`).
   Otherwise it is served and not stored, and the placeholder stays: a later read may be proven against it.
5. A `Cas` that did not store is never repeated, and never becomes a `set`.
6. If the source answers, the read is answered, regardless of memcached.
"""

import random
import threading
import time
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from operator import attrgetter
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
from cachetools import LRUCache

from invalidator.app.cache.commands import (
    Add,
    Cas,
    Command,
    Failure,
    Get,
    Gets,
    Join,
    LetGo,
    Load,
    Position,
    Reading,
    ReadOutcome,
    Steps,
    Wait,
)
from invalidator.app.cache.flights import Flight, Flights, current_reader
from invalidator.app.cache.fork import begin_anew_after_fork
from invalidator.app.cache.freshness import Lease, Loaded, Source
from invalidator.app.cache.items import LEASE, Item, Serializer, UnreadableError, decode, encode, placeholder
from invalidator.errors import ConfigurationError
from invalidator.runtime.logs import Log

#: Seconds for which a placeholder lives. A reader that takes longer does not fill.
LEASE_SECONDS = 30
#: Seconds between the reads of a reader that waits for another one's fill. Each pause is twice the one before.
SHORTEST_PAUSE, LONGEST_PAUSE = 0.005, 0.05
#: The longest TTL in seconds. memcached takes a longer one for a date, long past.
LONGEST_TTL = 30 * 24 * 3600
#: Seconds to wait for a load of the same key in this process.
LONGEST_WAIT = 60.0
#: Bytes of values that a process keeps for `stale_for`.
STALE_BYTES = 64 * 1024 * 1024
#: An `expire` of -1 expires at once: with `cas`, a conditional delete.
EXPIRED = -1

_FLAGS, _DATA = attrgetter("flags"), attrgetter("data")

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

log = Log(__name__)


class LastSeen(NamedTuple):
    """The last item that this process saw under a key."""

    item: Item
    seen_at: float


class Terms(msgspec.Struct, frozen=True):
    """The caller's terms for a value, in seconds."""

    ttl: float
    #: The TTL of None; 0 means that None is not stored.
    negative_ttl: float
    stale_for: float = 0.0


@lru_cache(1000)
def terms_of(*, ttl: float, negative_ttl: float | None = None, stale_for: float = 0.0) -> Terms:
    """Return the terms, or raise `ConfigurationError`."""
    if ttl <= 0:
        raise ConfigurationError(f"a ttl of {ttl} s caches nothing: pass the seconds for which a value may live")
    return Terms(ttl, ttl if negative_ttl is None else negative_ttl, stale_for)


class Reader:
    """The protocol and the memory of a process for it, for any number of threads."""

    def __init__(  # noqa: PLR0913  what is remembered and what tests replace
        self,
        source: Source,
        serializer: Serializer,
        *,
        patience: float = 0.5,
        longest_wait: float = LONGEST_WAIT,
        memory: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
        new_placeholder: Callable[[], Item] = placeholder,
        uniform: Callable[[float, float], float] = random.uniform,
        current: Callable[[], Hashable] = current_reader,
    ) -> None:
        self._flights = Flights(current)
        self._longest_wait = longest_wait
        self._source = source
        self._serializer = serializer
        self._loads = serializer.loads
        self._pauses = tuple(_pauses(patience))
        self._clock = clock
        self._new_placeholder = new_placeholder
        self._uniform = uniform
        self._lease_seconds = LEASE_SECONDS + int(source.max_lag or 0)
        #: Placeholders over which a read was not proven, by nonce. The next read may be proven.
        self._unproven: Bounded[bytes, Lease] = Bounded(memory)
        # An entry counts with its bytes, or with its share of the limit: so entries and bytes are bounded by one sum.
        share = STALE_BYTES // memory
        self._last_seen: Bounded[str, LastSeen] = Bounded(STALE_BYTES, lambda last: max(share, len(last.item.data)))
        self._logged: Bounded[tuple[str, str], bool] = Bounded(memory)

    def hit(self, key: str, found: Item | Failure | None, terms: Terms) -> Reading | None:
        """Return the reading of a hit, or None if `read` has to deal with the answer to its first `Get`."""
        if not isinstance(found, Item) or found.flags == LEASE:
            return None
        try:
            value = self._loads(found.data) if found.flags == 0 else decode(found, self._serializer)
        except Exception:  # noqa: BLE001  a serializer may raise anything; `read` reports it
            return None
        if terms.stale_for > 0:
            self._keep_last_seen(key, found, terms, seen_at=self._clock())
        return Reading(value, ReadOutcome.HIT)

    def all_hits(self, found: Sequence[Item | Failure | None], terms: Terms) -> list[Any] | None:
        """Return the values if each answer only has to be decoded, as most do; else None, and `hit` tells for each."""
        if terms.stale_for > 0 or set(map(type, found)) != {Item} or any(map(_FLAGS, found)):
            return None
        try:
            return list(map(self._loads, map(_DATA, found)))
        except Exception:  # noqa: BLE001  a serializer may raise anything; `read` reports it
            return None

    def read(self, key: str, terms: Terms) -> Steps:
        """Yield the commands that read `key`, one by one, and return the reading."""
        began = self._flights.now()
        while True:
            found = yield Get(key)
            if hit := self.hit(key, found, terms):
                return hit
            flight, is_mine = self._flights.claim(key)
            if is_mine:
                break
            if recent := self._recently_seen(key, terms):
                return recent
            yield Join(flight.ended, self._longest_wait)
            if flight.result and self._may_share(flight, began):
                return Reading(flight.result(), ReadOutcome.SHARED)
            if not flight.ended.done():
                return (yield from self._load_only(key, Flight(None)))
        try:
            return (yield from self._read_alone(key, found, terms, flight))
        finally:
            self._flights.end(key, flight)

    def _may_share(self, flight: Flight, began: int) -> bool:
        """Return True if the load of a flight began after a read did."""
        return flight.began is not None and flight.began > began

    def _read_alone(self, key: str, found: Item | Failure | None, terms: Terms, flight: Flight) -> Steps:
        """Read on after a first `Get`, as the one reader of this process that is at work on `key`."""
        for pause in (*self._pauses, None):
            if isinstance(found, Item) and found.flags != LEASE:
                return (yield from self._load_instead(key, found, flight))
            lease, is_at_work = yield from self._lease(key, found)
            if not is_at_work:
                break
            if recent := self._recently_seen(key, terms):
                return recent
            if pause is not None:
                yield Wait(pause)
                found = yield Get(key)
                if hit := self.hit(key, found, terms):
                    return Reading(hit.value, ReadOutcome.WAITED)
        if lease is None:
            return (yield from self._load_only(key, flight))
        return (yield from self._load_and_fill(key, lease, terms, flight))

    def _lease(self, key: str, found: Item | Failure | None) -> Generator[Command, Any, tuple[Item | None, bool]]:
        """Return the placeholder under `key`, if known, and True if another reader is filling it."""
        if isinstance(found, Item):
            return found, self._unproven.get(found.data) is None
        if found is not None:
            return None, False
        mine = self._new_placeholder()
        added = yield Add(key, mine, self._lease_seconds)
        return (mine, False) if added is True else (None, added is False)

    def _load_instead(self, key: str, found: Item, flight: Flight) -> Steps:
        try:
            decode(found, self._serializer)
        except UnreadableError as error:
            self._warn("cannot read the cached item; loading the value instead", key, error=str(error))
        return (yield from self._load_only(key, flight))

    def _load(self, key: str, flight: Flight) -> Generator[Command, Any, Loaded[Any]]:
        """Load for the flight: its result is the loaded value or the error, until a better one is known."""
        flight.began = self._flights.now()
        try:
            loaded: Loaded[Any] = yield Load(key)
        except Exception as error:
            flight.result = partial(_raise, error)
            raise
        flight.result = lambda: loaded.value
        return loaded

    def _load_only(self, key: str, flight: Flight) -> Steps:
        loaded = yield from self._load(key, flight)
        with suppress(Exception):  # a value that cannot be serialized is shared as it is
            item = encode(loaded.value, self._serializer)
            flight.result = partial(decode, item, self._serializer)
        return Reading(loaded.value, ReadOutcome.UNFILLED)

    def _load_and_fill(self, key: str, mine: Item, terms: Terms, flight: Flight) -> Steps:
        lease = self._unproven.get(mine.data)
        try:
            if lease is None:
                seen_at = self._clock()
                lease = Lease(seen_at, (yield Position()) if self._source.has_position else None)
            began_at = self._clock()
            loaded = yield from self._load(key, flight)
        except GeneratorExit:
            raise
        except BaseException:  # a cancelled or interrupted load too
            yield from self._replace(key, mine, mine, EXPIRED)
            raise
        try:
            item = encode(loaded.value, self._serializer)
            value = decode(item, self._serializer)  # so a miss returns the same as a hit
        except Exception as error:  # noqa: BLE001  a serializer may raise anything
            kind = type(loaded.value).__qualname__
            self._warn("cannot serialize the value; serving it without caching", key, type=kind, error=repr(error))
            yield from self._replace(key, mine, mine, EXPIRED)
            return Reading(loaded.value, ReadOutcome.UNFILLED)
        flight.result = partial(decode, item, self._serializer)  # to each reader a value of its own
        self._keep_last_seen(key, item, terms, seen_at=began_at)
        if not self._source.proves(lease, as_of=loaded.as_of, began_at=began_at):
            self._unproven.put(mine.data, lease)
            return Reading(value, ReadOutcome.UNPROVEN)
        return Reading(value, (yield from self._fill(key, mine, item, terms)))

    def _fill(self, key: str, mine: Item, item: Item, terms: Terms) -> Generator[Command, Any, ReadOutcome]:
        ttl = terms.ttl if item.flags == 0 else terms.negative_ttl
        stored = yield from self._replace(key, mine, item, self._expire(ttl))
        if stored is Failure.REFUSED:
            self._warn("memcached refused the value; serving it without caching", key, bytes=len(item.data))
            yield from self._replace(key, mine, mine, EXPIRED)
        if isinstance(stored, Failure):
            return ReadOutcome.UNFILLED
        return ReadOutcome.FILLED if stored else ReadOutcome.EVICTED

    def _replace(self, key: str, mine: Item, item: Item, expire: int) -> Generator[Command, Any, bool | Failure]:
        """Replace `mine` by `item`. Return True if `mine` was still there."""
        held = yield Gets(key)
        if held is None or isinstance(held, Failure):
            return held or False
        if held.item != mine:
            yield LetGo(held.token)
            return False
        stored: bool | Failure = yield Cas(key, item, expire, held.token)
        return stored

    def _expire(self, ttl: float) -> int:
        """Return whole seconds, up to a tenth fewer than `ttl`: values filled together must not expire together."""
        if ttl <= 0:
            return EXPIRED
        return max(1, int(min(ttl, LONGEST_TTL) * self._uniform(0.9, 1.0)))

    def _warn(self, event: str, key: str, **fields: object) -> None:
        """Log once for each kind of key: up to the first colon."""
        kind = event, key.partition(":")[0]
        if not self._logged.get(kind):
            self._logged.put(kind, True)
            log.warning(event, key=key, **fields)

    def _keep_last_seen(self, key: str, item: Item, terms: Terms, *, seen_at: float) -> None:
        if terms.stale_for > 0:
            self._last_seen.put(key, LastSeen(item, seen_at))

    def _recently_seen(self, key: str, terms: Terms) -> Reading | None:
        last = self._last_seen.get(key) if terms.stale_for > 0 else None
        if last is None or self._clock() - last.seen_at > terms.stale_for:
            return None
        return Reading(decode(last.item, self._serializer), ReadOutcome.STALE)


class Bounded(Generic[K, T]):
    """The entries that were used last, up to a sum of sizes, for any number of threads. By default each counts 1."""

    def __init__(self, size: int, size_of: Callable[[T], int] | None = None) -> None:
        self._size, self._size_of = size, size_of
        self.begin_in_child()
        begin_anew_after_fork(self)

    def begin_in_child(self) -> None:
        self._lock = threading.Lock()
        self._entries: LRUCache[K, T] = LRUCache(self._size, self._size_of)

    def get(self, key: K) -> T | None:
        with self._lock:
            return self._entries.get(key)

    def put(self, key: K, entry: T) -> None:
        with self._lock:
            self._entries.pop(key, None)
            if not self._size_of or self._size_of(entry) <= self._size:
                self._entries[key] = entry


def _raise(error: Exception) -> None:
    raise error


def _pauses(patience: float) -> Iterator[float]:
    pause = SHORTEST_PAUSE
    while patience > 0:
        yield min(pause, patience)
        patience = round(patience - pause, 6)
        pause = min(2 * pause, LONGEST_PAUSE)
