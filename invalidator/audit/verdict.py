"""The verdict on a key a while after its change, and the reason why a stale value is still there."""

from collections.abc import Iterable
from enum import Enum


class Verdict(Enum):
    """The verdict of one check, the most harmless first: of several nodes the gravest verdict counts."""

    #: No value is there. That is right, but proves nothing.
    ABSENT = "absent"
    #: A reader's placeholder is there: it is loading the value.
    FILLING = "filling"
    #: The value is the source's.
    FRESH = "fresh"
    #: The value or the source changed during the check, or the value cannot be read: nothing is proven.
    UNCLEAR = "unclear"
    #: A node, the source or the feed did not answer, or a limit was reached: nothing was checked.
    UNCHECKED = "unchecked"
    #: The value is stale, and its eviction may still be on its way.
    LATE = "late"
    #: The value is stale after the last delay, and nothing is known to be on its way.
    PERMANENT = "permanent"

    @property
    def is_stale(self) -> bool:
        return self in STALE

    @property
    def is_checked(self) -> bool:
        """True if the check came to a result."""
        return self not in (Verdict.UNCLEAR, Verdict.UNCHECKED)


STALE = (Verdict.LATE, Verdict.PERMANENT)
#: Verdicts about a value that was there.
PRESENT = (Verdict.FRESH, *STALE)
_GRAVITY = {verdict: rank for rank, verdict in enumerate(Verdict)}


def gravest(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict that counts for a key, from those of its nodes."""
    return max(verdicts, key=_GRAVITY.__getitem__, default=Verdict.UNCHECKED)


class Reason(Enum):
    """The path that should have evicted a stale value, as far as it can be seen from outside."""

    #: Its eviction there was announced; a client stored the old value afterwards.
    WRITTEN_BACK = "written-back"
    #: The node is not where the key is evicted, with evict_on = "owner".
    WRONG_RING = "wrong-ring"
    #: The worker could not reach the node, and parked the key.
    PARKED = "parked"
    #: Events wait in the cluster's queue.
    BACKLOG = "backlog"
    #: The follower's slot still holds the change: its event is not published yet.
    FOLLOWER_BEHIND = "follower-behind"
    #: An event came, and no worker announced the eviction of this key.
    NOT_EVICTED = "not-evicted"
    #: A rule can make this key, and no event came that did.
    EVENT_MISSING = "event-missing"
    #: No rule can make this key.
    RULE_MISSING = "rule-missing"
    UNKNOWN = "unknown"

    @property
    def is_under_way(self) -> bool:
        """True if the eviction is still to come."""
        return self in (Reason.PARKED, Reason.BACKLOG, Reason.FOLLOWER_BEHIND)
