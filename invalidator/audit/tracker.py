"""Tracking changed keys: each is checked at its delays, until it changes again.

    changed ─> first read of the source ─> 0.1 s: sandwich ─> 1 s: sandwich ─> 10 s ─> 60 s
       └── changed again: the change before is superseded, and the key begins anew (once a second at most)

Rules of this file:

1. The delays count from the end of the first read, so a value that is stale at 1 s was stale for that whole second.
2. A change that was superseded counts no further: its successor stands for it.
3. A stale value counts only if the key does not change within the `GRACE` after it, and the feed is not lost. This is
   the fourth guard of the sandwich: the event of a change comes after the change. Where the changes come from the
   database's log, the log is then read up to this moment, so that it does not matter how late they come.
4. With the feed lost, changes may be missed, so checks that are still to come are counted as not made. The same holds
   for a source that does not answer and for a limit that is reached: coverage falls, and nothing counts as right.
5. Only after the last delay is a stale value permanent, and only then is it removed.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from invalidator.audit import sandwich
from invalidator.audit.account import Finding
from invalidator.audit.budget import Budget
from invalidator.audit.sandwich import Sighting
from invalidator.audit.tracked import Tracked
from invalidator.audit.truth import Truth
from invalidator.audit.verdict import Reason, Verdict, gravest

DELAYS = (0.1, 1.0, 10.0, 60.0)
#: Seconds for which a key must not change after a stale value was seen.
GRACE = 1.0
#: Seconds between two beginnings of one key.
PAUSE = 1.0
#: Seconds between two tries to remove a value while others are removed, as many as the limit allows.
REPAIR_PAUSE = 0.1

#: Reads the truth about one key; None if the source does not answer.
Read = Callable[[], Awaitable[Truth | None]]


class Nodes(sandwich.Nodes, Protocol):
    """The nodes of a cluster."""

    @property
    def labels(self) -> Sequence[str]: ...
    async def remove(self, key: str, label: str, seen: Sighting) -> bool:
        """Remove an item unless it was replaced meanwhile; return True if it was removed."""


class Book(Protocol):
    """The results, as they come."""

    def count(self, delay: float, verdict: Verdict) -> None: ...
    def found(self, finding: Finding) -> None: ...


#: Takes up every change of this moment; returns False if that cannot be said.
CatchUp = Callable[[], Awaitable[bool]]
#: Returns the reason why a stale value is on the node with this label.
Explain = Callable[[str, str, Tracked], Awaitable[Reason]]


async def _wait_only() -> bool:
    """Stand for a feed of which nobody knows how far it is behind."""
    return True


class Tracker:
    """The keys that are being checked."""

    def __init__(  # noqa: PLR0913  each is a part of its own
        self,
        nodes: Nodes,
        read_of: Callable[[str], Read | None],
        explain: Explain,
        book: Book,
        *,
        reads: Budget,
        commands: Budget,
        repairs: Budget | None,
        delays: Sequence[float] = DELAYS,
        catch_up: CatchUp = _wait_only,
    ) -> None:
        """Take the parts.

        `read_of` returns None for a key that is not audited. Without `repairs` nothing is removed. `catch_up` is called
        before a value counts as stale.
        """
        self._nodes = nodes
        self._read_of = read_of
        self._explain = explain
        self._book = book
        self._reads = reads
        self._commands = commands
        self._repairs = repairs
        self._delays = tuple(delays)
        self._catch_up = catch_up
        self._tracked: dict[str, Tracked] = {}
        self._tasks: asyncio.TaskGroup

    def __len__(self) -> int:
        """Return the number of keys that are being checked."""
        return len(self._tracked)

    async def run(self) -> None:
        """Check what is tracked, until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            await asyncio.Event().wait()

    def changed(self, key: str) -> None:
        """Track a change of this key."""
        now = asyncio.get_running_loop().time()
        if tracked := self._tracked.get(key):
            tracked.changed(now)
        else:
            self._begin(key, Tracked(is_change=True, at=now))

    def lost(self) -> None:
        """End all checks: the feed was lost. What comes after it begins anew."""
        tracked, self._tracked = self._tracked, {}
        for one in tracked.values():
            one.lost()

    async def inspect(self, key: str) -> None:
        """Track a key without an event, if its value is stale now. It counts in no number."""
        read = self._read_of(key)
        if key in self._tracked or not read:
            return
        first = await self._read(read)
        if first and self._commands.claim(2 * len(self._nodes.labels)):
            found = await sandwich.sandwich(self._nodes, key, lambda: self._read(read), first)
            if any(one.verdict.is_stale for one in found.values()) and key not in self._tracked:
                self._begin(key, Tracked(is_change=False, at=asyncio.get_running_loop().time()))

    def _begin(self, key: str, tracked: Tracked) -> None:
        self._tracked[key] = tracked
        self._tasks.create_task(self._track(key, tracked))

    async def _track(self, key: str, tracked: Tracked) -> None:
        try:
            while tracked.is_waiting:
                tracked.take_up()
                await self._check(key, tracked)
                if tracked.is_waiting:
                    await asyncio.sleep(PAUSE)
        finally:
            if self._tracked.get(key) is tracked:
                del self._tracked[key]

    async def _check(self, key: str, tracked: Tracked) -> None:
        """Check the last change of a key at each delay, unless it is superseded."""
        if not (read := self._read_of(key)):
            return
        check = Check(key, tracked, read, await self._read(read, leaving=len(self._delays)))
        began = asyncio.get_running_loop().time()
        for delay in self._delays:
            rests = await tracked.rests(began + delay - asyncio.get_running_loop().time())
            if not rests and not tracked.is_lost:
                break
            self._count(tracked, delay, await self._verdict(check, delay) if rests else Verdict.UNCHECKED)
        for finding in check.findings.values():
            self._book.found(finding)

    def _count(self, tracked: Tracked, delay: float, verdict: Verdict) -> None:
        if tracked.is_change:
            self._book.count(delay, verdict)

    async def _verdict(self, check: "Check", delay: float) -> Verdict:
        """Return the verdict on a key at this delay, and explain what is stale."""
        if check.first is None or not self._commands.claim(2 * len(self._nodes.labels)):
            return Verdict.UNCHECKED
        found = await sandwich.sandwich(self._nodes, check.key, lambda: self._read(check.read), check.first)
        stale = {label: one.sighting for label, one in found.items() if one.sighting}
        if not stale:
            return gravest(one.verdict for one in found.values())
        if not await self._stands_still(check.tracked):
            return Verdict.UNCLEAR
        return gravest([await self._stale(check, label, seen, delay) for label, seen in stale.items()])

    async def _stands_still(self, tracked: Tracked) -> bool:
        """Return True if the key has not changed again, as far as the feed can tell."""
        return await tracked.rests(GRACE) and await self._catch_up() and not tracked.has_ended

    async def _stale(self, check: "Check", label: str, seen: Sighting, delay: float) -> Verdict:
        """Explain a stale value, remove it if it is permanent, and keep it as a finding."""
        reason, at = await self._explain(check.key, label, check.tracked), time.time()
        is_permanent = delay == self._delays[-1] and not reason.is_under_way
        verdict = Verdict.PERMANENT if is_permanent else Verdict.LATE
        repaired = is_permanent and await self._repair(check, label, seen)
        check.findings[label] = Finding(at, check.key, label, delay, verdict, reason, repaired)
        return verdict

    async def _repair(self, check: "Check", label: str, seen: Sighting) -> bool:
        """Remove a stale value once the limit of repairs allows it, unless the key has changed again."""
        if self._repairs is None:
            return False
        while not self._repairs.claim():
            if not await check.tracked.rests(REPAIR_PAUSE):
                return False
        return await self._nodes.remove(check.key, label, seen)

    async def _read(self, read: Read, *, leaving: int = 0) -> Truth | None:
        return await read() if self._reads.claim(leaving=leaving) else None


class Check:
    """The check of one change: the truth at its beginning, and the stale values that were found."""

    def __init__(self, key: str, tracked: Tracked, read: Read, first: Truth | None) -> None:
        self.key = key
        self.tracked = tracked
        self.read = read
        self.first = first
        #: By node, the last one.
        self.findings: dict[str, Finding] = {}
