"""The latency of the outbox: the time that a key lives on after a commit.

    COMMIT returns (the clock is read) ─> relay ─> broker ─> worker ─> a node looks the key up (and notes when)

PostgreSQL with fsync, a relay, a worker and one node run in a process each. One application commits at a fixed rate.

    .venv/bin/python -m tests.benchmarks.outbox [RATE [SECONDS]]
"""

import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec
import sqlalchemy as sa

from invalidator.app import Event, Outbox
from invalidator.settings import LogSettings, OutboxSettings, Secret
from tests.benchmarks.latency import Watch, store
from tests.benchmarks.stage import NODE_ARGUMENTS
from tests.integration.shop import relay_process, settings_for, worker_process
from tests.servers import Broker, Memcached, Postgres

#: Number of events before those that count.
WARM_UP = 50


def commit(engine: sa.Engine, *, first: int, events: int, rate: float) -> dict[int, float]:
    """Commit on schedule; return the time at which each COMMIT returned, in seconds of the system's clock."""
    outbox, committed, began = Outbox(), {}, time.monotonic()
    for number in range(first, first + events):
        time.sleep(max(0.0, began + (number - first) / rate - time.monotonic()))
        with engine.begin() as connection:
            outbox.append(connection, Event("product_updated", {"id": f"{number:012}"}))
        committed[number] = time.time()
    return committed


def main(rate: float, seconds: float) -> None:
    events = int(rate * seconds)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        node = stack.enter_context(Memcached(*NODE_ARGUMENTS))
        database = stack.enter_context(Postgres("-c", "fsync=on"))
        settings = settings_for(stack.enter_context(Broker()).url(), [node])
        settings = msgspec.structs.replace(
            settings, outbox=OutboxSettings(url=Secret(database.url())), log=LogSettings(level="error")
        )
        engine = sa.create_engine(database.url().replace("postgresql:", "postgresql+psycopg:"))
        Outbox().create(engine)
        store(node, WARM_UP + events)
        stack.enter_context(worker_process(settings, folder))
        stack.enter_context(relay_process(settings, folder))
        commit(engine, first=0, events=WARM_UP, rate=rate)
        while node.get(f"product:{WARM_UP - 1:012}"):
            time.sleep(0.05)
        with Watch([node]) as watch:
            committed = commit(engine, first=WARM_UP, events=events, rate=rate)
            gone = watch.gone(events, copies=1)
        engine.dispose()
    milliseconds = [(gone[number] - at) * 1000 for number, at in committed.items()]
    percentiles = statistics.quantiles(milliseconds, n=100)
    print(f"{events} commits at {rate:g} a second, milliseconds from COMMIT to evicted:")
    print(f"p50 {percentiles[49]:.1f}  p99 {percentiles[98]:.1f}  max {max(milliseconds):.1f}")


if __name__ == "__main__":
    main(*(float(argument) for argument in (sys.argv[1:] + ["100", "20"][len(sys.argv[1:]) :])))
