"""What fails when: a schedule from a seed, the same for the same seed and number of events. Pure.

Faults begin when so many events are confirmed, not after so many seconds: then they meet the same events on a slow
machine. They last seconds, for deadlines and heartbeats are seconds.
"""

import math
import random
from dataclasses import dataclass
from enum import StrEnum

#: Events of a full run, and the seconds that publishing them is meant to take.
FULL_EVENTS = 1_000_000
FULL_SECONDS = 800
#: A full run's freezes and partitions last so many seconds, shorter ones less, but never less than the second number:
#: a node's deadline is 1 s.
FULL_FREEZE, SHORTEST_FREEZE = 30.0, 3.0
#: From this many events up a run has all the faults.
ALL_FAULTS_EVENTS = 100_000
#: The share of the run in which faults begin.
FIRST, LAST = 0.05, 0.93


class Kind(StrEnum):
    """What can happen. Each value reads as a line of the schedule."""

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


#: How often each happens in a full run.
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
#: How often each happens at least.
FEWEST = {Kind.KILL_WORKER: 2, Kind.FREEZE_NODE: 2, Kind.SHIFT: 3}
ON_A_NODE = frozenset(FULL) - {Kind.KILL_WORKER, Kind.KILL_WORKERS, Kind.RESTART_BROKER}
#: Those that go on for a time.
LASTING = frozenset({Kind.FREEZE_NODE, Kind.PARTITION_NODE})


@dataclass(frozen=True)
class Size:
    """What follows from the number of events."""

    events: int
    #: Seconds that publishing is meant to take; faults that stop it come on top.
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
        # While a node is frozen no product changes twice (see turns.py), and events must go on all the while.
        products = math.ceil(events / seconds * (freeze + 15) * 1.2)
        return cls(events, seconds, freeze, max(100, min(products, events // 2)))


@dataclass(frozen=True)
class Fault:
    """One thing that happens."""

    kind: Kind
    #: Confirmed events after which it begins.
    after: int
    #: Number of the worker or node that it happens to.
    target: int = 0
    #: Seconds that it lasts, where it does.
    seconds: float = 0.0
    #: For a partition: whether packets vanish (the client waits) or connections are refused.
    vanish: bool = True
    #: For what is done to requests and replies: how many in a row.
    times: int = 1


def schedule(seed: int, events: int, *, nodes: int, workers: int) -> list[Fault]:
    """All faults of a run, in the order in which they begin."""
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
                    target=(first + number) % targets,  # each in turn
                    seconds=size.freeze if kind in LASTING else 0.0,
                    vanish=number % 3 != 1,
                    times=chance.choice((1, 1, 2, 3)),
                )
            )
    return sorted(faults, key=lambda fault: fault.after)
