"""The type of an event, where it is not in the AMQP property ``type`` or the body's field ``type``.

Frameworks put it elsewhere: Spring AMQP in the header ``__TypeId__``, NServiceBus and Rebus in headers of their own,
MassTransit in the envelope's ``messageType``, Laravel in its ``job``. The settings ``events.type_header`` and
``events.type_field`` name such a place. Where nothing names it, the reason of a dead letter does.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from invalidator.errors import PoisonError
from invalidator.events.quoting import quoted

#: Headers and fields that hold a type in some framework or other; compared in lower case.
HEADERS = {
    "type", "__typeid__", "nservicebus.enclosedmessagetypes", "rbs2-msg-type", "task", "event", "event-type",
    "event_type", "eventtype", "x-event-type", "messagetype", "message-type", "message_type",
}  # fmt: skip
FIELDS = {
    "messagetype", "message_type", "job", "event", "event_type", "eventtype", "event_name", "eventname", "kind",
    "topic", "action", "actor_name", "task", "@type", "$type", "__typename",
}  # fmt: skip


class TypeSource(Struct, frozen=True):
    """The places, beside the usual ones, that say an event's type. One that does counts more than the usual ones."""

    header: str | None = None
    #: A field of the body, or a path to it, as in "meta.type".
    field: str | None = None

    def find(self, fields: Mapping[str, Any], headers: Mapping[str, Any] | None) -> str | None:
        """Return the type that is said there; the first of a list, as MassTransit writes it."""
        return (self.header and _said((headers or {}).get(self.header))) or (self.field and _said(self._at(fields)))

    def _at(self, fields: Mapping[str, Any]) -> Any:
        value: Any = fields
        for name in (self.field or "").split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return value


def no_type(fields: Mapping[str, Any], headers: Mapping[str, Any] | None) -> PoisonError:
    """Return the error for an event without a type, which names what could be it and where it was found."""
    hints = [
        f"the {place} {quoted(name)} is {quoted(said)}: if that is the type, set events.type_{place} to {quoted(name)}"
        for place, known, found in (("header", HEADERS, headers or {}), ("field", FIELDS, fields))
        for name, value in found.items()
        if name.lower() in known and (said := _said(value))
    ]
    text = 'the event has no type: set the AMQP property "type" or the field "type"'
    return PoisonError("no-type", "; ".join([text, *hints[:2]]))


def _said(value: Any) -> str | None:
    first = value[0] if isinstance(value, list) and value else value
    return first if isinstance(first, str) and first else None
