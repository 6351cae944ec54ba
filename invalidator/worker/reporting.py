"""What became of batches: counted at once, and told in the log at most once a second.

The first batch after a quiet second has its line at once, those that follow share one. A line a batch would be
thousands a second; journald takes 10,000 in 30 s from a service, and then drops the rest, warnings too.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import structlog

from invalidator.broker.gap import Gap
from invalidator.memcached.cluster import Outcome
from invalidator.runtime import metrics
from invalidator.worker.planner import Plan

#: Seconds between two lines.
TELL_SECONDS = 1.0
#: Reasons of dead letters in a line.
REASONS = 10

log = structlog.get_logger()

# A label that is looked up costs as much as counting.
_settled = cache(metrics.SETTLED.labels)
_evicted = cache(metrics.EVICTED.labels)


@dataclass
class Sum:
    """Batches that share a line."""

    batches: int = 0
    events: int = 0
    keys: int = 0
    slowest: float = 0.0
    dead: list[str] = field(default_factory=list)
    parked: Counter[str] = field(default_factory=Counter)

    def tell(self) -> None:
        extra: dict[str, Any] = {"dead": self.dead[:REASONS]} if self.dead else {}
        if self.parked:
            extra["parked"] = dict(self.parked)
        slowest_ms = round(self.slowest * 1000, 2)
        log.info("evicted", batches=self.batches, events=self.events, keys=self.keys, slowest_ms=slowest_ms, **extra)


class Account:
    """Keeps the books of a pipeline."""

    def __init__(self) -> None:
        self._untold = Sum()
        self._timer: asyncio.TimerHandle | None = None

    def settled(
        self, events: int, plan: Plan[Any], outcome: Outcome, parked: Mapping[str, int], *, seconds: float
    ) -> None:
        """A batch of so many events is settled, so long after it was taken; ``parked`` is how many keys, by node."""
        _count(events, plan, outcome, parked)
        untold = self._untold
        untold.batches += 1
        untold.events += events
        untold.keys += len(plan.keys)
        untold.slowest = max(untold.slowest, seconds)
        untold.dead += [error.reason for _, error in plan.poison[:REASONS]]
        untold.parked.update(parked)
        if self._timer is None:
            self._tell()

    def close(self) -> None:
        """Tell what was not told yet."""
        self._tell()
        if self._timer:
            self._timer.cancel()

    def _tell(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._untold.batches:
            self._untold.tell()
            self._untold = Sum()
            self._timer = asyncio.get_running_loop().call_later(TELL_SECONDS, self._tell)


def _count(events: int, plan: Plan[Any], outcome: Outcome, parked: Mapping[str, int]) -> None:
    metrics.BATCH_EVENTS.observe(events)
    dead, unmatched = len(plan.poison), plan.unmatched
    for fate, count in (("dead", dead), ("unmatched", unmatched), ("evicted", events - dead - unmatched)):
        if count:
            _settled(fate).inc(count)
    for label, keys in outcome.evicted.items():
        _evicted(label).inc(keys)
    for label, debt in outcome.unreachable.items():
        metrics.UNREACHABLE.labels(label, "yes" if debt.waited else "no").inc()
    for label, keys in parked.items():
        metrics.PARKED.labels(label).inc(keys)


log = structlog.get_logger()


def node_changed(label: str, breaker: Literal["open", "closed"], reason: str) -> None:
    """A node stopped answering, or answers again."""
    metrics.BREAKER_OPEN.labels(label).set(breaker == "open")
    if breaker == "open":
        metrics.NODE_ERRORS.labels(label, _kind(reason)).inc()
        log.warning("node unreachable; its keys are parked until a probe answers", node=label, reason=reason)
    else:
        log.info("node answers again; its debt is drained", node=label)


def report_gap(gap: Gap) -> None:
    """Events may have been missed."""
    metrics.GAPS.inc()
    metrics.LAST_GAP.set(gap.until.timestamp())
    log.error(
        "gap: events may have been missed; old values may be served until: invalidator flush",
        since=gap.since.isoformat(timespec="seconds") if gap.since else "unknown",
        until=gap.until.isoformat(timespec="seconds"),
        reason=gap.reason,
    )


def _kind(reason: str) -> str:
    """Why a node is unreachable in one word, so that a label has three values and not one for each text."""
    for beginning, kind in (("cannot connect", "connect"), ("no confirmation", "deadline")):
        if reason.startswith(beginning):
            return kind
    return "broken"
