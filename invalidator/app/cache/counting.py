"""Metrics of reads by outcome. Counting takes no lock, so it is cheap and survives a fork at any moment."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count

from prometheus_client import REGISTRY, Counter
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from invalidator.app.cache.commands import ReadOutcome
from invalidator.app.cache.fork import begin_anew_after_fork


class Tally(Collector):
    """Counters by outcome. `next` on an iterator is one atomic step."""

    def __init__(self, name: str, help: str, outcomes: Iterable[str]) -> None:
        self._name, self._help = name, help
        self._steps = {outcome: count() for outcome in outcomes}
        self.count: dict[str, Callable[[], object]] = {
            outcome: partial(next, step) for outcome, step in self._steps.items()
        }
        #: A count is read by one more step, so the steps of earlier collections are subtracted.
        self._collections = 0
        self.begin_in_child()
        begin_anew_after_fork(self)

    def begin_in_child(self) -> None:
        self._lock = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            family = CounterMetricFamily(self._name, self._help, labels=["outcome"])
            for outcome, step in self._steps.items():
                family.add_metric([outcome], next(step) - self._collections)
            self._collections += 1
        yield family


def counters(name: str, help: str, outcomes: Iterable[str]) -> dict[str, Callable[[], object]]:
    """Register a metric, and return the function that counts one read for each outcome."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:  # there only the library's own counters add up over processes
        counter = Counter(name, help, ["outcome"])
        return {outcome: counter.labels(outcome).inc for outcome in outcomes}
    tally = Tally(name, help, outcomes)
    REGISTRY.register(tally)
    return tally.count


_COUNTERS = counters(
    "invalidator_lookaside_reads_total",
    "Reads through a LookAsideCache, by outcome",
    [outcome.value for outcome in ReadOutcome],
)
#: Outcome -> the function that counts one read.
COUNT = {outcome: _COUNTERS[outcome.value] for outcome in ReadOutcome}
