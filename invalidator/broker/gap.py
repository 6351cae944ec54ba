"""A gap: a time in which events may have been published while no queue stored them."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from msgspec import Meta

#: Consumer argument that shows the last gap in the management UI, and `invalidator status` reads.
GAP_ARGUMENT = "x-invalidator-gap"
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_UNKNOWN = "unknown"
#: A time without a zone cannot be compared with others.
Time = Annotated[datetime, Meta(tz=True)]


@dataclass(frozen=True)
class Gap:
    """A time in which events may have been missed; without ``since`` where its beginning is unknown."""

    since: Time | None
    until: Time
    reason: str

    def __str__(self) -> str:
        since = f"{self.since:{_TIME}}" if self.since else _UNKNOWN
        return f"since {since} until {self.until:{_TIME}}: {self.reason}"


class GapTracker:
    """The gap that is open now, if there is one, and the last one that was closed."""

    def __init__(self) -> None:
        self._consumed_at: datetime | None = None
        #: Why the open gap was opened; None while none is open.
        self._reason: str | None = None
        self._last: Gap | None = None

    @property
    def has_consumed(self) -> bool:
        return self._consumed_at is not None

    def consuming(self) -> None:
        """Record that the queue is there and consumed now; a gap that is opened later began at this time."""
        self._consumed_at = datetime.now(UTC)

    def open(self, reason: str) -> None:
        """Open a gap, unless one is open: the first reason stays."""
        self._reason = self._reason or reason

    def so_far(self) -> Gap | None:
        """Return the open gap, as if it ended now."""
        return Gap(self._consumed_at, datetime.now(UTC), self._reason) if self._reason else None

    def arguments(self) -> dict[str, Any] | None:
        """Return the arguments of a new consumer, which show the last gap: the open one, as if it ended now."""
        self._last = self.so_far() or self._last
        return {GAP_ARGUMENT: str(self._last)} if self._last else None

    def close(self) -> Gap | None:
        """Close the open gap, which the new consumer has ended, and return it; None if none was open."""
        if not self._reason:
            return None
        self._reason = None
        return self._last
