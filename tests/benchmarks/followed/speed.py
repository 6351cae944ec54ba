"""The rows that a follower publishes in a second, and the memory that it needs for them.

    rows are committed ─> [the follower starts ─> slot ─> events ─> all are in the queue]
                          [the same, and a worker evicts them]

The clock runs from the moment at which the follower has the slot, so it includes what the server does first: it reads
the whole of a transaction before it sends any of it.
"""

import contextlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass

from tests.benchmarks import amqp
from tests.benchmarks.followed.place import Place, Servers, wait
from tests.benchmarks.stage import Counter, Process
from tests.integration.shop import configuration

TABLE = "products"
_ROW = "lpad({}::text, 12, '0'), 109.90, 'a product with a name'"
ONE_TRANSACTION = f"INSERT INTO products SELECT {_ROW.format('n')} FROM generate_series(1, {{rows}}) n"
#: Its commits do not wait for the disk: only the follower is measured.
MANY = (
    "DO $$ BEGIN SET synchronous_commit = off; FOR n IN 1..{rows} LOOP "
    f"INSERT INTO products SELECT {_ROW.format('n')}; COMMIT; END LOOP; END $$"
)


@dataclass(frozen=True)
class Speed:
    """One measurement."""

    rows_per_second: float
    #: CPU seconds of the follower for 100,000 rows.
    cpu: float
    #: The follower's peak of resident megabytes.
    memory: float


def speed(servers: Servers, statement: str, *, rows: int, evicted: bool = False) -> Speed:
    """Commit rows, follow them, and measure until they are queued, or evicted by a worker."""
    with servers.place(TABLE) as place, contextlib.closing(amqp.Connection(place.settings.broker.url)) as connection:
        place.sql(statement.format(rows=rows))
        worker = [_worker(place, connection)] if evicted else []
        counter, before = Counter(servers.node), 0
        if evicted:
            before = sum(counter.deletes())
        follower = place.start("follow")
        wait(lambda: place.slot("active") == "t", follower)
        began = time.monotonic()
        if evicted:
            wait(lambda: sum(counter.deletes()) - before >= rows, follower, *worker)
            wait(lambda: connection.ready(place.queue) == 0, follower, *worker)
        else:
            wait(lambda: connection.ready(place.queue) >= rows, follower)
        seconds = time.monotonic() - began
        return Speed(rows / seconds, follower.cpu() / rows * 100_000, follower.memory(peak=True))


def floor(servers: Servers, *, rows: int) -> Speed:
    """Publish as many events of a file, which is the most that one connection of ours can do."""
    with servers.place(TABLE) as place:
        file = place.folder / "events.jsonl"
        file.write_text(
            "".join(f'{{"type": "product_updated", "id": "{n:012}", "price": 109.90}}\n' for n in range(rows))
        )
        config = str(configuration(place.settings, place.folder))
        command = [sys.executable, "-m", "invalidator", "publish", "--from-file", str(file), "--config", config]
        done = json.loads(subprocess.check_output([*command, "--output=json"]))
        return Speed(done["published"] / done["seconds"], 0.0, 0.0)


def _worker(place: Place, connection: amqp.Connection) -> Process:
    worker = place.start("worker")
    wait(lambda: connection.consumers(place.queue) > 0, worker)
    return worker
