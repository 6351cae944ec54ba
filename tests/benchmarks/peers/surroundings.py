"""The surroundings of a peer: `dev bench` sets them in its environment."""

import os
import zlib
from typing import Any

BROKER = os.environ["BENCH_BROKER"]
QUEUE = os.environ["BENCH_QUEUE"]
NODES = [(host, int(port)) for host, port in (node.split(":") for node in os.environ["BENCH_NODES"].split(","))]
PREFETCH = int(os.environ.get("BENCH_PREFETCH", "1000"))


def hash_client(**options: Any) -> Any:
    """Return pymemcache's client of several nodes, which waits for each answer."""
    from pymemcache.client.hash import HashClient

    return HashClient(NODES, default_noreply=False, no_delay=True, **options)


def async_owner(connections: int) -> Any:
    """Return a function from a key to an aiomcache client of its owner, chosen by the cheapest hash there is."""
    import aiomcache

    clients = [aiomcache.Client(host, port, pool_size=connections) for host, port in NODES]
    return lambda key: clients[zlib.crc32(key) % len(clients)]
