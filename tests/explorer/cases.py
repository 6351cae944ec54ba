"""The kinds of reader, and the cases to try them in."""

from asyncio import CancelledError
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import cache, partial
from itertools import count
from typing import Any

from invalidator.app.cache.commands import Command
from invalidator.app.cache.freshness import Source
from invalidator.app.cache.items import LEASE, Item, Typed
from invalidator.app.cache.multi import together
from invalidator.app.cache.reader import Reader, Terms
from tests.explorer.case import FAILURES, KEY, OUTAGES, Case, LoadError
from tests.explorer.herd import Lockstep, Process
from tests.explorer.sabotage import (
    PlainLookAside,
    WithoutAge,
    WithoutHandingOver,
    WithoutNewRead,
    WithoutNonce,
    WithoutOwnRead,
    WithoutRelease,
    WithoutStrictAsOf,
    one_after_another,
)
from tests.explorer.tree import Place, Script, root

#: A class of readers.
Kind = Callable[..., Reader]
TERMS = Terms(ttl=2_592_000, negative_ttl=2_592_000)


def case(
    readers: int = 2,
    writers: tuple[int, ...] = (0, 1),
    *,
    reads: int = 1,
    kind: Kind = Reader,
    source: Source = Source(),  # noqa: B008  frozen
    keys: tuple[str, ...] = (KEY,),
    **what: Any,
) -> Case:
    places = (begin(index, keys[index % len(keys)], reads=reads, kind=kind, source=source) for index in range(readers))
    return Case(readers=tuple(places), writers=writers, keys=keys, **what)


def begin(index: int, key: str, *, reads: int, kind: Kind, source: Source) -> Place:
    """Return a process that reads a key `reads` times in turn. It waits for other readers once."""
    return root(_script_of(index, key, reads, kind, source))


@cache
def _script_of(index: int, key: str, reads: int, kind: Kind, source: Source) -> Script:
    return partial(_script, index, key, reads, kind, source)


def _script(
    index: int, key: str, reads: int, kind: Kind, source: Source, clock: Callable[[], float]
) -> Generator[Command, Any, None]:
    reader = _reader(kind, source, clock, index)
    for _ in range(reads):
        with suppress(LoadError, CancelledError):
            yield from reader.read(key, TERMS)


def herd(readers: int = 2, writers: tuple[int, ...] = (0,), *, kind: Kind = Reader, **what: Any) -> Case:
    """Return a case of several readers in one process."""
    process = root(_herd_of(readers, kind))
    return Case(readers=(process,), writers=writers, is_one_process=True, kinds=FAILURES, **what)


@cache
def _herd_of(readers: int, kind: Kind) -> Script:
    def script(clock: Callable[[], float]) -> Generator[Any, Any, None]:
        return Process(lambda current: _reader(kind, Source(), clock, 0, current=current), readers, TERMS).play()

    return script


def lockstep(
    keys: tuple[str, ...] = ("a", "b"), writers: tuple[int, ...] = (0,), *, rounds: Any = together, **what: Any
) -> Case:
    """Return a case of one reader of several keys at once, each on a node of its own."""
    return Case(readers=(root(_lockstep_of(keys, rounds)),), writers=writers, keys=keys, is_one_process=True, **what)


@cache
def _lockstep_of(keys: tuple[str, ...], rounds: Any) -> Script:
    def script(clock: Callable[[], float]) -> Generator[Any, Any, None]:
        reader = _reader(Reader, Source(), clock, 0)
        return Lockstep([reader.read(key, TERMS) for key in keys], keys, rounds).play()

    return script


def _reader(kind: Kind, source: Source, clock: Callable[[], float], index: int, **what: Any) -> Reader:
    numbers = count()
    return kind(
        source,
        Typed(tuple[int, int]),
        patience=0.001,
        clock=clock,
        new_placeholder=lambda: Item(b"reader %d, %d" % (index, next(numbers)), LEASE),
        uniform=max,
        **what,
    )


#: A key on its owners by the new ring and by the one before, while clients are being changed over.
RINGS = ("k on c1", "k on c2")

#: The properties that can be declared of a source, each with the reads that it then allows.
PRIMARY: dict[str, Any] = {"source": Source()}
POSITIONS: dict[str, Any] = {"source": Source(has_position=True), "lag": 9, "tells": True}
MAX_LAG: dict[str, Any] = {"source": Source(max_lag=1), "lag": 1}

#: Two readers, two writers, one fault. With two reads each there are more states than memory holds, so that case has no
#: fault. `max_lag` has one reader, because only a second read by the same process can be proven there.
EVERY: dict[str, Case] = {
    "primary": case(**PRIMARY, faults=1),
    "one entity": case(**PRIMARY, writers=(0, 0), faults=1),
    "reads twice": case(**PRIMARY, reads=2, faults=0),
    "positions": case(**POSITIONS, ticks=1, faults=1),
    "max_lag": case(**MAX_LAG, readers=1, reads=2, ticks=2, faults=1),
    "a herd": herd(faults=1),
    "two keys": lockstep(kinds=OUTAGES + FAILURES, faults=1),
    "two rings": case(**PRIMARY, writers=(0,), keys=RINGS, faults=1),
    "failures": case(**PRIMARY, kinds=FAILURES, faults=2),
}
#: Cases that end stale, or with a placeholder left, without one guard.
COUNTEREXAMPLES: dict[str, Case] = {
    "the protocol": case(kind=PlainLookAside, **PRIMARY, faults=0),
    "the nonce": case(kind=WithoutNonce, **PRIMARY, faults=1),
    "the new read after the add": case(kind=WithoutNewRead, **PRIMARY, faults=1),
    "the strict as_of": case(**POSITIONS | {"source": WithoutStrictAsOf(has_position=True)}, ticks=1, faults=1),
    "the age of the placeholder": case(**MAX_LAG | {"source": WithoutAge(max_lag=1)}, ticks=1, faults=1),
    "the one connection": case(**PRIMARY, faults=1, reconnects=True),
    "a snapshot of its own": case(**PRIMARY, lag=1, ticks=1, faults=0),
    "the gate before a change event": case(1, (0,), **PRIMARY, faults=0, early=True),
    "the placeholders before the one load": lockstep(rounds=one_after_another, faults=0),
    "the eviction by both rings": case(2, (0,), **PRIMARY, keys=RINGS, evicted=RINGS[:1], faults=0),
    "the own read before a shared load": herd(kind=WithoutOwnRead, faults=0),
    "the handing over of a flight": herd(writers=(), kind=WithoutHandingOver, faults=0),
    "the release after a failed load": case(1, (), kind=WithoutRelease, **PRIMARY, kinds=("fail",), faults=1),
    "the release after a cancelled load": case(1, (), kind=WithoutRelease, **PRIMARY, kinds=("cancel",), faults=1),
    "the release of a refused value": case(1, (), kind=WithoutRelease, **PRIMARY, kinds=("refuse",), faults=1),
}
