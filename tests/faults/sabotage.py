"""`invalidator worker` with a built-in fault, to prove that the ledger turns red.

python -m tests.faults.sabotage drop-debt worker --config FILE
"""

import asyncio
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any

from invalidator_cli.main import main

from invalidator.memcached.cluster import Cluster, Evicting, Outcome
from invalidator.memcached.connection import Connection
from invalidator.worker.deferred import DeferredWork
from invalidator.worker.pipeline import Pipeline


def ack_before_fence() -> None:
    """Settle a batch first, and evict it a tenth of a second later."""
    process, evict = Pipeline._process, Cluster.evict

    async def settle_then_process(self: Pipeline, batch: Any, *plan: Any) -> None:
        await self._intake.settle(batch)
        await process(self, batch, *plan)

    async def evict_later(self: Cluster, keys: Collection[bytes]) -> Outcome:
        await asyncio.sleep(0.1)
        return await evict(self, keys)

    Pipeline._process = settle_then_process  # type: ignore[assignment]
    Cluster.evict = evict_later  # type: ignore[assignment]


def drop_debt() -> None:
    """Park nothing, but report that it was parked."""

    async def park(self: DeferredWork, label: str, keys: Sequence[bytes]) -> None:
        pass

    DeferredWork.park = park  # type: ignore[method-assign]


def confirm_next() -> None:
    """Take any line for the confirmation of the oldest chunk, so that a late answer confirms the next chunk."""

    def data_received(self: Connection, data: bytes) -> None:
        for _ in range(data.count(b"\n")):
            if self.outstanding:
                self._owner.confirmed(self.outstanding.popleft())

    Connection.data_received = data_received  # type: ignore[method-assign]


def drop_some() -> None:
    """Evict no product whose number ends with 7, and report that it was evicted."""
    evict = Cluster.evict

    def evict_others(self: Cluster, keys: Collection[bytes]) -> Evicting:
        return evict(self, [key for key in keys if not key.endswith(b"7")])

    Cluster.evict = evict_others  # type: ignore[method-assign]


KINDS: dict[str, Callable[[], None]] = {
    "ack-before-fence": ack_before_fence,
    "drop-debt": drop_debt,
    "confirm-next": confirm_next,
    "drop-some": drop_some,
}

if __name__ == "__main__":
    KINDS[sys.argv.pop(1)]()
    main()
