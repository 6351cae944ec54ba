"""`invalidator follow` with a built-in fault, to prove that the ledger turns red.

python -m tests.faults.followed.sabotage no-gate follow --config FILE
"""

import sys
from collections.abc import Callable

from invalidator_cli.main import main

from invalidator.follow.progress import Progress
from invalidator.follow.stream import Received, Stream
from invalidator.postgres.gate import Gate


def move_before_confirm() -> None:
    """Move the slot once events are sent, not once they are confirmed."""
    advance = Progress._advance

    def advance_over_all(self: Progress) -> None:
        confirmed, self.confirmed = self.confirmed, self.published
        advance(self)
        self.confirmed = confirmed

    Progress._advance = advance_over_all  # type: ignore[method-assign]


def confirm_keepalives() -> None:
    """Confirm the position of each keepalive at once, also with events in flight."""
    next_message = Stream._next

    def confirming(self: Stream) -> Received | None:
        received = next_message(self)
        if received and received.data is None:
            self.confirm(received.position)
        return received

    Stream._next = confirming  # type: ignore[method-assign]


def no_gate() -> None:
    """Publish what is committed, whether a new read sees it or not."""

    async def wait(self: Gate, xid: int) -> None:
        pass

    Gate.wait = wait  # type: ignore[method-assign]


KINDS: dict[str, Callable[[], None]] = {
    "move-before-confirm": move_before_confirm,
    "confirm-keepalives": confirm_keepalives,
    "no-gate": no_gate,
}

if __name__ == "__main__":
    KINDS[sys.argv.pop(1)]()
    main()
