"""The summary of an account: for each delay the counts, the coverage and the bound."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from msgspec import Struct

from invalidator.audit.account import Minute, SavedAccount
from invalidator.audit.verdict import PRESENT, STALE, Verdict
from invalidator.bound import Block, Bound, bound, nines

DAY, WEEK = 86_400, 7 * 86_400


class Line(Struct, frozen=True):
    """The changes that were checked after one delay."""

    #: Seconds after the change.
    delay: float
    #: Changes that were checked, those of them whose key had a value, and those whose value was stale.
    checked: int
    present: int
    stale: int
    #: The share of due checks that were made, and of the time in which changes were received.
    coverage: float
    #: The rates that are not exceeded: per change, and per change whose key had a value.
    changes: Bound
    values: Bound

    def __str__(self) -> str:
        """Return the line in words; never more nines than the sample carries."""
        return (
            f"at least {nines(self.changes.checks)} nines within {self.delay:g} s: {self.checked:,} checked, "
            f"{self.present:,} with a value, {self.stale:,} stale, coverage {percent(self.coverage)}"
        )


def percent(share: float) -> str:
    """Return a share, rounded down, so that nothing short of everything is 100 %."""
    return f"{int(share * 1000) / 10:.1f} %"


def summary_of(path: Path, *, now: float, seconds: float) -> list[Line]:
    """Return a line for each delay that was checked in the last seconds; raise `AccountError`."""
    with closing(SavedAccount(path)) as account:
        began = account.began()
        if began is None:
            return []
        since = max(began, now - seconds)
        listened = min(1.0, account.listened(since) / max(now - since, 1.0))
        return summarized(account.minutes(since), listened=listened)


def summarized(minutes: Sequence[Minute], *, listened: float) -> list[Line]:
    """Return a line for each delay. Pure."""
    return [
        _line(delay, [one.counts for one in minutes if one.delay == delay], listened)
        for delay in sorted({one.delay for one in minutes})
    ]


def _line(delay: float, minutes: Sequence[dict[Verdict, int]], listened: float) -> Line:
    checked = [sum(count for verdict, count in one.items() if verdict.is_checked) for one in minutes]
    present, stale = ([sum(one.get(verdict, 0) for verdict in group) for one in minutes] for group in (PRESENT, STALE))
    due = sum(sum(one.values()) for one in minutes)
    return Line(
        delay,
        sum(checked),
        sum(present),
        sum(stale),
        listened * sum(checked) / due,
        bound(map(Block, checked, stale)),
        bound(map(Block, present, stale)),
    )
