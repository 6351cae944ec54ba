"""The account at the end of a run, of every event. Pure.

    confirmed = evicted + dead-lettered + parked + lost

An event is *evicted* if no node holds a version of its product older than it (nodes were filled before the event, see
turns.py). It is *parked* if nodes do, and each of them has the product in its parking queue. It is *dead-lettered* if
its body is in the dead-letter queue. Otherwise it is lost.
"""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Found:
    """The remains of a run."""

    #: Attempts to publish, repetitions included.
    attempted: int
    #: Product -> the last version whose event was confirmed. Every version from 2 on is one event.
    confirmed: Sequence[int]
    #: Copies that each node holds: label -> product -> version.
    copies: Mapping[str, Mapping[int, int]]
    #: Products parked for each node: label -> products.
    debts: Mapping[str, Collection[int]]
    #: Bodies in the dead-letter queue.
    dead_letters: Sequence[bytes]
    #: Bodies that belong in it, all confirmed.
    poison: Collection[bytes]
    #: Sentences about evictions that nobody asked for, and about ends and errors of workers that no fault explains.
    surprises: Sequence[str] = ()


@dataclass(frozen=True)
class Ledger:
    """Numbers of events, except for stale keys and surprises."""

    attempted: int
    confirmed: int
    evicted: int
    dead_lettered: int
    parked: int
    duplicated: int
    unexpected: int
    lost: int
    stale_keys: int
    surprises: list[str] = field(default_factory=list)

    @property
    def passes(self) -> bool:
        return self.lost == self.unexpected == self.stale_keys == 0

    def as_json(self) -> str:
        return json.dumps(asdict(self) | {"passes": self.passes}, indent=2) + "\n"


def account(found: Found) -> Ledger:
    bodies = Counter(found.dead_letters)
    good_dead = [body for body in bodies if body not in found.poison]
    lost_poison = [body for body in found.poison if body not in bodies]
    dead_events = {event for body in good_dead if (event := _event(body))}
    lost = parked = stale = 0
    for product, confirmed in enumerate(found.confirmed):
        versions = {label: copies.get(product, confirmed) for label, copies in found.copies.items()}
        held = {label: version for label, version in versions.items() if version < confirmed}
        if not held:
            continue
        stale += 1
        parked_for = {label for label in held if product in found.debts.get(label, ())}
        oldest = min(held.values())
        oldest_unparked = min(
            (version for label, version in held.items() if label not in parked_for), default=confirmed
        )
        dead_lettered = sum((product, version) in dead_events for version in range(oldest_unparked + 1, confirmed + 1))
        lost += confirmed - oldest_unparked - dead_lettered
        parked += oldest_unparked - oldest
    events = sum(found.confirmed) - len(found.confirmed) + len(found.poison)
    surprises = [*found.surprises, *(f"a good event is a dead letter: {body!r}" for body in good_dead)]
    dead = len(found.poison) - len(lost_poison) + len(dead_events)
    lost += len(lost_poison)
    return Ledger(
        attempted=found.attempted,
        confirmed=events,
        evicted=events - dead - parked - lost,
        dead_lettered=dead,
        parked=parked,
        duplicated=found.attempted - events + sum(bodies.values()) - len(bodies),
        unexpected=len(surprises),
        lost=lost,
        stale_keys=stale,
        surprises=surprises,
    )


def table(ledgers: Mapping[str, Ledger]) -> str:
    """Draw ledgers side by side, under their names."""
    rows = [["", *ledgers]]
    counts = [name for name in Ledger.__dataclass_fields__ if name != "surprises"]
    rows += [[name.replace("_", "-"), *(f"{getattr(each, name):,}" for each in ledgers.values())] for name in counts]
    rows.append(["verdict", *("green" if ledger.passes else "RED" for ledger in ledgers.values())])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = row
    cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
    return "  ".join(cells).rstrip()


def _event(body: bytes) -> tuple[int, int] | None:
    """Return (product, version) from the body of a good event."""
    try:
        event = json.loads(body)
        return int(event["id"]), int(event["version"])
    except (ValueError, KeyError, TypeError):
        return None
