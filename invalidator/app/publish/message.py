"""One event as it goes out: its body and what the broker's UI shows of it, the same whoever publishes it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from msgspec import Struct, field

from invalidator.events.event import encode
from invalidator.settings import BrokerSettings
from invalidator.settings.password import with_password

CONTENT_TYPE = "application/json"
PERSISTENT = 2
#: Bytes that AMQP allows the property `type`; a longer type stands in the body alone.
SHORT_STRING = 255


class Message(Struct, frozen=True, kw_only=True):
    """An event on its way. Published again it keeps its id, so that a repetition can be told from another event."""

    type: str
    body: bytes
    id: str = field(default_factory=lambda: uuid4().hex)
    time: datetime = field(default_factory=lambda: datetime.now(UTC))
    #: Who says so, as the broker's UI shows it.
    app_id: str = ""

    @property
    def type_property(self) -> str | None:
        return self.type if len(self.type.encode()) <= SHORT_STRING else None


def message(event_type: str, data: Mapping[str, Any], *, app_id: str) -> Message:
    """An event as a message. Dates, decimals and UUIDs in `data` become strings.

    Raises:
        PoisonError: no worker could read it.
    """
    return Message(type=event_type, body=encode(event_type, data), app_id=app_id)


def broker_settings(broker: str | BrokerSettings) -> BrokerSettings:
    """What an application says of its broker: a URL, where the rest may stay as it is by default.

    Raises:
        ConfigurationError: it is no URL of a broker.
    """
    return with_password(BrokerSettings(url=broker), {}) if isinstance(broker, str) else broker
