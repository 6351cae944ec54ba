"""All that is said to memcached: which nodes own a key, and deletes that a fence confirms."""

from invalidator.memcached.access import Access
from invalidator.memcached.breaker import Backoff, State
from invalidator.memcached.cluster import Cluster, Outcome
from invalidator.memcached.eviction import Answer, Evicted, Unreachable
from invalidator.memcached.node import Node, OnChange
from invalidator.memcached.ring import Ketama, Kind, Rendezvous, Ring, owners, ring_of

__all__ = [
    "Access",
    "Answer",
    "Backoff",
    "Cluster",
    "Evicted",
    "Ketama",
    "Kind",
    "Node",
    "OnChange",
    "Outcome",
    "Rendezvous",
    "Ring",
    "State",
    "Unreachable",
    "owners",
    "ring_of",
]
