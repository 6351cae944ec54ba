"""The announcements received from each worker, and the gaps in them. Pure.

Rules of this file:

1. A worker numbers its announcements from 1 on. If its first announcement here has any other number, earlier ones were
   missed.
2. A worker that is silent for `SILENCE_SECONDS` expires. If it ever announces again it counts as new, and rule 1 tells
   if it evicted anything meanwhile.
"""

from invalidator.broker.messages import HEARTBEAT_SECONDS, Announcement

#: Heartbeats come every second; one may be late, not two.
SILENCE_SECONDS = 2 * HEARTBEAT_SECONDS


class SequenceTracker:
    """The workers of one cluster, with the last number of each and the time of its last announcement."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._received_at: dict[str, float] = {}
        #: The time at which the first worker expires; never, if there is no worker.
        self.silent_at = float("inf")

    def __bool__(self) -> bool:
        """Return True if any worker is announcing."""
        return bool(self._numbers)

    def record(self, announcement: Announcement, now: float) -> bool:
        """Record an announcement. Return False if earlier ones of this worker were missed."""
        worker, number = announcement.worker, announcement.number
        last = self._numbers.get(worker, 0)
        self._numbers[worker] = max(last, number)
        self._received_at[worker] = now
        self._find_next_expiry()
        # An announcement that arrives behind its successors was already reported as missed.
        return number <= last + (not announcement.is_heartbeat)

    def expire_silent(self, now: float) -> bool:
        """Drop the workers that have been silent for too long. Return True if there were any."""
        if now < self.silent_at:
            return False
        for worker in [worker for worker, last in self._received_at.items() if last + SILENCE_SECONDS <= now]:
            del self._numbers[worker], self._received_at[worker]
        self._find_next_expiry()
        return True

    def clear(self) -> None:
        """Drop all workers, because their announcements no longer arrive here."""
        self._numbers.clear()
        self._received_at.clear()
        self._find_next_expiry()

    def _find_next_expiry(self) -> None:
        self.silent_at = min(self._received_at.values(), default=float("inf")) + SILENCE_SECONDS
