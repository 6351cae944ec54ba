"""The comparison of one hit with the source, after it was answered: proof that a value stayed stale. Pure.

    gets ──> load ──> the same? fresh
                 └──> 2 s later: load ──> gets ──> item and source the same as before? stale

A reader knows of no changes. It sees the source and the item, twice each. Rules of this file, each a guard against a
false alarm. A value is stale only if

1. both `gets` found the same item: one CAS number, on one connection, so the node did not restart in between. It was
   there at both reads of the source, and it outlived an eviction that was on its way at the first of them.
2. its content is not the source's. A value that does not equal itself once it is decoded twice proves nothing.
3. the source gave the same content both times. Else it changed, and only the newest change's own time has not come yet.
4. both were reads of the primary. A replica, or a read with `as_of`, may be behind the cache.

So it was stale for `SETTLE_SECONDS` at least, unless the source changed and changed back while evictions were later
than that. A value that is gone by then was not stale for so long. It is not read again: the hit was the question.

Nothing is removed. `invalidator audit` does that, and has to see a stale value to tell why it is stale.
"""

from collections.abc import Generator
from enum import Enum
from typing import Any, TypeAlias

from invalidator.app.cache.commands import Command, Failure, Gets, Held, LetGo, Load, Wait
from invalidator.app.cache.freshness import Loaded
from invalidator.app.cache.items import Item, Serializer, decode, encode

#: Seconds for which a value has to be stale. An eviction takes milliseconds.
SETTLE_SECONDS = 2.0


class AuditOutcome(Enum):
    """The ways in which a comparison ends; the label of the metric."""

    #: The value was the source's.
    FRESH = "fresh"
    #: The value was evicted or replaced before it could have been stale for `SETTLE_SECONDS`.
    GONE = "gone"
    STALE = "stale"
    #: The source or the node did not answer, or changed meanwhile: nothing is proven.
    UNDECIDED = "undecided"

    @property
    def is_checked(self) -> bool:
        return self is not AuditOutcome.UNDECIDED


Steps: TypeAlias = Generator[Command, Any, AuditOutcome]


class Comparison:
    """The steps of a comparison, for the serializer of one cache."""

    def __init__(self, serializer: Serializer, *, settle: float = SETTLE_SECONDS) -> None:
        self._serializer = serializer
        self._settle = settle

    def steps(self, key: str, served: Item) -> Steps:
        """Yield commands, and return the outcome. Raise the errors of source and serializer."""
        before = yield from _look(key)
        if not isinstance(before, Held) or before.item != served:
            return AuditOutcome.UNDECIDED if isinstance(before, Failure) else AuditOutcome.GONE
        first = yield from self._load(key)
        if self._are_equal(first, served):
            return AuditOutcome.FRESH
        yield Wait(self._settle)
        second = yield from self._load(key)
        after = yield from _look(key)
        if after is None or (isinstance(after, Held) and after.item != served):
            return AuditOutcome.GONE
        is_proven = after == before and self._are_equal(first, second) and self._is_comparable(served)
        return AuditOutcome.STALE if is_proven else AuditOutcome.UNDECIDED

    def _load(self, key: str) -> Generator[Command, Any, Item]:
        """Return the source's content as it would be stored."""
        loaded: Loaded[Any] = yield Load(key)
        if loaded.as_of is not None:
            raise ValueError(
                "a read with as_of may be behind the cache: pass audit_source, which reads from the primary"
            )
        return encode(loaded.value, self._serializer)

    def _are_equal(self, one: Item, other: Item) -> bool:
        return one == other or bool(decode(one, self._serializer) == decode(other, self._serializer))

    def _is_comparable(self, item: Item) -> bool:
        return bool(decode(item, self._serializer) == decode(item, self._serializer))


def _look(key: str) -> Generator[Command, Any, Held | Failure | None]:
    """Return the item of a key with its number; others may use the connection at once."""
    found: Held | Failure | None = yield Gets(key)
    if isinstance(found, Held):
        yield LetGo(found.token)
    return found
