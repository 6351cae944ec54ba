"""A worker's metrics and log lines: settled batches, nodes that come and go, gaps.

Batches are counted immediately and logged at most once a second. The first batch after a quiet second has its line at
once, and those that follow share one. A line for each batch would be thousands a second; journald takes 10,000 in 30 s
from a service, and then drops the rest, warnings too.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from typing import Any

from invalidator.broker.gap import Gap
from invalidator.broker.messages import UnmatchedType
from invalidator.broker.topology import Topology
from invalidator.events.quoting import quoted
from invalidator.memcached.breaker import State
from invalidator.memcached.cluster import Outcome
from invalidator.runtime import metrics
from invalidator.runtime.logs import Log
from invalidator.worker.planner import Plan

#: Seconds between two lines about batches.
LINE_SECONDS = 1.0
#: Reasons of dead letters in a line.
REASONS = 10
#: Types without a rule that are counted separately, and the characters that are kept of each.
UNMATCHED_TYPES, TYPE_LENGTH = 20, 80

log = Log(__name__)

# Cached, as looking up a label costs as much as counting.
_settled = cache(metrics.SETTLED.labels)
_evicted = cache(metrics.EVICTED.labels)


@dataclass
class BatchSum:
    """The sum of the batches that share a line."""

    batches: int = 0
    events: int = 0
    keys: int = 0
    slowest: float = 0.0
    dead: list[str] = field(default_factory=list)
    parked: Counter[str] = field(default_factory=Counter)

    def log(self) -> None:
        extra: dict[str, Any] = {"dead": self.dead[:REASONS]} if self.dead else {}
        if self.parked:
            extra["parked"] = dict(self.parked)
        slowest_ms = round(self.slowest * 1000, 2)
        log.info("evicted", batches=self.batches, events=self.events, keys=self.keys, slowest_ms=slowest_ms, **extra)


class UnmatchedTypes:
    """Counts events by types that no rule is on. The first twenty are logged, each once, with the nearest known one."""

    def __init__(self, known: Collection[str]) -> None:
        self._known = known
        self._found: dict[str, UnmatchedType] = {}

    @property
    def found(self) -> list[UnmatchedType]:
        """The types met so far, the first twenty."""
        return list(self._found.values())

    def count(self, types: Iterable[str]) -> None:
        for type, events in Counter(types).items():
            unmatched = self._found.get(type) or self._meet(type)
            metrics.UNMATCHED.labels(unmatched.type, unmatched.nearest).inc(events)

    def _meet(self, type: str) -> UnmatchedType:
        if len(self._found) >= UNMATCHED_TYPES:
            return UnmatchedType("other")
        shown = type[:TYPE_LENGTH]
        nearest = next(iter(get_close_matches(shown, self._known, n=1)), "")
        found = self._found[type] = UnmatchedType(shown, nearest)
        hint = {"nearest": nearest} if nearest else {}
        log.warning("no rule is on this type of event; such events evict nothing", type=quoted(shown), **hint)
        return found


class BatchReport:
    """Counts and logs the batches of a pipeline."""

    def __init__(self, unmatched: UnmatchedTypes | None = None) -> None:
        self._unmatched = unmatched
        self._sum = BatchSum()
        self._timer: asyncio.TimerHandle | None = None

    def settled(
        self, events: int, plan: Plan[Any], outcome: Outcome, parked: Mapping[str, int], *, seconds: float
    ) -> None:
        """Record a settled batch of ``events`` events that took ``seconds``; ``parked`` counts parked keys by label."""
        _count(events, plan, outcome, parked)
        if self._unmatched and plan.unmatched_types:
            self._unmatched.count(plan.unmatched_types)
        total = self._sum
        total.batches += 1
        total.events += events
        total.keys += len(plan.keys)
        total.slowest = max(total.slowest, seconds)
        total.dead += [error.reason for _, error in plan.poison[:REASONS]]
        total.parked.update(parked)
        if self._timer is None:
            self._log()

    def close(self) -> None:
        """Log the batches that have not been logged yet."""
        self._log()
        if self._timer:
            self._timer.cancel()

    def _log(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._sum.batches:
            self._sum.log()
            self._sum = BatchSum()
            self._timer = asyncio.get_running_loop().call_later(LINE_SECONDS, self._log)


def _count(events: int, plan: Plan[Any], outcome: Outcome, parked: Mapping[str, int]) -> None:
    metrics.BATCH_EVENTS.observe(events)
    fates = {
        "dead": len(plan.poison),
        "unmatched": plan.unmatched,
        "tombstone": plan.tombstones,
        "notice": plan.notices,
    }
    for fate, count in (*fates.items(), ("evicted", events - sum(fates.values()))):
        if count:
            _settled(fate).inc(count)
    for label, keys in outcome.evicted.items():
        _evicted(label).inc(keys)
    for label, debt in outcome.unreachable.items():
        metrics.UNREACHABLE.labels(label, "yes" if debt.waited else "no").inc()
    for label, keys in parked.items():
        metrics.PARKED.labels(label).inc(keys)


def report_node(label: str, state: State) -> None:
    """Log and count that a node stopped answering, or answers again."""
    metrics.BREAKER_OPEN.labels(label).set(state.is_open)
    if state.is_open:
        metrics.NODE_ERRORS.labels(label, state.failure).inc()
        log.warning("node unreachable; its keys are parked until a probe answers", node=label, reason=state.reason)
    else:
        log.info("node answers again; its parked keys are drained", node=label)


def report_gap(gap: Gap, *, heals: bool = False) -> None:
    """Log and count a gap: a time in which events may have been missed; ``heals`` if the log may have them."""
    metrics.GAPS.inc()
    if heals:
        log.warning("gap: events may have been missed; they are read from the log", gap=str(gap))
        return
    metrics.LAST_GAP.set(gap.until.timestamp())
    log.error(
        'gap: events may have been missed; stale values may be served until you run "invalidator flush"',
        since=gap.since.isoformat(timespec="seconds") if gap.since else "unknown",
        until=gap.until.isoformat(timespec="seconds"),
        reason=gap.reason,
    )


def report_not_bound(topology: Topology) -> None:
    """Log that events reach the log, and not the cluster's queue."""
    log.error(
        "events come to the log and none to the cluster's queue: it has lost its binding; if this worker declares "
        'nothing, run "invalidator topology declare"',
        queue=topology.queue,
        exchange=topology.exchange,
    )


def report_missing(gap: Gap, events: int) -> None:
    """Log and count events that the broker confirmed to their publisher and that are not in the log."""
    metrics.MISSING.inc(events)
    metrics.GAPS.inc()
    log.error(
        "events were lost before the log, and perhaps before the clusters, too; stale values may be served until you "
        'run "invalidator flush"',
        events=events,
        gap=str(gap),
    )


def report_healing(gap: Gap) -> None:
    """Log and count a gap whose events were read from the log."""
    assert gap.healing
    healing = gap.healing
    metrics.HEALED_EVENTS.inc(healing.events)
    fields = {"gap": str(gap), "events": healing.events, "seconds": round(healing.seconds, 2)}
    if gap.is_asked_for:
        log.info("replayed what was asked for", **fields)
    elif gap.is_healed:
        metrics.HEALED.inc()
        log.warning("the gap is healed: its events were read from the log and evicted", **fields)
    else:
        metrics.LAST_GAP.set(healing.read_at.timestamp())
        log.error(
            'the gap is not covered by the log; stale values may be served until you run "invalidator flush"',
            outcome=str(healing),
            **fields,
        )
