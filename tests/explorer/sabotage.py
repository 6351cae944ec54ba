"""Readers with one guard of the protocol removed, and one without any: the explorer must detect each of them."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from invalidator.app.cache.commands import (
    Add,
    Cas,
    Command,
    Failure,
    Get,
    Gets,
    LetGo,
    Load,
    Reading,
    ReadOutcome,
    Steps,
)
from invalidator.app.cache.flights import Flight
from invalidator.app.cache.freshness import Lease, Loaded, Source
from invalidator.app.cache.items import LEASE, Item, decode, encode
from invalidator.app.cache.multi import Rounds
from invalidator.app.cache.reader import EXPIRED, Reader, Terms
from tests.explorer.world import Set


class WithoutNonce(Reader):
    """A reader that takes any placeholder for its own."""

    def _replace(self, key: str, mine: Item, item: Item, expire: int) -> Generator[Command, Any, bool | Failure]:
        held = yield Gets(key)
        if held is None or isinstance(held, Failure):
            return held or False
        if held.item.flags != LEASE:
            yield LetGo(held.token)
            return False
        stored: bool | Failure = yield Cas(key, item, expire, held.token)
        return stored


class WithoutNewRead(Reader):
    """A reader that fills with a value that it read before its placeholder was stored."""

    def read(self, key: str, terms: Terms) -> Steps:
        found = yield Get(key)
        if isinstance(found, Item) and found.flags != LEASE:
            return Reading(decode(found, self._serializer), ReadOutcome.HIT)
        loaded: Loaded[Any] = yield Load(key)
        mine = self._new_placeholder()
        added = yield Add(key, mine, 30)
        if added is not True:
            return Reading(loaded.value, ReadOutcome.UNFILLED)
        outcome = yield from self._fill(key, mine, encode(loaded.value, self._serializer), terms)
        return Reading(loaded.value, outcome)


class WithoutRelease(Reader):
    """A reader that leaves its placeholder if it cannot fill."""

    def _replace(self, key: str, mine: Item, item: Item, expire: int) -> Generator[Command, Any, bool | Failure]:
        if expire == EXPIRED:
            return False
        return (yield from super()._replace(key, mine, item, expire))


class WithoutOwnRead(Reader):
    """A reader that shares any load, even one that began before its own read."""

    def _may_share(self, flight: Flight, began: int) -> bool:
        return True


class WithoutHandingOver(Reader):
    """A reader that does not end its flight."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._flights.end = lambda key, flight: None  # type: ignore[method-assign]


class PlainLookAside(Reader):
    """A reader as in most applications: get, load, set."""

    def read(self, key: str, terms: Terms) -> Steps:
        found = yield Get(key)
        if isinstance(found, Item):
            return Reading(decode(found, self._serializer), ReadOutcome.HIT)
        loaded: Loaded[Any] = yield Load(key)
        yield Set(key, encode(loaded.value, self._serializer), 0, None)
        return Reading(loaded.value, ReadOutcome.FILLED)


def one_after_another(readings: Sequence[Steps]) -> Rounds:
    """Read several keys in turn, with one load for all of them: that of the first."""
    loaded: list[Any] = []
    done: list[Reading] = []
    for reading in readings:
        command = next(reading)
        try:
            while True:
                answer = loaded[0] if loaded and isinstance(command, Load) else (yield [command])[0]
                loaded += [answer] if isinstance(command, Load) else []
                command = reading.send(answer)
        except StopIteration as end:
            done.append(end.value)
    return done


@dataclass(frozen=True, slots=True, kw_only=True)
class WithoutStrictAsOf(Source):
    """A source that takes a read at the placeholder's own position for one after it."""

    def _is_after(self, lease: Lease, as_of: float | None) -> bool:
        return as_of is not None and lease.birth is not None and as_of >= lease.birth


@dataclass(frozen=True, slots=True, kw_only=True)
class WithoutAge(Source):
    """A source that ignores the age of the placeholder."""

    def _is_old_enough(self, lease: Lease, began_at: float) -> bool:
        return True
