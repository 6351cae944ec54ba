"""The remains of a run: in the nodes, in the queues, in the shops' books and in the workers' logs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from invalidator.broker.topology import Topology
from tests.faults.copies import audit
from tests.faults.ledger import Found
from tests.faults.queues import Queues
from tests.faults.staleness import Staleness


@dataclass
class Logs:
    """Those parts of the workers' logs that matter for the account."""

    #: Keys that were parked during the run and drained later, without those that a killed worker could not log.
    parked_keys: int = 0
    drained_keys: int = 0
    errors: list[str] = field(default_factory=list)

    def read(self, log: Path) -> None:
        """Add a log. A line that is not JSON counts as an error, except for a last one that SIGKILL cut off."""
        with log.open() as lines:
            for line in lines:
                if line.endswith("\n"):
                    self._add(line, log.name)

    def _add(self, line: str, name: str) -> None:
        try:
            said = json.loads(line)
        except ValueError:
            said = {"level": "critical", "event": "not JSON"}
        if said["level"] in ("error", "critical"):
            self.errors.append(f"{name}: {line.strip()[:500]}")
        self.parked_keys += sum(said.get("parked", {}).values()) if said["event"] == "evicted" else 0
        self.drained_keys += said["keys"] if said["event"] == "drained" else 0


@dataclass(frozen=True)
class Remains:
    """Everything that is known after all processes have stopped."""

    found: Found
    #: Durations for which products were stale.
    staleness: Staleness
    logs: Logs


async def remains(
    shops: Sequence[Mapping[str, Any]],
    nodes: Mapping[str, str],
    queues: Queues,
    topology: Topology,
    *,
    logs: Logs,
    surprises: Sequence[str],
) -> Remains:
    """Collect the remains and empty the queues. ``shops`` are their books; ``nodes`` maps labels to addresses."""
    # A shop numbers its own products 0, 1, 2 …; the numbers of all products alternate between the shops.
    by_turn = zip_longest(*(shop["confirmed"] for shop in shops), fillvalue=1)
    confirmed = [version for versions in by_turn for version in versions]
    left = len(await queues.take(topology.queue))
    found = Found(
        attempted=sum(shop["attempted"] for shop in shops),
        confirmed=confirmed,
        copies={label: await audit(address, len(confirmed)) for label, address in nodes.items()},
        debts={label: _parked_for(await queues.take(topology.parked(label)), len(confirmed)) for label in nodes},
        dead_letters=await queues.take(topology.dead),
        poison={body.encode() for shop in shops for body in shop["poison"]},
        surprises=[
            *surprises,
            *([f"{left} events are left in the queue: they were not settled"] if left else []),
            *logs.errors,
        ],
    )
    staleness = Staleness()
    for shop in shops:
        staleness.merge(shop["staleness"])
    return Remains(found, staleness, logs)


def _parked_for(debts: Sequence[bytes], products: int) -> set[int]:
    """Return the products that are parked for a node: all of them, if the debt is a flush."""
    parked: set[int] = set()
    for debt in map(json.loads, debts):
        parked |= {int(key.removeprefix("product:")) for key in debt.get("keys", ())}
        parked |= set(range(products)) if debt.get("flush") else set()
    return parked
