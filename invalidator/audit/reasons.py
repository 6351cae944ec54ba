"""Telling why a stale value is still there, from what can be seen outside of the worker. Pure."""

import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import NamedTuple

from invalidator.audit.verdict import Reason

#: Keys whose last announcement is remembered.
REMEMBERED = 10_000
#: Seconds by which an announcement may come before the event that caused it: each has a way of its own.
HEAD_START = 2.0


class Facts(NamedTuple):
    """Everything that is known about a stale value on a node."""

    #: An event came that made this key, since the auditor started to listen.
    has_event: bool
    #: A worker announced the eviction of this key, after its last event.
    is_announced: bool
    #: That announcement names the node as one where the key is parked.
    is_parked: bool
    #: The key is evicted on this node.
    is_placed: bool
    #: A rule can make this key.
    has_rule: bool
    #: Messages in the cluster's queue, and debts of the node; None if the broker does not say.
    backlog: int | None
    debts: int | None


def reason_of(facts: Facts) -> Reason:
    """Return the reason that explains the facts."""
    if not facts.is_placed:
        return Reason.WRONG_RING
    if facts.is_parked or facts.debts:
        return Reason.PARKED
    if facts.is_announced:
        return Reason.WRITTEN_BACK
    if facts.backlog:
        return Reason.BACKLOG
    if facts.has_event:
        return Reason.NOT_EVICTED if facts.backlog == 0 else Reason.UNKNOWN
    return Reason.EVENT_MISSING if facts.has_rule else Reason.RULE_MISSING


class Evictions:
    """The evictions that workers announced lately."""

    def __init__(self, *, limit: int = REMEMBERED, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._last: OrderedDict[str, tuple[float, frozenset[str]]] = OrderedDict()

    def announced(self, key: str, parked: Collection[str]) -> None:
        """Remember that a key was evicted, except on the nodes for which it was parked."""
        self._last[key] = self._clock(), frozenset(parked)
        self._last.move_to_end(key)
        if len(self._last) > self._limit:
            self._last.popitem(last=False)

    def since(self, key: str, changed_at: float) -> frozenset[str] | None:
        """Return the nodes for which a key was parked when it was evicted; None if it was not, since its change."""
        at, parked = self._last.get(key, (-float("inf"), frozenset[str]()))
        return parked if at >= changed_at - HEAD_START else None
