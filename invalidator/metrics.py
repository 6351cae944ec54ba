"""What a worker counts, in Prometheus's terms. No key is ever a label, and no label has unbounded values."""

from prometheus_client import Counter, Gauge, Histogram

RECEIVED = Counter("invalidator_received_total", "Deliveries taken from the cluster's queue, redelivered ones included")
SETTLED = Counter(
    "invalidator_settled_total", "Deliveries acknowledged, by what became of them", ["outcome"]
)  # evicted, unmatched, dead
REFUSED = Counter("invalidator_refused_total", "Poison rejected through the consuming connection: nothing else worked")
DEAD = Counter("invalidator_dead_letters_total", "Poison published to the dead-letter queue, by reason", ["reason"])
EVICTED = Counter("invalidator_evicted_keys_total", "Deletes confirmed by a fence, by node", ["node"])
UNREACHABLE = Counter("invalidator_unreachable_batches_total", "Batches a node did not confirm", ["node", "waited"])
PARKED = Counter("invalidator_parked_keys_total", "Keys owed to a node, published to its parking queue", ["node"])
DRAINED = Counter("invalidator_drained_keys_total", "Parked keys that were evicted after all", ["node"])
GAPS = Counter("invalidator_gaps_total", "Times in which events may have been missed")
BATCH_EVENTS = Histogram("invalidator_batch_events", "Events in a batch", buckets=(1, 3, 10, 30, 100, 300, 1000))
BREAKER_OPEN = Gauge("invalidator_node_unreachable", "1 while a node is skipped, 0 while it answers", ["node"])
RECEIPTS = Counter(
    "invalidator_receipts_total", "Receipts that events asked for, by what became of them", ["outcome"]
)  # sent, lost, refused
ANNOUNCEMENTS_DROPPED = Counter("invalidator_announcements_dropped_total", "Announcements that could not be sent")
NEAR_READS = Counter("invalidator_near_reads_total", "Reads through a near cache, by outcome", ["outcome"])  # hit, miss
NEAR_FORGOTTEN = Counter(
    "invalidator_near_forgotten_total", "Times a near cache forgot everything, by reason", ["reason"]
)  # link, gap, silence, flush
