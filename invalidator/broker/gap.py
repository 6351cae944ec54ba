"""A gap: a time in which events may have been published while no queue stored them."""

from dataclasses import dataclass, replace
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
class Healing:
    """The events of a gap, read from the log and evicted."""

    events: int
    seconds: float
    #: When the log was read up to its end: a gap that ended before needs nothing more.
    read_at: Time
    #: The time of the log's first event, if it is later than the gap's beginning: the gap is not covered before.
    log_begins: Time | None = None
    #: The time in which the log may have missed events of the gap, from when to when.
    missed: tuple[Time, Time] | None = None

    @property
    def is_whole(self) -> bool:
        """True if the log had all events of the gap."""
        return self.log_begins is None and self.missed is None

    def __str__(self) -> str:
        events = f"{self.events} events of it were evicted from the log in {self.seconds:.1f} s"
        if self.is_whole:
            return f"healed: {events}"
        if self.missed:
            since, until = self.missed
            lost = "when the broker came back before its log"
            return f"not covered since {since:{_TIME}} until {until:{_TIME}}, {lost}: {events}"
        return f"not covered before {self.log_begins:{_TIME}}, where the log begins: {events}"


@dataclass(frozen=True)
class Gap:
    """A time in which events may have been missed; without ``since`` where its beginning is unknown."""

    #: The time of the oldest event that was not settled.
    since: Time | None
    until: Time
    reason: str
    #: None while the gap is open.
    healing: Healing | None = None
    #: True if an operator asked for its events to be replayed, so that none may have been missed, nor any after it.
    is_asked_for: bool = False
    #: True if its events were never published, so that no log has them: only a flush helps.
    is_unpublished: bool = False

    @property
    def can_heal(self) -> bool:
        """True if the log may have what is missing, and was not read yet."""
        return self.healing is None and not self.is_unpublished

    @property
    def is_healed(self) -> bool:
        return self.healing is not None and self.healing.is_whole

    @property
    def may_have_lost(self) -> bool:
        """True if events may still be missing in the cluster."""
        return not (self.is_healed or self.is_asked_for)

    @property
    def story(self) -> str:
        """The gap, and what became of it."""
        return f"{self}; {self.healing}" if self.healing else str(self)

    def rest_after(self, healed: "Gap") -> "Gap | None":
        """Return the part of this gap that the healing of another one left, None if it left nothing."""
        if healed.healing is None or healed.is_asked_for or self.is_asked_for:
            return self
        read_at = healed.healing.read_at
        begins_before = healed.since and (self.since is None or self.since < healed.since)
        begins_after = self.since and self.since > read_at
        if begins_before or begins_after:
            return self
        return replace(self, since=read_at) if self.until > read_at else None

    def __str__(self) -> str:
        since = f"{self.since:{_TIME}}" if self.since else _UNKNOWN
        return f"since {since} until {self.until:{_TIME}}: {self.reason}"


class GapTracker:
    """The gap that is open now, if there is one, and the last one that was closed."""

    def __init__(self) -> None:
        #: True once the queue was there and consumed.
        self.has_consumed = False
        #: The time of the oldest event that may not be settled, as far as it is known.
        self.position: datetime | None = None
        #: Why the open gap was opened; None while none is open.
        self._reason: str | None = None
        self._last: Gap | None = None

    @property
    def is_open(self) -> bool:
        return self._reason is not None

    def consuming(self) -> None:
        """Record that the queue is there and consumed now."""
        self.has_consumed = True

    def advance(self, position: datetime | None) -> None:
        """Record that every event before ``position`` is settled; None says nothing."""
        if position and (self.position is None or position > self.position):
            self.position = position

    def reach_back(self, position: datetime | None) -> None:
        """Let the open gap begin where another worker stood, if that is earlier."""
        if position and (self.position is None or position < self.position):
            self.position = position

    def open(self, reason: str) -> None:
        """Open a gap, unless one is open: the first reason stays."""
        self._reason = self._reason or reason

    def passed(self, reason: str) -> Gap:
        """Return a gap that has ended already: the queue is there, and what was in it is not."""
        self._last = Gap(self.position, datetime.now(UTC), reason)
        return self._last

    def so_far(self) -> Gap | None:
        """Return the open gap, as if it ended now."""
        return Gap(self.position, datetime.now(UTC), self._reason) if self._reason else None

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
