"""The latency of the outbox: the time that a key lives on after a commit.

    COMMIT returns (the clock is read) ─> relay ─> broker ─> worker ─> a node looks the key up (and notes when)

A relay, a worker and one node run in a process each. One application commits at a fixed rate.
"""

import statistics
import time
from contextlib import ExitStack

import sqlalchemy as sa
from msgspec.structs import replace

from invalidator.app import Event, Outbox
from invalidator.settings import MemcachedSettings, RingSettings, RuleSettings
from tests.benchmarks.latency import Watch, store
from tests.benchmarks.outboxes import Outboxes
from tests.benchmarks.stage import NODE_ARGUMENTS
from tests.integration.shop import relay_process, worker_process
from tests.servers import Memcached

#: Number of events before those that count.
WARM_UP = 50


def commit_to_evicted(outboxes: Outboxes, *, rate: float, seconds: float) -> list[float]:
    """Return the median and the 99th percentile in milliseconds, on PostgreSQL."""
    events = int(rate * seconds)
    with outboxes.place("postgresql") as place, ExitStack() as stack:
        node = stack.enter_context(Memcached(*NODE_ARGUMENTS))
        store(node, WARM_UP + events)
        settings = replace(
            place.settings,
            ring=RingSettings(nodes={"c1": node.address}),
            memcached=MemcachedSettings(),
            rule=[RuleSettings(on="product_updated", evict=["product:{id}"])],
        )
        stack.enter_context(worker_process(settings, place.folder))
        stack.enter_context(relay_process(settings, place.folder))
        _commit(place.engine, first=0, events=WARM_UP, rate=rate)
        while node.get(f"product:{WARM_UP - 1:012}"):
            time.sleep(0.05)
        with Watch([node]) as watch:
            committed = _commit(place.engine, first=WARM_UP, events=events, rate=rate)
            gone = watch.gone(events, copies=1)
    percentiles = statistics.quantiles([(gone[number] - at) * 1000 for number, at in committed.items()], n=100)
    return [percentiles[49], percentiles[98]]


def _commit(engine: sa.Engine, *, first: int, events: int, rate: float) -> dict[int, float]:
    """Commit on schedule; return the time at which each COMMIT returned, in seconds of the system's clock."""
    outbox, committed, began = Outbox(), {}, time.monotonic()
    for number in range(first, first + events):
        time.sleep(max(0.0, began + (number - first) / rate - time.monotonic()))
        with engine.begin() as connection:
            outbox.append(connection, Event("product_updated", {"id": f"{number:012}"}))
        committed[number] = time.time()
    return committed
