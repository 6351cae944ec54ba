"""`invalidator worker` with a built-in fault of its healing, to prove that the trials turn red.

python -m tests.faults.healing.sabotage healed-too-early worker --config FILE
"""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from invalidator_cli.main import main

from invalidator.broker.consume.consumer import Consumer
from invalidator.broker.gap import Gap, GapTracker, Healing
from invalidator.broker.gaps import remember_gap
from invalidator.broker.open_gaps import OpenGaps
from invalidator.worker import healer
from invalidator.worker.healer import Healer


def position_before_ack() -> None:
    """Take every event that was received, or waits, for settled."""

    def position_of_now(self: Consumer) -> tuple[datetime | None, bool]:
        return datetime.now(UTC), True

    def advance(self: GapTracker, position: datetime | None) -> None:
        if not self.is_open:
            self.position = datetime.now(UTC)

    Consumer.position = property(position_of_now)  # type: ignore[assignment]
    GapTracker.advance = advance  # type: ignore[method-assign]


def wrong_offset() -> None:
    """Read the log from now on."""

    def offset_of(since: datetime | None) -> dict[str, object]:
        return {"x-stream-offset": "next"}

    healer.offset_of = offset_of  # type: ignore[attr-defined]


def healed_too_early() -> None:
    """Say that a gap is healed, and heal it two seconds later."""
    heal = Healer._heal

    async def say_first(self: Healer, gaps: OpenGaps, gap: Gap) -> None:
        said = replace(gap, healing=Healing(1_000_000, 0.1, datetime.now(UTC)))
        await remember_gap(self._publisher, self._topology, said)
        await asyncio.sleep(2)
        await heal(self, gaps, gap)

    Healer._heal = say_first  # type: ignore[method-assign]


KINDS: dict[str, Callable[[], None]] = {
    "position-before-ack": position_before_ack,
    "wrong-offset": wrong_offset,
    "healed-too-early": healed_too_early,
}

if __name__ == "__main__":
    KINDS[sys.argv.pop(1)]()
    main()
