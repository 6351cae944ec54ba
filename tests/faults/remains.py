"""What a run leaves behind: in the nodes, in the queues, in the shops' books and in the workers' logs."""

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
    """What the workers of a run have logged, as far as it matters here."""

    #: Keys that were parked on the way, and paid later; what a killed worker did not live to log is missing.
    parked_keys: int = 0
    drained_keys: int = 0
    errors: list[str] = field(default_factory=list)

    def read(self, log: Path) -> None:
        """Add a log; what is not JSON counts as an error, but for a last line that SIGKILL cut off."""
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
    """All that is known when everybody has stopped."""

    found: Found
    #: How long products were stale.
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
    """Collect it; the queues are empty afterwards. ``shops`` are what they wrote, ``nodes`` addresses by label."""
    # A shop numbers its products 0, 1, 2 …; together they are numbered in turn.
    by_turn = zip_longest(*(shop["confirmed"] for shop in shops), fillvalue=1)
    confirmed = [version for versions in by_turn for version in versions]
    left = len(await queues.take(topology.queue))
    found = Found(
        attempted=sum(shop["attempted"] for shop in shops),
        confirmed=confirmed,
        copies={label: await audit(address, len(confirmed)) for label, address in nodes.items()},
        debts={label: _owed(await queues.take(topology.parked(label)), len(confirmed)) for label in nodes},
        letters=await queues.take(topology.dead),
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


def _owed(debts: Sequence[bytes], products: int) -> set[int]:
    """The products that a node is owed; all of them, if the debt is to flush it."""
    owed: set[int] = set()
    for debt in map(json.loads, debts):
        owed |= {int(key.removeprefix("product:")) for key in debt.get("keys", ())}
        owed |= set(range(products)) if debt.get("flush") else set()
    return owed
