"""A reader, a process that reads products through `LookAsideCache` and compares a share of its hits with the truth.

    python -m tests.faults.audited.readers '{"truth": …}'     (the JSON is a `ReaderPart`)

It knows which version was confirmed two seconds before each read, so it counts all reads that were stale by then.
When it reads a line on standard input, it writes its books to a file and ends.
"""

import json
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from invalidator.app import LookAsideCache
from invalidator.app.cache.audit.comparison import AuditOutcome
from invalidator.audit.changes.sampling import Sample
from invalidator.memcached.ring import ring_of
from tests.faults.audited.truth import Truth, product_of

#: Seconds after a confirmation in which the eviction has to come, and between two looks at what is confirmed.
SETTLED, EVERY = 2.0, 0.25
#: Reads between two pauses, and the seconds of one.
BURST, PAUSE = 20, 0.005


@dataclass(frozen=True)
class ReaderPart:
    """The part that a reader plays."""

    seed: int
    truth: str
    file: str
    nodes: Mapping[str, str]
    #: The number of all products, and the share of them that is read.
    products: int
    share: float
    #: The share of its hits that are compared.
    audit: float


class Compared(NamedTuple):
    """A hit that was compared: its product and the number of its node, the outcome, and the time of that."""

    product: int
    node: int
    outcome: str
    at: float


@dataclass
class Books:
    """All that a reader knows. Times are seconds of the monotonic clock, which all processes share."""

    #: Reads in each quarter of a second, by its beginning.
    reads: list[tuple[float, int]] = field(default_factory=list)
    #: Reads that were answered without a load.
    hits: int = 0
    #: The stale reads: product, number of the node, and the time at which it began.
    stale: list[tuple[int, int, float]] = field(default_factory=list)
    compared: list[Compared] = field(default_factory=list)
    #: The account of the cache itself: compared, stale, undecided.
    audited: tuple[int, int, int] = (0, 0, 0)


class Reader:
    def __init__(self, part: ReaderPart) -> None:
        self._part = part
        self._truth = Truth(Path(part.truth))
        self._chance = random.Random(part.seed)
        sample = Sample(part.share)
        self._products = [product for product in range(part.products) if f"product:{product}" in sample]
        self._loads = 0
        self._cache = LookAsideCache(part.nodes, audit=part.audit)
        self._ring = ring_of("rendezvous", list(part.nodes))
        self.books = Books()
        self._write_down()

    def _write_down(self) -> None:
        """Write down the outcome of each hit that is compared, as the cache counts it."""
        assert self._cache._audit
        account = self._cache._audit.account
        count = account.count

        def counted(key: str, outcome: AuditOutcome) -> None:
            count(key, outcome)
            product = product_of(key)
            self.books.compared.append(Compared(product, self._node(product), outcome.value, time.monotonic()))

        account.count = counted  # type: ignore[method-assign]

    def _node(self, product: int) -> int:
        return list(self._part.nodes).index(self._ring.owner(b"product:%d" % product))

    def run(self, stop: threading.Event) -> None:
        """Read until told to stop."""
        past = deque([self._snapshot()])
        while not stop.is_set():
            past.append(self._snapshot())
            while len(past) > 1 and past[1][0] <= time.monotonic() - SETTLED:
                past.popleft()
            self._read_for_a_while(*past[0], stop)
        time.sleep(SETTLED)  # for the last comparisons
        self.books.audited = self._cache.audited[:3]
        self._cache.close()

    def _snapshot(self) -> tuple[float, list[int]]:
        """Return the time, and the versions whose events are confirmed by then."""
        versions = self._truth.confirmed(self._part.products)
        return time.monotonic(), versions

    def _read_for_a_while(self, taken: float, versions: list[int], stop: threading.Event) -> None:
        began, reads = time.monotonic(), 0
        while time.monotonic() - began < EVERY and not stop.wait(PAUSE):
            for _ in range(BURST):
                self._read(taken, versions)
            reads += BURST
        self.books.reads.append((began, reads))

    def _read(self, taken: float, versions: list[int]) -> None:
        product, began, loads = self._chance.choice(self._products), time.monotonic(), self._loads
        version = self._cache.get_or_load(f"product:{product}", lambda: self._load(product), ttl=600)
        self.books.hits += self._loads == loads
        if version < versions[product] and taken <= began - SETTLED:
            self.books.stale.append((product, self._node(product), began))

    def _load(self, product: int) -> int:
        self._loads += 1
        return self._truth.committed(product)


if __name__ == "__main__":
    reader = Reader(ReaderPart(**json.loads(sys.argv[1])))
    stopping = threading.Event()
    reading = threading.Thread(target=reader.run, args=[stopping])
    reading.start()
    sys.stdin.readline()
    stopping.set()
    reading.join()
    Path(reader._part.file).write_text(json.dumps(asdict(reader.books)))
