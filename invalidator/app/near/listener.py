"""Receiving a cluster's announcements.

Rules of this file:

1. An announcement that has waited in the queue for longer than a worker may be silent is dropped by the broker, and the
   gap in the numbers shows it. A process that cannot keep up forgets everything instead of falling behind.
2. An unreadable announcement ends the connection, because its keys are unknown.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from invalidator.app.near.sequence import SILENCE_SECONDS
from invalidator.broker.address import connection_name
from invalidator.broker.consume import listener
from invalidator.broker.messages import Announcement, read_announcement
from invalidator.broker.wire.delivery import Delivery
from invalidator.settings import BrokerSettings


class AnnouncementReceiver(Protocol):
    """The object that receives announcements. None of these methods may block."""

    def linked(self) -> None: ...
    def received(self, announcement: Announcement) -> None: ...
    def lost(self) -> None: ...


async def listen(
    broker: Callable[[], BrokerSettings], cluster: str, receiver: AnnouncementReceiver, *, role: str
) -> None:
    """Hand ``receiver`` the announcements of a cluster, as `invalidator.broker.consume.listener.listen`."""

    def announcements(settings: BrokerSettings) -> listener.Feed:
        return listener.Feed(
            f"announcements for cluster {cluster}",
            settings.purged_exchange,
            f"invalidator-{role}.{cluster}",
            routing_key=cluster,
            max_age=SILENCE_SECONDS,
        )

    await listener.listen(broker, announcements, _Reading(receiver), name=connection_name(role, cluster))


class _Reading:
    """A receiver of messages that reads them as announcements."""

    def __init__(self, receiver: AnnouncementReceiver) -> None:
        self.linked, self.lost = receiver.linked, receiver.lost
        self._received = receiver.received

    async def received(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self._received(read_announcement(delivery.body))
