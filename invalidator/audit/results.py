"""The results of an auditor, as they come: in the account, in the metrics, and in the log."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from invalidator.audit.account import Account, AccountError, Finding
from invalidator.audit.summary import DAY, summary_of
from invalidator.audit.verdict import Reason, Verdict
from invalidator.runtime import metrics
from invalidator.runtime.logs import Log
from invalidator.runtime.outage import Outage

#: Seconds between two saves of the account, and between two computations of the bound.
SAVE_SECONDS, BOUND_SECONDS = 1.0, 15.0

log = Log(__name__)


class Results:
    """The account, the metrics and the log of one auditor."""

    def __init__(self, path: Path, delays: Sequence[float], *, fed_by: str) -> None:
        """Open the account; raise `ConfigurationError` if it cannot be used."""
        self._path = path
        self._account = Account(path, fed_by=fed_by)
        self._outage = Outage(log.error, "cannot save the account; counting on, and trying again")
        self.delays = delays
        for delay in delays:
            for verdict in Verdict:
                metrics.AUDIT_CHECKS.labels(f"{delay:g}", verdict.value)
        for reason in Reason:  # from 0, or the alert would miss the first value of each
            metrics.AUDIT_STALE.labels(reason.value)

    def count(self, delay: float, verdict: Verdict) -> None:
        self._account.count(delay, verdict, at=time.time())
        metrics.AUDIT_CHECKS.labels(f"{delay:g}", verdict.value).inc()

    def found(self, finding: Finding) -> None:
        self._account.found(finding)
        fields = {"key": finding.key, "node": finding.node, "reason": finding.reason.value}
        if finding.verdict is Verdict.LATE:
            log.warning("a value was evicted late", seconds=finding.delay, **fields)
            return
        metrics.AUDIT_STALE.labels(finding.reason.value).inc()
        if finding.repaired:
            metrics.AUDIT_REPAIRED.inc()
            log.error("a value stayed stale; removed it", **fields)
        else:
            log.error("a value stays stale; it is not removed", **fields)

    def listened(self, seconds: float) -> None:
        self._account.listened(seconds, at=time.time())

    async def keep(self) -> None:
        """Save the account and compute the bound, until cancelled."""
        bound_at = 0.0
        while True:
            await asyncio.to_thread(self.save)
            if time.monotonic() >= bound_at:
                await asyncio.to_thread(self._bound)
                bound_at = time.monotonic() + BOUND_SECONDS
            await asyncio.sleep(SAVE_SECONDS)

    def save(self) -> None:
        """Save the account. If that fails, the counts are kept for the next time."""
        try:
            self._account.save(now=time.time())
            self._outage.ends()
        except AccountError as error:
            self._outage.lasts(str(error))

    def close(self) -> None:
        """Save and close the account."""
        self.save()
        self._account.close()

    def _bound(self) -> None:
        try:
            lines = summary_of(self._path, now=time.time(), seconds=DAY)
        except AccountError as error:
            self._outage.lasts(str(error))
            return
        for line in lines:
            metrics.AUDIT_BOUND.labels(f"{line.delay:g}").set(line.changes.checks)
            metrics.AUDIT_COVERAGE.labels(f"{line.delay:g}").set(line.coverage)
