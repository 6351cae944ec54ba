"""The metrics, in Prometheus's terms. No key is ever a label, and every label has few values."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Metric

from invalidator import __version__

#: Seconds, from an idle cluster's millisecond to half a day behind.
AGES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 43200)

ABOUT = Info("invalidator", "The version, and the cluster that this process works for")
CONSUMING = Gauge("invalidator_consuming", "1 while this worker has a consumer on its cluster's queue, else 0")
BOUND = Gauge("invalidator_bound", "0 while events come to the log and none to the cluster's queue, else 1")
RECONNECTS = Counter(
    "invalidator_reconnects_total", "Times that the consuming connection was lost or could not be opened"
)
BACKLOG = Gauge("invalidator_backlog", "Events that wait in the cluster's queue, as last seen by this worker")
WAITING = Gauge("invalidator_waiting", "1 while a batch can neither be evicted nor parked, and waits; else 0")
RECEIVED = Counter("invalidator_received_total", "Deliveries taken from the cluster's queue, redelivered ones included")
SETTLED = Counter(
    "invalidator_settled_total", "Deliveries acknowledged, by outcome", ["outcome"]
)  # evicted, unmatched, tombstone, notice, dead
UNMATCHED = Counter(
    "invalidator_unmatched_total",
    'Events that no rule is on, by their type and the nearest type with a rule; after 20 types, as "other"',
    ["type", "nearest"],
)
EVENT_AGE = Histogram(
    "invalidator_event_age_seconds",
    "From publishing to acknowledgement, of the event in a batch that waited longest; sampled up to 100 times a second",
    buckets=AGES,
)
REFUSED = Counter(
    "invalidator_refused_total", "Poison rejected on the consuming connection, as it could not be published"
)
DEAD = Counter("invalidator_dead_letters_total", "Poison published to the dead-letter queue, by reason", ["reason"])
EVICTED = Counter("invalidator_evicted_keys_total", "Deletes confirmed by a fence, by node", ["node"])
UNREACHABLE = Counter("invalidator_unreachable_batches_total", "Batches a node did not confirm", ["node", "waited"])
NODE_ERRORS = Counter(
    "invalidator_node_errors_total", "Times that a node became unreachable, by node and reason", ["node", "reason"]
)  # the words of `invalidator.memcached.failure.Failure`
BREAKER_OPEN = Gauge("invalidator_node_unreachable", "1 while a node is skipped, 0 while it answers", ["node"])
PARKED = Counter("invalidator_parked_keys_total", "Keys published to the parking queue of a node", ["node"])
DEBTS = Gauge("invalidator_debts", "Messages in a node's parking queue, as last seen by this worker", ["node"])
AGAIN = Counter("invalidator_again_keys_total", "Keys stored for a second eviction, as again_after asks")
DRAINED = Counter("invalidator_drained_keys_total", "Parked keys that were evicted when their node was back", ["node"])
GAPS = Counter("invalidator_gaps_total", "Gaps: times in which events may have been missed")
HEALED = Counter("invalidator_healed_gaps_total", "Gaps whose events were read from the log and evicted")
HEALED_EVENTS = Counter("invalidator_healed_events_total", "Events that were read from the log, for a gap or a replay")
MISSING = Counter(
    "invalidator_missing_events_total", "Events that were confirmed to their publisher, and are not in the log"
)
TALLY_BEHIND = Gauge(
    "invalidator_tally_behind_seconds", "Age of the event of the log read last, by the worker that looks for losses"
)
LAST_GAP = Gauge(
    "invalidator_last_gap_timestamp_seconds", "When the last gap that needs a flush ended, 0 before the first"
)
BATCH_EVENTS = Histogram("invalidator_batch_events", "Events in a batch", buckets=(1, 3, 10, 30, 100, 300, 1000))
RECEIPTS = Counter(
    "invalidator_receipts_total", "Receipts that events asked for, by outcome", ["outcome"]
)  # sent, lost, refused
ANNOUNCEMENTS_DROPPED = Counter("invalidator_announcements_dropped_total", "Announcements that could not be sent")
NEAR_FORGOTTEN = Counter(
    "invalidator_near_forgotten_total", "Times a near cache forgot everything, by reason", ["reason"]
)  # link, gap, silence, flush
WARMED = Counter(
    "invalidator_warmed_total", "Hot keys that were announced, by outcome", ["outcome"]
)  # read, failed, dropped
POSTPONED = Counter(
    "invalidator_postponed_total", "Debezium's changes that no new read saw yet, sent round to come again"
)
FOLLOWED = Counter("invalidator_followed_total", "Events of the database's log that were published and confirmed")
FOLLOW_BEHIND = Gauge("invalidator_follow_behind_bytes", "Log that the database has written after the slot's position")
FOLLOW_RETAINED = Gauge("invalidator_follow_retained_bytes", "Log that the database keeps for the slot")
FOLLOW_GAPS = Counter("invalidator_follow_gaps_total", "Slots that were lost or dropped before all was read")
#: Its label keeps it out of the metrics of all other services, where 0 would look like an auditor that is blind.
AUDIT_LISTENING = Gauge("invalidator_audit_listening", "1 while the auditor receives changes, else 0", ["source"])
AUDIT_CHECKS = Counter(
    "invalidator_audit_checks_total",
    "Changes that were checked, by seconds after them, and verdict",
    ["delay", "verdict"],
)  # absent, filling, fresh, unclear, unchecked, late, permanent
AUDIT_STALE = Counter(
    "invalidator_audit_stale_values_total", "Permanently stale values that were found, by reason", ["reason"]
)
AUDIT_REPAIRED = Counter("invalidator_audit_repaired_total", "Permanently stale values that were removed")
AUDIT_BOUND = Gauge(
    "invalidator_audit_stale_ratio_bound",
    "Of a day, with 95 % confidence: the largest share of changes that left a stale value, by seconds after them",
    ["delay"],
)
AUDIT_COVERAGE = Gauge(
    "invalidator_audit_coverage_ratio", "Of a day: the share of due checks that were made", ["delay"]
)
RELAYED = Counter("invalidator_relayed_total", "Events of the outbox that were published and confirmed")


class OfCluster(CollectorRegistry):
    """The metrics of another registry, each with the label ``cluster``."""

    def __init__(self, cluster: str, registry: CollectorRegistry) -> None:
        super().__init__(auto_describe=False)
        self._cluster = cluster
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [
                sample._replace(labels={"cluster": self._cluster, **sample.labels}) for sample in metric.samples
            ]
            yield metric

    def restricted_registry(self, names: Iterable[str]) -> Any:
        restricted: Any = self._registry.restricted_registry(names)
        return OfCluster(self._cluster, restricted)


def begin(
    *, cluster: str, nodes: Iterable[str], is_consuming: Callable[[], bool], is_waiting: Callable[[], bool]
) -> None:
    """Start the metrics of a worker: each of its nodes at 0, and no node that it no longer has."""
    ABOUT.info({"version": __version__, "cluster": cluster})
    CONSUMING.set_function(is_consuming)
    BOUND.set(1)
    WAITING.set_function(is_waiting)
    for outcome in ("evicted", "unmatched", "tombstone", "notice", "dead"):
        SETTLED.labels(outcome)
    for gauge in (BREAKER_OPEN, DEBTS):
        gauge.clear()
    for label in nodes:
        for metric in (BREAKER_OPEN, DEBTS, EVICTED, PARKED, DRAINED):
            metric.labels(label)
