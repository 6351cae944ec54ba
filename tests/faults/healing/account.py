"""The account of the healing trials: each trial against its claims. Pure.

    confirmed while nothing stored it = missed        missed <= healed        0 stale, 0 early, 0 flushes

A key is *stale* if its event was confirmed and a node still holds it in the end. It is *early* if a node still held it
when the gap that it fell into was said to be healed. It is *named* if it is neither, because status says that the time
of its event is not covered: a broker that was killed comes back before its log.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median

#: Seconds within which a gap is healed, once the queue is back.
WITHIN = 5.0
#: The words of `invalidator status` for a gap that was healed.
HEALED = re.compile(r"since (\S+Z) until (\S+Z): .+; healed: (\d+) events")
#: Its words for a time in which the log may have missed events.
NAMED = re.compile(r"not covered since (\S+Z) until (\S+Z), when the broker came back before its log")
#: The sums in the table.
COLUMNS = ("missed", "read", "early", "stale", "named", "flushes")


@dataclass(frozen=True)
class Seen:
    """All that was seen in a trial."""

    kind: str
    number: int
    #: Events that the broker confirmed.
    confirmed: int
    #: Events that no queue of the cluster stored, or that were thrown away.
    missed: int
    #: Seconds from the return of the queue until the gap was healed or not covered; None if it never was.
    waited: float | None
    #: Events that were read from the log until then.
    read: int
    early: int
    stale: int
    named: int
    #: Commands `flush_all` that the nodes received.
    flushes: int
    #: Events in the dead-letter queue.
    dead: int
    #: Copies deleted on each node of the other cluster, and events that its workers have settled.
    others: Sequence[int]
    #: Times that the broker may have delivered an event again to the other cluster: its publisher, or a crash.
    repeated: bool
    #: True if the broker was killed, so that the log may have a hole.
    may_have_a_hole: bool = False
    #: Gaps that `invalidator status` shows: healed, still open, and those of the other cluster.
    healed: Sequence[str] = ()
    open: Sequence[str] = ()
    other_gaps: Sequence[str] = ()
    #: Sentences about ends of workers that nobody asked for.
    surprises: Sequence[str] = ()
    #: True if the log must say that it does not reach back far enough.
    is_older_than_the_log: bool = False


@dataclass(frozen=True)
class Row:
    """One trial and its faults; green without any."""

    seen: Seen
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        seen = self.seen
        waited = "never" if seen.waited is None else f"{seen.waited:.1f} s"
        others = "/".join(f"{deletes:,}" for deletes in seen.others)
        return (
            f"{seen.kind:<11} {seen.number:>2}  confirmed {seen.confirmed:>6,}  missed {seen.missed:>5,}  "
            f"read {seen.read:>6,}  after {waited:>6}  early {seen.early}  stale {seen.stale}  named {seen.named}  "
            f"flushes {seen.flushes}  dead letters {seen.dead:,}  the other cluster {others}  "
            + ("RED: " + "; ".join(self.faults) if self.faults else "green")
        )


def is_named(at: float, told: Iterable[str]) -> bool:
    """Return True if status says that the log may have missed an event of this time, in seconds since 1970."""
    windows = [
        [datetime.fromisoformat(time).timestamp() for time in found.groups()]
        for text in told
        if (found := NAMED.search(text))
    ]
    return any(since <= at <= until + 1 for since, until in windows)


def judged(seen: Seen) -> Row:
    return Row(seen, [*_faults(seen), *(_not_covered if seen.is_older_than_the_log else _healed)(seen)])


def _faults(seen: Seen) -> Iterator[str]:
    if not seen.missed:
        yield "no event was missed, so the trial proves nothing"
    if seen.waited is None or seen.waited > WITHIN:
        yield f"not over within {WITHIN:.0f} s"
    if seen.flushes:
        yield f"{seen.flushes} flushes"
    if any(deletes != seen.confirmed and not (seen.repeated and deletes > seen.confirmed) for deletes in seen.others):
        yield "the other cluster's deletes are not its events"
    if seen.other_gaps:
        yield f"the other cluster has gaps: {seen.other_gaps}"
    yield from seen.surprises


def _healed(seen: Seen) -> Iterator[str]:
    if seen.early:
        yield f"{seen.early} keys were stale when it was healed"
    if seen.stale:
        yield f"{seen.stale} stale keys"
    named = [text for text in seen.open if seen.may_have_a_hole and NAMED.search(text)]
    if other := [text for text in seen.open if text not in named]:
        yield f"open gaps: {other}"
    told = [HEALED.search(text) for text in seen.healed] + [NAMED.search(text) for text in named]
    if not told or not all(found and found[1] <= found[2] for found in told):
        yield f"status does not say from when to when it was healed: {seen.healed}"
    if seen.read < seen.missed:
        yield f"only {seen.read} events were read"


def _not_covered(seen: Seen) -> Iterator[str]:
    if seen.healed or not any("not covered before" in text for text in seen.open):
        yield f'status does not say "not covered": {seen.healed or seen.open}'


def table(rows: Iterable[Row]) -> str:
    """Draw one line for each kind."""
    by_kind: dict[str, list[Row]] = {}
    for row in rows:
        by_kind.setdefault(row.seen.kind, []).append(row)
    lines = [
        "kind         green  median after  longest    missed      read  repeated reads  early  stale  named  flushes",
        *(_line(kind, of) for kind, of in by_kind.items()),
    ]
    return "\n".join(lines)


def _line(kind: str, rows: Sequence[Row]) -> str:
    seen = [row.seen for row in rows]
    waited = [each.waited for each in seen if each.waited is not None] or [0.0]
    green = f"{sum(not row.faults for row in rows)}/{len(rows)}"
    again = sum(max(0, len(each.healed) - 1) for each in seen)
    sums = {name: sum(getattr(each, name) for each in seen) for name in COLUMNS}
    return (
        f"{kind:<11} {green:>6}  {median(waited):>10.1f} s  {max(waited):>5.1f} s  {sums['missed']:>8,}  "
        f"{sums['read']:>8,}  {again:>14,}  {sums['early']:>5,}  {sums['stale']:>5,}  {sums['named']:>5,}  "
        f"{sums['flushes']:>7,}"
    )
