"""The account of the hits of this process that were compared: counts by minute, the bound, and the log."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from invalidator.app.cache.audit.comparison import AuditOutcome
from invalidator.app.cache.counting import counters
from invalidator.app.cache.fork import begin_anew_after_fork
from invalidator.bound import Block, Bound, bound, nines
from invalidator.runtime.logs import Log
from invalidator.runtime.outage import Outage

#: Seconds for which counts are kept.
KEPT_SECONDS = 86_400
#: Keys that are remembered, so that each is logged once.
LOGGED_KEYS = 10_000

_COUNTERS = counters(
    "invalidator_lookaside_audited_reads_total",
    "Hits of a LookAsideCache that were compared with the source, by outcome",
    [outcome.value for outcome in AuditOutcome],
)
log = Log(__name__)


class Audited(NamedTuple):
    """The hits of this process that were compared in the last day."""

    #: Compared with a result.
    checked: int
    stale: int
    #: Without a result: the source or memcached did not answer, or changed meanwhile.
    undecided: int
    #: Rates that are not exceeded, with a confidence of 95 %.
    bound: Bound

    def __str__(self) -> str:
        """Return the account in words; never more nines than the sample carries."""
        return (
            f"at least {nines(self.bound.checks)} nines of reads: {self.checked:,} compared, {self.stale:,} stale, "
            f"{self.undecided:,} undecided"
        )


class Account:
    """Counts of outcomes, for any number of threads."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._outage = Outage(log.warning, "cannot compare a cached value with the source")
        self.begin_in_child()
        begin_anew_after_fork(self)

    def begin_in_child(self) -> None:
        self._lock = threading.Lock()
        self._minutes: dict[int, Counter[AuditOutcome]] = {}
        self._logged: dict[str, None] = {}

    def count(self, key: str, outcome: AuditOutcome) -> None:
        """Count a comparison, and log a key whose value is stale, once."""
        _COUNTERS[outcome.value]()
        with self._lock:
            minute = int(self._clock() // 60)
            self._minutes.setdefault(minute, Counter())[outcome] += 1
            self._forget(before=minute - KEPT_SECONDS // 60)
            is_new = outcome is AuditOutcome.STALE and self._is_new(key)
        if outcome.is_checked:
            self._outage.ends()
        if is_new:
            log.error("a cached value is stale: no eviction came for it, or it was written back", key=key)

    def failed(self, key: str, error: BaseException) -> None:
        """Count a comparison that an error ended."""
        self.count(key, AuditOutcome.UNDECIDED)
        self._outage.lasts(f"{type(error).__name__}: {error}", kind=key.partition(":")[0])

    def audited(self) -> Audited:
        """Return the account of the last day."""
        with self._lock:
            minutes = [counts.copy() for counts in self._minutes.values()]
        blocks = [Block(_checked(counts), counts[AuditOutcome.STALE]) for counts in minutes]
        return Audited(
            sum(block.checked for block in blocks),
            sum(block.stale for block in blocks),
            sum(counts[AuditOutcome.UNDECIDED] for counts in minutes),
            bound(blocks),
        )

    def _forget(self, *, before: int) -> None:
        while (oldest := next(iter(self._minutes))) < before:
            del self._minutes[oldest]

    def _is_new(self, key: str) -> bool:
        if key in self._logged:
            return False
        self._logged[key] = None
        if len(self._logged) > LOGGED_KEYS:
            del self._logged[next(iter(self._logged))]
        return True


def _checked(counts: Counter[AuditOutcome]) -> int:
    return sum(count for outcome, count in counts.items() if outcome.is_checked)
