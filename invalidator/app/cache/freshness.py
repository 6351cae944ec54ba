"""What `load` reads from, and whether what it read is new enough to be kept. Pure.

Somebody's eviction came before the placeholder, or it would have taken the placeholder with it. So a value may be kept
if every commit before the placeholder is in it:

    primary                      a read begun after the placeholder was there sees them all
    replica with positions       `as_of` is strictly after where the primary was when the placeholder was there already
    replica with `max_lag`       the placeholder was older than `max_lag` when the read began
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Loaded(Generic[T_co]):
    """What `load` may return instead of a bare value: the value, and how far the read had come.

    `as_of` is on the scale of the cache's `position`, and a number, so that it compares as one (a WAL position such as
    ``0/9000000`` is text, and sorts after ``0/10000000``). Everything *before* it was seen.

    >>> Loaded({"price": 109.99}, as_of=7).as_of
    7
    """

    value: T_co
    as_of: float | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """A placeholder that was there before the read began, and what is known of it."""

    #: Seconds of the reader's monotonic clock at which it was there already.
    seen_at: float
    #: Where the primary was when it was there already.
    birth: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What was declared of the database that `load` reads."""

    #: Whether the primary tells its position.
    has_position: bool = False
    #: Seconds that a replica may be behind, at most.
    max_lag: float | None = None

    @property
    def is_primary(self) -> bool:
        return not self.has_position and self.max_lag is None

    def proves(self, lease: Lease, *, as_of: float | None, began_at: float) -> bool:
        """Whether a read begun at `began_at` has seen every commit before the placeholder."""
        if self.is_primary:
            # Whoever says how far the read had come doubts it, and nothing is there to compare with.
            return as_of is None
        return self._is_after(lease, as_of) or self._is_old_enough(lease, began_at)

    def _is_after(self, lease: Lease, as_of: float | None) -> bool:
        return as_of is not None and lease.birth is not None and as_of > lease.birth

    def _is_old_enough(self, lease: Lease, began_at: float) -> bool:
        return self.max_lag is not None and began_at - lease.seen_at > self.max_lag
