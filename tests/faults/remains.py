"""What a run leaves behind: in the nodes, in the queues, in the shops' books and in the workers' logs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from invalidator.broker.topology import Topology
from tests.faults.copies import audit
from tests.faults.ledger import Found
from tests.faults.queues import Queues
from tests.faults.staleness import Staleness


@dataclass(frozen=True)
class Remains:
    """All that is known when everybody has stopped."""

    found: Found
    #: How long products were stale.
    staleness: Staleness
    #: Keys that were parked on the way, and paid later, as the workers that lived to log it count them.
    parked_keys: int
    drained_keys: int


async def remains(
    shops: Sequence[Mapping[str, Any]],
    nodes: Mapping[str, str],
    queues: Queues,
    topology: Topology,
    *,
    logs: Sequence[Path],
    surprises: Sequence[str],
) -> Remains:
    """Collect it; the queues are empty afterwards. ``shops`` are what they wrote, ``nodes`` addresses by label."""
    # A shop numbers its products 0, 1, 2 …; together they are numbered in turn.
    by_turn = zip_longest(*(shop["confirmed"] for shop in shops), fillvalue=1)
    confirmed = [version for versions in by_turn for version in versions]
    lines = [line for log in logs for line in _lines(log)]
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
            *(str(line)[:500] for line in lines if line["level"] in ("error", "critical")),
        ],
    )
    staleness = Staleness()
    for shop in shops:
        staleness.merge(shop["staleness"])
    return Remains(
        found,
        staleness,
        parked_keys=sum(sum(line.get("parked", {}).values()) for line in lines if line["event"] == "batch"),
        drained_keys=sum(line["keys"] for line in lines if line["event"] == "drained"),
    )


def _lines(log: Path) -> list[dict[str, Any]]:
    """A worker's log lines; SIGKILL may have cut off the last one. What is not JSON counts as an error."""
    lines = []
    for line in log.read_text().split("\n")[:-1]:
        try:
            lines.append(json.loads(line) | {"log": log.name})
        except ValueError:
            lines.append({"level": "critical", "event": line, "log": log.name})
    return lines


def _owed(debts: Sequence[bytes], products: int) -> set[int]:
    """The products that a node is owed; all of them, if the debt is to flush it."""
    owed: set[int] = set()
    for debt in map(json.loads, debts):
        owed |= {int(key.removeprefix("product:")) for key in debt.get("keys", ())}
        owed |= set(range(products)) if debt.get("flush") else set()
    return owed
