"""How old an event is: said by whoever published it, read by whoever evicts it.

AMQP's own property `timestamp` counts whole seconds, a thousand times an eviction. So the moment travels in a header
too, in milliseconds, under the name that RabbitMQ itself gives it where it is told to stamp what comes in
(message_interceptors.incoming.set_header_timestamp): events of any publisher can have it.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

MILLISECONDS = "timestamp_in_ms"


class Properties(Protocol):
    """AMQP's, of whichever library."""

    @property
    def headers(self) -> Mapping[str, Any] | None: ...
    @property
    def timestamp(self) -> datetime | None: ...


def stamp(now: datetime) -> dict[str, Any]:
    """The header that says when a message was published."""
    return {MILLISECONDS: int(now.timestamp() * 1000)}


def age(properties: Properties, now: float) -> float | None:
    """Seconds since a message was published, None where nobody said when; ``now`` in seconds since 1970.

    Where only the whole second is known, the youngest age that it allows: a service level is not missed by rounding.
    """
    milliseconds = (properties.headers or {}).get(MILLISECONDS)
    if isinstance(milliseconds, int):
        published = milliseconds / 1000
    elif properties.timestamp:
        published = properties.timestamp.timestamp() + 1
    else:
        return None
    return max(0.0, now - published)  # two machines' clocks are never quite the same
