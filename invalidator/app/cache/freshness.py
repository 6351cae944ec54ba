"""The source that `load` reads from, and the proof that a read of it is fresh enough to be stored. Pure.

An eviction that came before the placeholder is the danger: a later one takes the placeholder away. So a value may be
stored if it includes every commit before the placeholder:

    primary                      a read that began after the placeholder was stored sees them all
    replica with positions       `as_of` is strictly after the primary's position once the placeholder was stored
    replica with `max_lag`       the placeholder was older than `max_lag` when the read began
"""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Loaded(Generic[T_co]):
    """A value that `load` returns together with the position of the read.

    `as_of` is on the scale of the cache's `position`: the read saw everything *before* it. It is a number, so that it
    compares as one. (A WAL position such as ``0/9000000`` is text, and sorts after ``0/10000000``.)

    >>> Loaded({"price": 109.99}, as_of=7).as_of
    7
    """

    value: T_co
    as_of: float | None = None


def as_loaded(found: Any) -> Loaded[Any]:
    """Return what a `load` returned as `Loaded`, which it may be already."""
    return found if isinstance(found, Loaded) else Loaded(found)


@dataclass(frozen=True, slots=True)
class Lease:
    """A placeholder that was stored before the read began."""

    #: A time of the reader's monotonic clock, in seconds, at which the placeholder was already stored.
    seen_at: float
    #: The primary's position once the placeholder was stored.
    birth: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The declared properties of the database that `load` reads."""

    #: True if the primary can be asked for its position.
    has_position: bool = False
    #: Seconds by which a replica may lag, at most.
    max_lag: float | None = None

    @property
    def is_primary(self) -> bool:
        return not self.has_position and self.max_lag is None

    def proves(self, lease: Lease, *, as_of: float | None, began_at: float) -> bool:
        """Return True if a read that began at `began_at` has seen every commit before the placeholder."""
        if self.is_primary:
            # A caller that passes `as_of` is not sure the read was current, and there is no position to compare with.
            return as_of is None
        return self._is_after(lease, as_of) or self._is_old_enough(lease, began_at)

    def _is_after(self, lease: Lease, as_of: float | None) -> bool:
        return as_of is not None and lease.birth is not None and as_of > lease.birth

    def _is_old_enough(self, lease: Lease, began_at: float) -> bool:
        return self.max_lag is not None and began_at - lease.seen_at > self.max_lag
