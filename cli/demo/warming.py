"""Act 6: prices change while customers read, without `invalidator warm` and with it.

the price changes ─> event ─> evicted ─> announced ─> the warmer reads it again, before most customers ask
"""

import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pika
from pika.adapters.blocking_connection import BlockingConnection
from prometheus_client import REGISTRY

from invalidator.app import LookAsideCache

from .acts import Say
from .fanout import FanoutBus
from .figures import duration
from .hot import CUSTOMER, DATABASE, LOAD_SECONDS, NODES, WARMER, DatabaseLoad, SlowDatabase
from .measure import DEADLINE, FIRST_PRICE, StaleError
from .shop import CoherentProductCache, ProductService
from .stores import Address
from .workers import Workers

CLUSTER = "eu"
LOADER = "invalidator_cli.demo.hot:refill"
#: Best sellers. Customers read each of them about seven times a second.
IDS = [f"best-{number}" for number in range(1, 61)]
CUSTOMERS = 20
#: Seconds between two reads of one customer, on average.
PAUSE = 0.05
#: Products that the warmer reads per second, at most.
RATE = 100
#: Seconds between two events, and the width of a column in the plot.
SLICE = 0.1

#: The conclusion from the figures.
CONCLUSION = (
    "Warming saves the database no work: an evicted product is loaded once either way. It saves customers the wait. "
    f"The warmer never loads more than {RATE} products a second, not even in a burst of changes, and customers load "
    "the products that it has not reached yet."
)


@dataclass(frozen=True)
class Pace:
    """A pace of price changes: a number of events, each of a number of products."""

    name: str
    events: int
    products: int
    #: Duration of the customers' reading.
    seconds: float

    def __str__(self) -> str:
        return self.name


PACES = (
    Pace("one at a time", events=20, products=1, seconds=2.0),
    Pace("all at once", events=1, products=len(IDS), seconds=1.0),
)


@dataclass(frozen=True)
class Run:
    """Observations of customers and database during one run."""

    pace: Pace
    is_warmed: bool
    #: Duration of each read, in seconds.
    reads: Sequence[float]
    #: Reads that did not find the product in the cache. They loaded it, or waited for another reader's load.
    cold: int
    #: Times are relative to the start of this run.
    loads: Sequence[DatabaseLoad]

    @property
    def p99(self) -> float:
        return sorted(self.reads)[len(self.reads) * 99 // 100]

    def count(self, by: str) -> int:
        return sum(load.by == by for load in self.loads)

    def counts(self, *by: str) -> list[int]:
        """Count the loads by these processes in each `SLICE`."""
        counts = [0] * round(self.pace.seconds / SLICE)
        for load in self.loads:  # a load after the end belongs to a read before it
            counts[min(int(load.at / SLICE), len(counts) - 1)] += load.by in by
        return counts


@dataclass(frozen=True)
class BusyShop:
    """The service, and the cache through which customers read products."""

    service: ProductService
    database: SlowDatabase
    products: CoherentProductCache

    def run(self, pace: Pace, *, is_warmed: bool) -> Run:
        """Change prices at that pace while customers read."""
        with ThreadPoolExecutor(CUSTOMERS) as customers:
            list(customers.map(self.products.product, IDS))
            began, hits = time.monotonic(), _hits()
            reading = [customers.submit(self._read, seed, began + pace.seconds) for seed in range(CUSTOMERS)]
            for event in range(pace.events):
                time.sleep(max(0.0, began + (event + 0.5) * SLICE - time.monotonic()))
                self.service.import_prices(dict.fromkeys(IDS[event : event + pace.products], FIRST_PRICE + event))
            reads = [seconds for customer in reading for seconds in customer.result()]
        loads = [DatabaseLoad(load.at - began, load.by) for load in self.database.loads(since=began)]
        return Run(pace, is_warmed, reads, cold=len(reads) - (_hits() - hits), loads=loads)

    def _read(self, seed: int, end: float) -> list[float]:
        """Read as one customer does. Return the duration of each read."""
        dice, reads = random.Random(seed), []
        while (began := time.monotonic()) < end:
            self.products.product(dice.choice(IDS))
            reads.append(time.monotonic() - began)
            time.sleep(dice.expovariate(1 / PAUSE))
        return reads

    def wait_until_warmed(self, workers: Workers) -> None:
        """Change a price again and again until the warmer has read it."""
        deadline = time.monotonic() + DEADLINE
        while not any(load.by == WARMER for load in self.database.loads()):
            workers.check()
            if time.monotonic() > deadline:
                raise StaleError(f"the warmer has read nothing in the {duration(DEADLINE)} after a price changed")
            self.service.import_prices({IDS[0]: FIRST_PRICE})
            time.sleep(0.1)


def warming(workers: Workers, addresses: Sequence[Address], broker: str, say: Say) -> list[Run]:
    """Play act 6 on one cluster. Its workers must be consuming."""
    say(
        f"Customers read {len(IDS)} best sellers about {CUSTOMERS / PAUSE:.0f} times a second through LookAsideCache. "
        f"The database takes {duration(LOAD_SECONDS)} to load one. Prices change {' and then '.join(map(str, PACES))}."
    )
    with _open_shop([f"{host}:{port}" for host, port in addresses], broker) as (shop, environment):
        runs = [shop.run(pace, is_warmed=False) for pace in PACES]
        say(f"The same with invalidator warm, which reloads evicted products, at most {RATE} a second ...")
        with workers.warmer(CLUSTER, LOADER, environment):
            shop.wait_until_warmed(workers)
            return runs + [shop.run(pace, is_warmed=True) for pace in PACES]


@contextmanager
def _open_shop(nodes: Sequence[str], broker: str) -> Iterator[tuple[BusyShop, Mapping[str, str]]]:
    """Open the shop. Yield it with the environment variables for the warmer's process."""
    with (
        tempfile.TemporaryDirectory(prefix="invalidator-demo-") as folder,
        BlockingConnection(pika.URLParameters(broker)) as connection,
    ):
        file = Path(folder, "shop.sqlite")
        environment = {DATABASE: str(file), NODES: ",".join(nodes), "INVALIDATOR_WARMER__RATE": str(RATE)}
        database = SlowDatabase(file, by=CUSTOMER)
        with closing(ProductService(file, FanoutBus(connection))) as service, closing(LookAsideCache(nodes)) as cache:
            for id in IDS:
                service.add(id, FIRST_PRICE)
            yield BusyShop(service, database, CoherentProductCache(cache, database)), environment


def _hits() -> int:
    """Return the number of hits in this process, as LookAsideCache counts them."""
    return int(REGISTRY.get_sample_value("invalidator_lookaside_reads_total", {"outcome": "hit"}) or 0)
