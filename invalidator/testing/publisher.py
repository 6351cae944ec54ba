"""Publishers without a broker. They check and encode events as the real ones do, and keep them in order."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

from invalidator.app.publish.many import Many
from invalidator.app.publish.message import Message, message
from invalidator.broker.messages import Receipt
from invalidator.errors import IncompleteError, InvalidatorError
from invalidator.events.event import Event, decode


class RecordingPublisher:
    """A `Publisher` that records events, and passes each on to `deliver`."""

    def __init__(self, deliver: Callable[[Event], Receipt | None] = lambda _: None) -> None:
        self._deliver = deliver
        #: The events as a worker reads them: dates, decimals and UUIDs are strings.
        self.events: list[Event] = []
        #: The error that every publish raises instead, to test what the application does without a broker.
        self.failure: InvalidatorError | None = None

    def publish(self, event_type: str, data: Mapping[str, Any], *, wait: float | None = None) -> Receipt | None:
        """Record an event, and with ``wait`` return the receipt; or raise `failure`.

        Raises:
            PoisonError: no worker could read it.
        """
        return self.send(message(event_type, data, app_id=""), wait=wait)

    def send(self, message: Message, *, wait: float | None = None) -> Receipt | None:
        """Record the event of a message made before; returns and raises as `publish`."""
        if self.failure:
            raise self.failure
        read = decode(message.body, message.type)
        event = Event(read.type, {name: value for name, value in read.fields.items() if name != "type"})
        self.events.append(event)
        receipt = self._deliver(event)
        return receipt if wait is not None else None

    def publish_many(self, events: Iterable[Event]) -> int:
        """Record events in order, and return their number; raises as `Publisher.publish_many`."""
        many = Many(events, app_id="")
        for position, one in many:
            if self.failure:
                raise IncompleteError(self.failure, unconfirmed=(), unsent=position)
            self.send(one)
        return many.sent()

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


class AsyncRecordingPublisher:
    """An `AsyncPublisher` that records into a `RecordingPublisher`, whose `failure` it raises too."""

    def __init__(self, recording: RecordingPublisher) -> None:
        self._recording = recording

    async def publish(self, event_type: str, data: Mapping[str, Any], *, wait: float | None = None) -> Receipt | None:
        return self._recording.publish(event_type, data, wait=wait)

    async def send(self, message: Message, *, wait: float | None = None) -> Receipt | None:
        return self._recording.send(message, wait=wait)

    async def publish_many(self, events: Iterable[Event]) -> int:
        return self._recording.publish_many(events)

    async def close(self) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...
