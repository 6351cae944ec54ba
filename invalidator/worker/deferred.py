"""What a batch leaves behind: debts in parking queues, second evictions, dead letters, announcements, receipts.

Debts hold keys, never events, so that new rules cannot change them, and a version, so that a worker can read what the
one before it wrote. Dead letters keep the body as it came, with the reason in headers.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from invalidator.broker.delivery import Delivery
from invalidator.broker.messages import Debt
from invalidator.broker.publisher import ConfirmedPublisher, Properties
from invalidator.broker.topology import Topology
from invalidator.errors import PoisonError
from invalidator.events.event import EVICT, encode
from invalidator.worker.announcer import Announcer
from invalidator.worker.receipts import Receipts

#: Keys in one debt message.
DEBT_KEYS = 1000
#: Keys in one event of second evictions: 25 KiB at most, which is below any sensible limits.body_bytes.
AGAIN_KEYS = 100
#: Characters of a reason in a header.
DETAIL = 500
#: Headers that a dead letter leaves behind: RabbitMQ would route it to further queues by them, or has counted in them.
LEFT_BEHIND = {"CC", "BCC", "x-delivery-count", "x-acquired-count"}


class Outlet:
    """Publishes what must not be lost, on one connection, and what may be, on another."""

    def __init__(
        self,
        publisher: ConfirmedPublisher,
        announcer: Announcer,
        receipts: Receipts,
        topology: Topology,
        *,
        worker: str,
        parked_limit: int,
        event_keys: int,
    ) -> None:
        self._publisher = publisher
        self._announcer = announcer
        self._receipts = receipts
        self._topology = topology
        self._worker = worker
        self._parked_limit = parked_limit
        self._event_keys = event_keys
        #: Keys parked by this worker since it last saw the node's parking queue empty.
        self._parked: Counter[str] = Counter()

    async def park(self, label: str, keys: Sequence[bytes]) -> None:
        """Store what a node is owed in its parking queue; above ``parked_limit`` keys, that it is owed a flush.

        Raises:
            InvalidatorError: not all of it is confirmed; park all of it again.
        """
        if self._parked[label] >= self._parked_limit:
            # One small message a batch, not one in all: a flush covers only what was evicted before it was parked, and
            # nobody can know whether another worker is paying the one that is already there.
            await self._owe(label, Debt(v=1, flush=True))
            return
        for start in range(0, len(keys), DEBT_KEYS):
            part = [key.decode("ascii") for key in keys[start : start + DEBT_KEYS]]
            await self._owe(label, Debt(v=1, keys=part))
            self._parked[label] += len(part)

    def paid(self, label: str) -> None:
        """Called when a node's parking queue was seen empty."""
        self._parked[label] = 0

    async def _owe(self, label: str, debt: Debt) -> None:
        await self._publisher.publish(
            msgspec.json.encode(debt),
            exchange="",
            routing_key=self._topology.parked(label),
            properties=Properties(content_type="application/json", message_type="debt", app_id=self._worker),
        )

    async def again(self, delay_ms: int, keys: Sequence[bytes]) -> None:
        """Store that these keys are to be evicted once more, in the queue that hands it to the workers after the delay.

        What is stored names keys, as `invalidator evict` does, so that no new rule can change it.

        Raises:
            InvalidatorError: not all of it is confirmed; store all of it again.
        """
        size = min(AGAIN_KEYS, self._event_keys)
        parts = [keys[start : start + size] for start in range(0, len(keys), size)]
        await asyncio.gather(
            *(
                self._publisher.publish(
                    encode(EVICT, {"keys": [key.decode("ascii") for key in part]}),
                    exchange="",
                    routing_key=self._topology.again(delay_ms),
                    properties=Properties(content_type="application/json", message_type=EVICT, app_id=self._worker),
                )
                for part in parts
            )
        )

    async def bury(self, delivery: Delivery, poison: PoisonError) -> None:
        """Store a message that can never be evicted in the dead-letter queue, with the reason.

        Raises:
            InvalidatorError: it is not confirmed.
        """
        old = delivery.properties
        headers: dict[str, Any] = {k: v for k, v in (old.headers or {}).items() if k not in LEFT_BEHIND}
        headers |= {
            "x-invalidator-reason": poison.reason,
            "x-invalidator-detail": str(poison)[:DETAIL],
            "x-invalidator-cluster": self._topology.cluster,
            "x-invalidator-worker": self._worker,
            "x-invalidator-at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "x-invalidator-exchange": delivery.exchange,
        }
        if old.message_id:
            headers["x-invalidator-message-id"] = old.message_id
        # Left out on purpose: an expiration would delete the letter, a foreign user id would be refused, and the
        # message id must be unique among what is in flight (see ConfirmedPublisher).
        properties = Properties(
            headers=headers,
            content_type=old.content_type,
            content_encoding=old.content_encoding,
            message_type=old.message_type,
            timestamp=old.timestamp,
            app_id=old.app_id,
            correlation_id=old.correlation_id,
        )
        await self._publisher.publish(
            delivery.body, exchange="", routing_key=self._topology.dead, properties=properties
        )

    def announce(self, keys: Sequence[str], event_ids: Sequence[str], parked: Collection[str]) -> None:
        self._announcer.announce(keys, event_ids, parked)

    def announce_everything(self) -> None:
        self._announcer.announce_everything()

    def answer(
        self, deliveries: Sequence[Delivery], owed: Mapping[str, Collection[bytes]], *, milliseconds: float
    ) -> None:
        self._receipts.answer(deliveries, owed, milliseconds=milliseconds)
