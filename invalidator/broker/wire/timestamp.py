"""The time at which an event was published: written by its publisher, read by the worker that evicts it.

AMQP's own property `timestamp` counts whole seconds, and an eviction takes a thousandth of one. So the time also
travels in a header, in milliseconds, under the name that RabbitMQ gives it when it is configured to stamp incoming
messages (message_interceptors.incoming.set_header_timestamp): events of any publisher can have it.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

MILLISECONDS = "timestamp_in_ms"
#: The times, in seconds since 1970, that a clock can have written: from the year 2000 to a day ahead of ours.
EARLIEST, AHEAD = 946_684_800.0, 86_400.0


class Properties(Protocol):
    """AMQP properties, of any library."""

    @property
    def headers(self) -> Mapping[str, Any] | None: ...
    @property
    def timestamp(self) -> datetime | None: ...


def stamp(now: datetime) -> dict[str, Any]:
    """Return the header that says when a message was published."""
    return {MILLISECONDS: int(now.timestamp() * 1000)}


def age(properties: Properties, now: float) -> float | None:
    """Return the seconds since a message was published, None if no property says when; ``now`` in seconds since 1970.

    If only the whole second is known, return the youngest age that it allows, so that rounding misses no service level.
    A time that no clock can have written (0, or in another unit) says nothing.
    """
    for published in _published(properties):
        if EARLIEST <= published <= now + AHEAD:
            return max(0.0, now - published)  # two machines' clocks are never quite the same
    return None


def published_at(message: Any) -> datetime | None:
    """Return when a message, of anything with ``properties``, was published, as far as its publisher said so."""
    now = datetime.now(UTC)
    seconds = age(message.properties, now.timestamp())
    return None if seconds is None else now - timedelta(seconds=seconds)


def _published(properties: Properties) -> Iterator[float]:
    """Yield the times that the properties give, in seconds since 1970, the finer one first."""
    milliseconds = (properties.headers or {}).get(MILLISECONDS)
    if isinstance(milliseconds, int):
        yield milliseconds / 1000
    if properties.timestamp:
        yield properties.timestamp.timestamp() + 1
