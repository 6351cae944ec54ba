"""The reasons for which a missing announcement proves nothing.

Announcements are sent without a confirm, and a worker that ends may take its last ones along. Each worker numbers them,
and repeats the last number in a heartbeat each second, so reading all of them in order shows what is missing.
"""

from datetime import UTC, datetime, timedelta

from invalidator.broker.messages import Announcement

#: A worker that was silent for longer has ended.
SILENT = timedelta(seconds=10)


class Doubt:
    """The numbers of each worker's announcements, as far as they were read."""

    def __init__(self) -> None:
        #: The last number of each run of a worker, and the time of its last one.
        self._numbers: dict[str, int] = {}
        self._seen: dict[str, datetime] = {}
        self._lost: list[datetime] = []
        #: Messages that this version cannot read.
        self.unreadable = 0

    def read(self, announced: Announcement, at: datetime | None) -> None:
        """Compare an announcement's number with the last one of the same worker."""
        worker, number = announced.worker, announced.number
        last = self._numbers.get(worker)
        if last is not None and number > last + (not announced.is_heartbeat):
            self._lost.append(at or datetime.now(UTC))
        self._numbers[worker] = max(number, last or 0)
        if at:
            self._seen[worker] = at

    def cannot_read(self, at: datetime | None) -> None:
        self.unreadable += 1
        self._lost.append(at or datetime.now(UTC))

    def between(self, since: datetime, until: datetime) -> str:
        """Return why an announcement may have been lost between two times; "" if none was, beyond doubt."""
        if any(lost >= since for lost in self._lost):
            return "an announcement was lost since, perhaps this one"
        ended = [worker for worker, seen in self._seen.items() if since <= seen < until - SILENT]
        if ended:
            return f"the worker {name_of(ended[0])} ended since, perhaps before it announced this"
        return ""

    def has_a_worker(self, at: datetime) -> bool:
        """Return True if any worker announced something shortly before, or sent a heartbeat."""
        return any(seen >= at - SILENT for seen in self._seen.values())


def name_of(worker: str) -> str:
    """Return a worker's name without the number of its run."""
    return worker.rpartition(".")[0] or worker
