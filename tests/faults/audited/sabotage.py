"""Faults that are built into the auditor, to prove that the account turns red."""

from collections.abc import Callable

from invalidator.audit import sandwich
from invalidator.audit.sandwich import Answer
from invalidator.audit.tracked import Tracked
from invalidator.audit.tracker import Tracker
from invalidator.audit.truth import Truth
from invalidator.audit.verdict import Verdict


def see_nothing() -> None:
    """Take each value for the source's."""
    Truth.equals = lambda self, item: True  # type: ignore[method-assign]


def cry_wolf() -> None:
    """Call each value stale, and wait for no further change."""
    judge = sandwich.judge

    def judged(before: Answer, truth: Truth | None, after: Answer, first: Truth) -> Verdict:
        found = judge(before, truth, after, first)
        return Verdict.LATE if found is Verdict.FRESH else found

    async def stands_still(self: Tracker, tracked: Tracked) -> bool:
        return True

    sandwich.judge = judged
    Tracker._stands_still = stands_still  # type: ignore[method-assign]


KINDS: dict[str, Callable[[], None]] = {"see-nothing": see_nothing, "cry-wolf": cry_wolf}
