"""The account of a run: each verdict of the auditor, and each read, against what the ledger's own shops saw. Pure.

A shop looks at an old copy again and again until it is gone. So it knows of two times: from its first look to the last
but one the copy was there, and after the look that did not find it, it was gone. Between them it cannot tell.

1. A *miss*: the auditor says that all is right, and a shop saw an old copy before its look at the nodes and after it.
2. A *false alarm*: the auditor says that a value was stale for its delay, and the shop saw it gone before that, or had
   committed the change later.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from invalidator.app.cache.audit.comparison import SETTLE_SECONDS, AuditOutcome
from invalidator.audit.verdict import PRESENT, Verdict
from invalidator.bound import Block, bound
from tests.faults.audited.auditor import Judgement
from tests.faults.audited.readers import EVERY, SETTLED, Compared
from tests.faults.audited.turns import Stay

#: Seconds in which a reader's comparison looks at the item and the source; more on a machine that is busy.
COMPARING = 1.0
#: Seconds after the end of a fault until a time without faults begins.
RECOVERY = 5.0


@dataclass(frozen=True)
class Seen:
    """All that was seen in a run. Times are seconds of the monotonic clock, which all processes share."""

    stays: Sequence[Stay]
    judgements: Sequence[Judgement]
    #: The stale values that the auditor itself has counted, by delay.
    counted: Mapping[float, int]
    #: The labels of the nodes, in the order of their numbers.
    nodes: Sequence[str]
    #: Reads in each quarter of a second, by its beginning; the stale ones with product, node and time.
    reads: Sequence[tuple[float, int]] = ()
    stale_reads: Sequence[tuple[int, int, float]] = ()
    compared: Sequence[Compared] = ()
    #: The beginning and the end of each fault.
    faults: Sequence[tuple[float, float]] = ()


class Row(NamedTuple):
    """The changes that were checked after one delay."""

    delay: float
    checked: int = 0
    values: int = 0
    #: Stale as the auditor says, as the shops saw at that very moment, and as both do.
    auditor: int = 0
    ledger: int = 0
    both: int = 0
    #: Looks without a verdict: of these the auditor says nothing.
    undecided: int = 0
    misses: int = 0
    false_alarms: int = 0


class Reads(NamedTuple):
    """Reads, those that were stale two seconds after the confirmation, and the rate of these that is not exceeded."""

    all: int
    stale: int
    bound: float


@dataclass(frozen=True)
class Account:
    rows: list[Row]
    reads: Reads
    #: Those of times without a fault.
    quiet_reads: Reads
    #: Hits that were compared, and those that were stale.
    compared: int
    found: int
    #: Sentences about what does not agree.
    disagreements: list[str]

    @property
    def agrees(self) -> bool:
        return not self.disagreements

    def as_json(self) -> str:
        named: dict[str, Any] = {"rows": [row._asdict() for row in self.rows]}
        named |= {"reads": self.reads._asdict(), "quiet_reads": self.quiet_reads._asdict()}
        return json.dumps(asdict(self) | named | {"agrees": self.agrees}, indent=2) + "\n"


class Stays:
    """The stays of old copies, by product and node."""

    def __init__(self, stays: Iterable[Stay]) -> None:
        self._stays: defaultdict[tuple[int, int], list[Stay]] = defaultdict(list)
        for stay in stays:
            self._stays[stay.product, stay.node].append(stay)

    def was_there(self, product: int, node: int, since: float, until: float) -> bool:
        """Return True if an old copy was certainly there at both times, and so between them."""
        return any(
            stay.first is not None and stay.last is not None and stay.first <= since and until <= stay.last
            for stay in self._stays[product, node]
        )

    def may_have_been_there(self, product: int, node: int, since: float, until: float) -> bool:
        """Return True if one copy, old at the first of these times, may have been there up to the second."""
        return any(
            stay.committed <= since and (stay.gone is None or until <= stay.gone) for stay in self._stays[product, node]
        )


def account(seen: Seen) -> Account:
    stays = Stays(seen.stays)
    rows = [_row(delay, seen, stays) for delay in sorted({one.delay for one in seen.judgements})]
    return Account(
        rows=rows,
        reads=_reads(seen.reads, [at for *_, at in seen.stale_reads]),
        quiet_reads=_reads(
            [each for each in seen.reads if _is_quiet(each[0], seen.faults)],
            [at for *_, at in seen.stale_reads if _is_quiet(at, seen.faults)],
        ),
        compared=sum(AuditOutcome(one.outcome).is_checked for one in seen.compared),
        found=sum(one.outcome == AuditOutcome.STALE.value for one in seen.compared),
        disagreements=[*_of_rows(rows, seen.counted), *_of_reads(seen, stays)],
    )


def _of_rows(rows: Sequence[Row], counted: Mapping[float, int]) -> list[str]:
    """Return what does not agree between the shops and the auditor, and between its verdicts and its own number."""
    contradicted = [row for row in rows if row.misses or row.false_alarms]
    miscounted = [row for row in rows if counted.get(row.delay, 0) != row.auditor]
    return [
        *(f"after {row.delay:g} s: {row.misses} misses, {row.false_alarms} false alarms" for row in contradicted),
        *(f"after {row.delay:g} s: {row.auditor} verdicts, {counted.get(row.delay, 0)} counted" for row in miscounted),
    ]


def _of_reads(seen: Seen, stays: Stays) -> list[str]:
    """Return the reads and the compared hits that the shops contradict."""
    return [
        *(f"a hit: {one}" for one in seen.compared if _is_disputed(one, stays)),
        *(
            f"a stale read of product {product} on {seen.nodes[node]} that no shop saw"
            for product, node, at in seen.stale_reads
            if not stays.may_have_been_there(product, node, at - SETTLED, at)
        ),
    ]


def _reads(reads: Sequence[tuple[float, int]], stale: Sequence[float]) -> Reads:
    minutes, failed = Counter[int](), Counter(int(at // 60) for at in stale)
    for at, count in reads:
        minutes[int(at // 60)] += count
    found = bound(Block(count, failed[minute]) for minute, count in minutes.items()) if minutes else None
    return Reads(minutes.total(), len(stale), found.checks if found else 1.0)


def _is_quiet(at: float, faults: Sequence[tuple[float, float]]) -> bool:
    """Return True if there was no fault at this time, nor just before."""
    return not any(began - EVERY <= at <= ended + RECOVERY for began, ended in faults)


def _row(delay: float, seen: Seen, stays: Stays) -> Row:
    looks = [one for one in seen.judgements if one.delay == delay]
    checked = [one for one in looks if Verdict(one.verdict).is_checked]
    auditor = [one for one in checked if one.stale]
    ledger = [one for one in checked if _nodes_with_an_old_copy(one, seen.nodes, stays)]
    return Row(
        delay,
        checked=len(checked),
        values=sum(Verdict(one.verdict) in PRESENT for one in checked),
        auditor=len(auditor),
        ledger=len(ledger),
        both=sum(bool(one.stale) for one in ledger),
        undecided=len(looks) - len(checked),
        misses=sum(not one.stale for one in ledger),
        false_alarms=sum(_is_false(one, seen.nodes, stays) for one in auditor),
    )


def _nodes_with_an_old_copy(one: Judgement, nodes: Sequence[str], stays: Stays) -> list[int]:
    return [node for node in range(len(nodes)) if stays.was_there(one.product, node, one.asked, one.answered)]


def _is_false(one: Judgement, nodes: Sequence[str], stays: Stays) -> bool:
    return not all(
        stays.may_have_been_there(one.product, nodes.index(label), one.asked - one.delay, one.asked)
        for label in one.stale
    )


def _is_disputed(one: Compared, stays: Stays) -> bool:
    """Return True if the shops contradict the outcome of a hit that was compared."""
    match AuditOutcome(one.outcome):
        case AuditOutcome.STALE:
            return not stays.may_have_been_there(one.product, one.node, one.at - SETTLE_SECONDS, one.at - COMPARING)
        case AuditOutcome.FRESH:
            return stays.was_there(one.product, one.node, one.at - COMPARING, one.at)
    return False


def table(found: Account) -> str:
    """Draw the account: a line for each delay, and the reads."""
    rows = [list(HEADINGS), *([f"{row.delay:g} s", *(f"{count:,}" for count in row[1:])] for row in found.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines += [f"reads {_in_words(found.reads)}", f"reads in times without a fault {_in_words(found.quiet_reads)}"]
    lines.append(f"hits compared {found.compared:,}, stale {found.found:,}")
    return "\n".join([*lines, *(f"does not agree: {each}" for each in found.disagreements[:20])])


HEADINGS = "after", "checked", "values", "auditor", "ledger", "both", "undecided", "misses", "false-alarms"


def _in_words(reads: Reads) -> str:
    return f"{reads.all:,}, stale after {SETTLED:g} s {reads.stale:,}: at most {reads.bound:.1e} of them"
