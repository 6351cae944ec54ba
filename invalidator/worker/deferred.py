"""Work that a batch leaves for later: debts in parking queues, second evictions, dead letters.

Debts hold keys, never events, so that new rules cannot change them, and a version, so that a worker can read those of
the version before it. Dead letters keep the body as it came, with the reason in headers.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from invalidator.broker.gap import Gap
from invalidator.broker.gaps import remember_gap
from invalidator.broker.messages import Debt
from invalidator.broker.publish.publisher import ConfirmedPublisher, Properties
from invalidator.broker.topology import POSTPONED_MS, Topology
from invalidator.broker.wire.delivery import Delivery
from invalidator.broker.wire.properties import OF_THE_EVENT, copy_of, string_of
from invalidator.errors import PoisonError
from invalidator.events.event import EVICT, encode

#: Keys in one debt message.
DEBT_KEYS = 1000
#: Keys in one event of second evictions: 25 KiB at most, which is below any sensible limits.body_bytes.
AGAIN_KEYS = 100
#: Characters of a reason in a header.
DETAIL = 500
#: Headers that a dead letter loses: RabbitMQ would route it to further queues by them, or has counted in them.
DROPPED_HEADERS = {"CC", "BCC", "x-delivery-count", "x-acquired-count"}


class DeferredWork:
    """Publishes messages that must not be lost, each with a confirm."""

    def __init__(
        self,
        publisher: ConfirmedPublisher,
        topology: Topology,
        *,
        worker: str,
        parked_limit: int,
        event_keys: int,
    ) -> None:
        self._publisher = publisher
        self._topology = topology
        self._worker = worker
        self._parked_limit = parked_limit
        self._event_keys = event_keys
        #: Keys that this worker parked since it last found the node's parking queue empty.
        self._parked: Counter[str] = Counter()

    async def park(self, label: str, keys: Sequence[bytes]) -> None:
        """Store these keys in a node's parking queue; beyond ``parked_limit`` keys, store a flush of the node instead.

        Raises:
            InvalidatorError: not all of it is confirmed; park all of it again.
        """
        if self._parked[label] >= self._parked_limit:
            # A small message for each batch, not one for all: a flush covers only keys that were parked before it, and
            # another worker may be draining the one that is there already.
            await self._store_debt(label, Debt(v=1, flush=True))
            return
        for start in range(0, len(keys), DEBT_KEYS):
            part = [key.decode() for key in keys[start : start + DEBT_KEYS]]
            await self._store_debt(label, Debt(v=1, keys=part))
            self._parked[label] += len(part)

    def drained(self, label: str) -> None:
        """Count a node's parked keys from 0 again, as its parking queue was found empty."""
        self._parked[label] = 0

    async def _store_debt(self, label: str, debt: Debt) -> None:
        await self._publisher.publish(
            msgspec.json.encode(debt),
            exchange="",
            routing_key=self._topology.parked(label),
            properties=Properties(content_type="application/json", message_type="debt", app_id=self._worker),
        )

    async def evict_again(self, delay_ms: int, keys: Sequence[bytes]) -> None:
        """Store a second eviction of these keys, in the queue that hands it to the workers after the delay.

        It names keys, as `invalidator evict` does, so that no new rule can change it.

        Raises:
            InvalidatorError: not all of it is confirmed; store all of it again.
        """
        size = min(AGAIN_KEYS, self._event_keys)
        parts = [keys[start : start + size] for start in range(0, len(keys), size)]
        await asyncio.gather(
            *(
                self._publisher.publish(
                    encode(EVICT, {"keys": [key.decode() for key in part]}),
                    exchange="",
                    routing_key=self._topology.again(delay_ms),
                    properties=Properties(content_type="application/json", message_type=EVICT, app_id=self._worker),
                )
                for part in parts
            )
        )

    async def postpone(self, deliveries: Sequence[Delivery]) -> None:
        """Store events as they came, in the queue that hands them to the workers again a little later.

        Raises:
            InvalidatorError: not all of it is confirmed; store all of it again.
        """
        await asyncio.gather(
            *(
                self._publisher.publish(
                    delivery.body,
                    exchange="",
                    routing_key=self._topology.again(POSTPONED_MS),
                    properties=copy_of(
                        delivery.header, OF_THE_EVENT, left_out=DROPPED_HEADERS.__contains__, headers={}
                    ),
                )
                for delivery in deliveries
            )
        )

    async def remember_gap(self, gap: Gap) -> None:
        """Store a gap that a publisher has reported.

        Raises:
            InvalidatorError: it is not confirmed; store it again.
        """
        await remember_gap(self._publisher, self._topology, gap)

    async def dead_letter(self, delivery: Delivery, poison: PoisonError) -> None:
        """Store a message that can never be evicted in the dead-letter queue, with the reason.

        Raises:
            InvalidatorError: it is not confirmed.
        """
        headers = {
            "x-invalidator-reason": poison.reason,
            "x-invalidator-detail": str(poison)[:DETAIL],
            "x-invalidator-cluster": self._topology.cluster,
            "x-invalidator-worker": self._worker,
            "x-invalidator-at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "x-invalidator-exchange": delivery.exchange,
        }
        if message_id := string_of(delivery.header, "message_id"):
            headers["x-invalidator-message-id"] = message_id
        # Three properties are left out on purpose: an expiration would delete the dead letter, RabbitMQ refuses a
        # foreign user id, and a message id must be unique among the messages in flight (see ConfirmedPublisher).
        properties = copy_of(delivery.header, OF_THE_EVENT, left_out=DROPPED_HEADERS.__contains__, headers=headers)
        await self._publisher.publish(
            delivery.body, exchange="", routing_key=self._topology.dead, properties=properties
        )
