"""The metric of reads by outcome. Counting takes no lock, so it is cheap and survives a fork at any moment."""

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count

from prometheus_client import REGISTRY, Counter
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from invalidator.app.cache.commands import ReadOutcome
from invalidator.app.cache.fork import begin_anew_after_fork

NAME, HELP = "invalidator_lookaside_reads_total", "Reads through a LookAsideCache, by outcome"


class Tally(Collector):
    """Counters by outcome. `next` on an iterator is one atomic step."""

    def __init__(self) -> None:
        self._steps = {outcome: count() for outcome in ReadOutcome}
        self.count: dict[ReadOutcome, Callable[[], object]] = {
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
            family = CounterMetricFamily(NAME, HELP, labels=["outcome"])
            for outcome, step in self._steps.items():
                family.add_metric([outcome.value], next(step) - self._collections)
            self._collections += 1
        yield family


def _counts() -> dict[ReadOutcome, Callable[[], object]]:
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:  # there only the library's own counters add up over processes
        counter = Counter(NAME, HELP, ["outcome"])
        return {outcome: counter.labels(outcome.value).inc for outcome in ReadOutcome}
    tally = Tally()
    REGISTRY.register(tally)
    return tally.count


#: Outcome -> the function that counts one read.
COUNT = _counts()
