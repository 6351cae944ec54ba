"""A broker without a server, for a relay: it confirms every event at once, unless a test holds it or lets it fail."""

import asyncio
from collections.abc import Iterable

from invalidator.app.publish.message import message
from invalidator.app.publish.outbox import OutboxEvent
from invalidator.errors import InvalidatorError, UnconfirmedError


class Broker:
    """A `drain.Sink`. Ids in ``held`` are not confirmed yet, those in ``failing`` are nacked.

    A failure is known once ``known_after`` events are written, as with thousands of messages in flight.
    """

    def __init__(self, *, failing: Iterable[int] = (), known_after: int = 0, held: Iterable[int] = ()) -> None:
        self.published: list[int] = []
        self.held = set(held)
        self.failing = set(failing)
        self._known_after = known_after
        self._sent: list[OutboxEvent] = []
        self._changed = asyncio.Event()

    @property
    def failure(self) -> InvalidatorError | None:
        is_known = self.failing.intersection(self.published) and len(self.published) >= self._known_after
        return UnconfirmedError("not this one") if is_known else None

    async def publish(self, event: OutboxEvent) -> None:
        await asyncio.sleep(0)
        if self.failure:
            raise self.failure
        self.published.append(event.id)
        if len(self.published) > 100:
            self.confirm()
            raise AssertionError("the same events are published again and again")
        self._sent.append(event)
        self._changed.set()

    async def flush(self) -> None:
        while any(event.id in self.held for event in self._sent):
            self._changed.clear()
            await self._changed.wait()
        if self.failure:
            raise self.failure

    async def next_confirmed(self) -> list[OutboxEvent]:
        while not (events := self.take_confirmed()):
            if self.failure:
                raise self.failure
            self._changed.clear()
            await self._changed.wait()
        return events

    def take_confirmed(self) -> list[OutboxEvent]:
        taken = []
        while self._sent and self._is_confirmed(self._sent[0]):
            taken.append(self._sent.pop(0))
        return taken

    def left(self) -> list[tuple[OutboxEvent, bool]]:
        return [(event, self._is_confirmed(event)) for event in self._sent]

    def confirm(self, *ids: int) -> None:
        """Confirm these events, or all that are held."""
        self.held.difference_update(ids or list(self.held))
        self._changed.set()

    def _is_confirmed(self, event: OutboxEvent) -> bool:
        return event.id not in self.held | self.failing


def event(number: int, entity: str) -> OutboxEvent:
    return OutboxEvent(number, entity, message("product_updated", {"number": number}, app_id=""))
