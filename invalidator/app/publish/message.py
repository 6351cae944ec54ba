"""An event on its way to the broker: its body, and the AMQP properties that go with it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from msgspec import Struct, field

from invalidator.broker.messages import PERSISTENT
from invalidator.broker.wire.timestamp import stamp
from invalidator.events.event import encode
from invalidator.settings import BrokerSettings
from invalidator.settings.password import with_password

CONTENT_TYPE = "application/json"
#: Bytes that AMQP allows the property `type`. A longer type is in the body alone.
SHORT_STRING = 255


class Message(Struct, frozen=True, kw_only=True):
    """An event to publish. It keeps its id when it is published again, which tells a repetition from another event."""

    type: str
    body: bytes
    id: str = field(default_factory=lambda: uuid4().hex)
    time: datetime = field(default_factory=lambda: datetime.now(UTC))
    #: The publisher's name, as the broker's UI shows it.
    app_id: str = ""

    def properties(self, *, time: datetime | None = None) -> dict[str, Any]:
        """Return the AMQP properties by name; ``time`` replaces the time at which the message was made."""
        time = time or self.time
        return {
            "content_type": CONTENT_TYPE,
            "delivery_mode": PERSISTENT,
            "message_id": self.id,
            "timestamp": time,
            "headers": stamp(time),
            "type": self.type if len(self.type.encode()) <= SHORT_STRING else None,
            "app_id": self.app_id or None,
        }


def message(event_type: str, data: Mapping[str, Any], *, app_id: str) -> Message:
    """Return an event as a message. Dates, decimals and UUIDs in `data` become strings.

    Raises:
        PoisonError: no worker could read the event.
    """
    return Message(type=event_type, body=encode(event_type, data), app_id=app_id)


def broker_settings(broker: str | BrokerSettings) -> BrokerSettings:
    """Return the settings for a broker's URL, with defaults for all the rest, or the settings as they are.

    Raises:
        ConfigurationError: the URL is not that of a broker.
    """
    return with_password(BrokerSettings(url=broker), {}) if isinstance(broker, str) else broker
