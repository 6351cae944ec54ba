"""Which workers are heard, and whether all that each of them said was. Pure.

Rules of this file:

1. A worker's announcements are numbered from 1 on. One that is heard for the first time with any other number has said
   something before that nobody here heard.
2. A worker that is silent for `SILENCE_SECONDS` is struck off: if it ever speaks again it is a stranger, and rule 1
   says whether it evicted anything meanwhile.
"""

from invalidator.broker.messages import HEARTBEAT_SECONDS, Announcement

#: Heartbeats come every second; one may be late, not two.
SILENCE_SECONDS = 2 * HEARTBEAT_SECONDS


class Roll:
    """The workers of one cluster, by what they last said and when."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._heard: dict[str, float] = {}
        #: When the first of them will have been silent for too long; nobody is never silent.
        self._silent_at = float("inf")

    def __bool__(self) -> bool:
        """Whether anybody is heard."""
        return bool(self._numbers)

    def hear(self, announcement: Announcement, now: float) -> bool:
        """Whether this worker said nothing before that went unheard."""
        worker, number = announcement.worker, announcement.number
        last = self._numbers.get(worker, 0)
        self._numbers[worker] = max(last, number)
        self._heard[worker] = now
        self._look_ahead()
        # One that is late, behind its successors, was missed then and is no news now.
        return number <= last + (not announcement.is_heartbeat)

    def strike_silent(self, now: float) -> bool:
        """Strike off who has been silent for too long; whether that is anybody."""
        if now < self._silent_at:
            return False
        for worker in [worker for worker, heard in self._heard.items() if heard + SILENCE_SECONDS <= now]:
            del self._numbers[worker], self._heard[worker]
        self._look_ahead()
        return True

    def clear(self) -> None:
        """Forget them all: they may say anything now, and nobody listens."""
        self._numbers.clear()
        self._heard.clear()
        self._look_ahead()

    def _look_ahead(self) -> None:
        self._silent_at = min(self._heard.values(), default=float("inf")) + SILENCE_SECONDS
