"""The account at the end of a run: what became of every event. Pure.

    confirmed = evicted + dead-lettered + parked + lost

An event is *evicted* if no node holds a version of its product older than it (what nodes hold was filled before the
event, see turns.py). It is *parked* if nodes do, and each of them is owed the product in its parking queue. It is
*dead-lettered* if its body is in the dead-letter queue. Otherwise it is lost.
"""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Found:
    """What a run left behind."""

    #: Publishes tried, repeats included.
    attempted: int
    #: The last version whose event was confirmed, by product; every version from 2 on is one event.
    confirmed: Sequence[int]
    #: What each node holds: label -> product -> version.
    copies: Mapping[str, Mapping[int, int]]
    #: Products that each node is owed: label -> products.
    debts: Mapping[str, Collection[int]]
    #: Bodies in the dead-letter queue.
    letters: Sequence[bytes]
    #: Bodies that belong there, all confirmed.
    poison: Collection[bytes]
    #: Evictions that nobody asked for, ends and errors of workers that no fault explains: a sentence each.
    surprises: Sequence[str] = ()


@dataclass(frozen=True)
class Ledger:
    """Events, but for stale keys and surprises."""

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
    letters = Counter(found.letters)
    good_letters = [letter for letter in letters if letter not in found.poison]
    lost_poison = [body for body in found.poison if body not in letters]
    dead_events = {event for letter in good_letters if (event := _event(letter))}
    lost = parked = stale = 0
    for product, confirmed in enumerate(found.confirmed):
        versions = {label: copies.get(product, confirmed) for label, copies in found.copies.items()}
        held = {label: version for label, version in versions.items() if version < confirmed}
        if not held:
            continue
        stale += 1
        owed = {label for label in held if product in found.debts.get(label, ())}
        oldest = min(held.values())
        oldest_unowed = min((version for label, version in held.items() if label not in owed), default=confirmed)
        buried = sum((product, version) in dead_events for version in range(oldest_unowed + 1, confirmed + 1))
        lost += confirmed - oldest_unowed - buried
        parked += oldest_unowed - oldest
    events = sum(found.confirmed) - len(found.confirmed) + len(found.poison)
    surprises = [*found.surprises, *(f"a good event is a dead letter: {letter!r}" for letter in good_letters)]
    dead = len(found.poison) - len(lost_poison) + len(dead_events)
    lost += len(lost_poison)
    return Ledger(
        attempted=found.attempted,
        confirmed=events,
        evicted=events - dead - parked - lost,
        dead_lettered=dead,
        parked=parked,
        duplicated=found.attempted - events + sum(letters.values()) - len(letters),
        unexpected=len(surprises),
        lost=lost,
        stale_keys=stale,
        surprises=surprises,
    )


def table(ledgers: Mapping[str, Ledger]) -> str:
    """The ledgers side by side, by what they are called."""
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
    """(product, version) of a good event's body."""
    try:
        event = json.loads(body)
        return int(event["id"]), int(event["version"])
    except (ValueError, KeyError, TypeError):
        return None
