"""Telling why a stale value is still there, from what can be seen outside of the worker. Pure."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from invalidator.audit.verdict import Reason

#: Keys of which the last is remembered.
REMEMBERED = 10_000
#: Seconds by which an announcement may come before the event that caused it, and an event before the row that it is
#: about: each has a way of its own.
HEAD_START = 2.0

T = TypeVar("T")


class Facts(NamedTuple):
    """Everything that is known about a stale value on a node."""

    #: An event came that made this key, after its last change; None if there was no connection to the broker meanwhile.
    has_event: bool | None
    #: A worker announced the eviction of this key, after its last change.
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
    #: A follower's slot still holds the change.
    is_unpublished: bool = False


def reason_of(facts: Facts) -> Reason:
    """Return the reason that explains the facts: the first one that holds."""
    reasons = {
        Reason.WRONG_RING: not facts.is_placed,
        Reason.PARKED: facts.is_parked or facts.debts,
        Reason.WRITTEN_BACK: facts.is_announced,
        Reason.BACKLOG: facts.backlog,
        Reason.NOT_EVICTED: facts.has_event and facts.backlog == 0,
        Reason.FOLLOWER_BEHIND: not facts.has_event and facts.is_unpublished,
        Reason.RULE_MISSING: facts.has_event is False and not facts.has_rule,
        Reason.EVENT_MISSING: facts.has_event is False,
    }
    return next((reason for reason, holds in reasons.items() if holds), Reason.UNKNOWN)


class Recent(Generic[T]):
    """The last thing that happened to each key, lately."""

    def __init__(self, *, limit: int = REMEMBERED, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._last: OrderedDict[str, tuple[float, T]] = OrderedDict()

    def remember(self, key: str, what: T) -> None:
        """Remember what happened to a key now, and forget the key to which nothing has happened for longest."""
        self._last[key] = self._clock(), what
        self._last.move_to_end(key)
        if len(self._last) > self._limit:
            self._last.popitem(last=False)

    def since(self, key: str, changed_at: float) -> T | None:
        """Return what happened to a key last; None if nothing did since its change."""
        at, what = self._last.get(key, (-float("inf"), None))
        return what if at >= changed_at - HEAD_START else None
