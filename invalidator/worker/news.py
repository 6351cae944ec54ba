"""What a worker tells of itself when something happens: once in the log, once in the metrics."""

from typing import Literal

import structlog

from invalidator import metrics
from invalidator.broker.consumer import Gap

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
