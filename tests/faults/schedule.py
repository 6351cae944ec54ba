"""The schedule of faults, determined by a seed and the number of events. Pure.

A fault begins after a number of confirmed events, not of seconds, so that it meets the same events on a slow machine.
It lasts for seconds, as deadlines and heartbeats do.
"""

import math
import random
from dataclasses import dataclass
from enum import StrEnum

#: Events of a full run, and the seconds in which they should be published.
FULL_EVENTS = 1_000_000
FULL_SECONDS = 800
#: Seconds that a freeze or partition lasts: in a full run, and at least in a shorter one. A node's deadline is 1 s.
FULL_FREEZE, SHORTEST_FREEZE = 30.0, 3.0
#: Number of events from which on a run has all the faults.
ALL_FAULTS_EVENTS = 100_000
#: The share of the run in which faults begin.
FIRST, LAST = 0.05, 0.93


class Kind(StrEnum):
    """Kinds of faults. Each value reads as a line of the schedule."""

    KILL_WORKER = "kill a worker"
    KILL_WORKERS = "kill all workers"
    RESTART_BROKER = "kill the broker"
    FREEZE_NODE = "freeze a node"
    RESTART_NODE = "kill a node"
    PARTITION_NODE = "partition a node"
    RESET = "reset connections"
    CUT_REPLY = "cut a reply, then reset"
    TEAR_REQUEST = "tear a request, then reset"
    NOISE = "noise before a reply"
    SHIFT = "lose a request, repeat the reply before it"


#: Number of times that each happens in a full run.
FULL = {
    Kind.KILL_WORKER: 18,
    Kind.KILL_WORKERS: 4,
    Kind.RESTART_BROKER: 5,
    Kind.FREEZE_NODE: 5,
    Kind.RESTART_NODE: 5,
    Kind.PARTITION_NODE: 3,
    Kind.RESET: 10,
    Kind.CUT_REPLY: 10,
    Kind.TEAR_REQUEST: 10,
    Kind.NOISE: 10,
    Kind.SHIFT: 10,
}
#: Number of times that each happens at least.
FEWEST = {Kind.KILL_WORKER: 2, Kind.FREEZE_NODE: 2, Kind.SHIFT: 3}
ON_A_NODE = frozenset(FULL) - {Kind.KILL_WORKER, Kind.KILL_WORKERS, Kind.RESTART_BROKER}
#: Faults that last for a time.
LASTING = frozenset({Kind.FREEZE_NODE, Kind.PARTITION_NODE})


@dataclass(frozen=True)
class Size:
    """The size of a run, which follows from the number of events."""

    events: int
    #: Seconds in which all events should be published, without the faults that stop publishing.
    seconds: float
    #: Seconds of a freeze or partition.
    freeze: float
    products: int

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds

    @classmethod
    def of(cls, events: int) -> "Size":
        # A tenth of the events in a fifth of the time: short runs need room for their faults.
        seconds = FULL_SECONDS * (events / FULL_EVENTS) ** 0.7
        freeze = max(SHORTEST_FREEZE, min(FULL_FREEZE, FULL_FREEZE * seconds / FULL_SECONDS))
        # While a node is frozen, no product changes twice (see turns.py), and yet events must go on.
        products = math.ceil(events / seconds * (freeze + 15) * 1.2)
        return cls(events, seconds, freeze, max(100, min(products, events // 2)))


@dataclass(frozen=True)
class Fault:
    """One fault in a schedule."""

    kind: Kind
    #: Number of confirmed events after which it begins.
    after: int
    #: Number of the worker or node that it hits.
    target: int = 0
    #: Seconds that it lasts, if it has a duration.
    seconds: float = 0.0
    #: True if packets vanish in a partition, so that the client waits; False if connections are refused.
    vanish: bool = True
    #: Number of requests or replies in a row that are hit.
    times: int = 1


def schedule(seed: int, events: int, *, nodes: int, workers: int) -> list[Fault]:
    """Return all faults of a run, in the order in which they begin."""
    chance = random.Random(seed)
    size = Size.of(events)
    faults = []
    for kind, full in FULL.items():
        count = max(FEWEST.get(kind, 1), math.ceil(full * min(1.0, events / ALL_FAULTS_EVENTS)))
        targets = nodes if kind in ON_A_NODE else workers
        first = chance.randrange(targets)
        for number in range(count):
            share = (number + chance.random()) / count
            faults.append(
                Fault(
                    kind,
                    after=round(events * (FIRST + (LAST - FIRST) * share)),
                    target=(first + number) % targets,  # each worker or node in turn
                    seconds=size.freeze if kind in LASTING else 0.0,
                    vanish=number % 3 != 1,
                    times=chance.choice((1, 1, 2, 3)),
                )
            )
    return sorted(faults, key=lambda fault: fault.after)
