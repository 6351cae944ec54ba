"""An event as applications publish it: one JSON object with a type.

    {"type": "product_updated", "id": "abc-123", "price": 109.99}  <->  Event("product_updated", {…})

CloudEvents and Debezium's change events are read too: see `invalidator.events.cloudevents` and `.debezium`.

Rules of this file:

1. For any bytes, `decode` returns an event or raises `PoisonError`. A message that it refuses never becomes readable
   by trying again.
2. The type is in the AMQP property ``type``, in the body's field ``type``, or in both. If both are there and differ,
   the event is refused. Trusting either one could mean that no rule matches, and nobody would notice. A place that the
   settings name (`TypeSource`) counts more than both.
3. Supporting foreign formats costs a native event one dict lookup ("specversion").
4. Error messages quote at most 80 characters of the message, escaped, because they end up in headers and logs.
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from itertools import chain
from math import isfinite
from typing import Any

import msgspec

from invalidator.errors import PoisonError
from invalidator.events import cloudevents, debezium, followed
from invalidator.events.body import PLAIN, UNREADABLE, from_json, reread
from invalidator.events.quoting import kind, quoted
from invalidator.events.types import TypeSource, no_type

#: The built-in event that names its keys itself: ``{"type": "cache_evict", "keys": ["product:1"]}``.
EVICT = "cache_evict"
#: The event of a publisher that missed changes: ``{"type": "cache_gap", "since": …, "until": …, "reason": …}``.
#: Each cluster keeps it among its gaps.
GAP = "cache_gap"

_to_json = msgspec.json.Encoder().encode

#: Types whose values JSON writes as they are.
_UNCHANGED = frozenset({str, int, bool, type(None)})
#: Types that msgspec writes as base64, which would silently become a part of keys.
_BYTES = (bytes, bytearray, memoryview)
_KEPT = (*_BYTES, Decimal)


class Event(msgspec.Struct, frozen=True, gc=False):
    """Something that happened, with everything the publisher said about it.

    ::

        event = Event("product_updated", {"id": 17, "price": 109.99})
    """

    type: str
    #: The whole JSON object as received, including its "type". For foreign formats: see there.
    fields: dict[str, Any]


def decode(
    body: bytes,
    type: str | None = None,
    encoding: str | None = None,
    headers: Mapping[str, Any] | None = None,
    limit: int = 262_144,
    content_type: str | None = None,
    source: TypeSource | None = None,
) -> Event:
    """Return the event in a message's body.

    `type`, `encoding` and `content_type` are the AMQP properties type, content_encoding and content_type. `headers` may
    be None if they can hold neither a CloudEvent nor a type that `source` asks for. `limit` is in bytes.

    Raises:
        PoisonError: body-too-large, unknown-encoding, not-json, bad-utf8, too-deep, not-an-object, no-type,
            wrong-type, type-mismatch, batch, or a reason of `invalidator.events.cloudevents` or `.debezium`.
    """
    if len(body) > limit:
        raise PoisonError("body-too-large", f"the body has {len(body)} bytes, {limit} are allowed (limits.body_bytes)")
    if encoding and encoding.lower() not in PLAIN:
        raise PoisonError("unknown-encoding", f"content_encoding is {quoted(encoding)}: publish plain UTF-8 JSON")
    try:
        value = from_json(body)
    except UNREADABLE as error:
        return _from_odd_body(_Message(body, type, headers, content_type, source), error)
    if headers is None and source is None and value.__class__ is dict and (name := _native(value, type)):
        return Event(name, value)
    return _event(value, _Message(body, type, headers, content_type, source))


def _native(fields: dict[str, Any], outside: str | None) -> str | None:
    """Return the type of an event in our own format, the usual case, or None if all formats have to be tried."""
    name = fields.get("type")
    if name.__class__ is not str or not name or cloudevents.SPECVERSION in fields:
        return None
    if outside:
        return outside if name == outside else None
    is_flattened = "__table" in fields or "__op" in fields  # by Debezium; then "type" is a column
    return None if is_flattened else name


def encode(type: str, fields: Mapping[str, Any]) -> bytes:
    """Return an event's body, which `decode` reads back. Dates, decimals and UUIDs become strings.

    The worker's limits are not checked here.

    Raises:
        PoisonError: no-type, wrong-type, type-mismatch or too-deep: no worker could read such an event.
    """
    if not _type(fields, type):
        raise no_type(fields, None)
    if cloudevents.SPECVERSION in fields:
        raise PoisonError(
            "wrong-type", f'the field "{cloudevents.SPECVERSION}" makes it a CloudEvent: rename the field'
        )
    try:
        _refuse_changed(fields)
        return _to_json({"type": type} | {name: value for name, value in fields.items() if name != "type"})
    except RecursionError as error:
        raise PoisonError("too-deep", "the event is nested too deeply, or holds itself") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise PoisonError("wrong-type", f"the event cannot be written as JSON: {error}") from error


def _refuse_changed(fields: Mapping[str, Any]) -> None:
    """Raise PoisonError for what JSON cannot hold, and msgspec would change: NaN and infinities, and bytes."""
    for name, value in fields.items():
        if type(value) in _UNCHANGED:
            continue
        found = _changed(msgspec.to_builtins(value, builtin_types=_KEPT))
        if isinstance(found, _BYTES):
            fix = "decode them, or write them as hex or base64"
            raise PoisonError("wrong-type", f"the field {quoted(name)} holds bytes, which JSON cannot write: {fix}")
        if found is not None:
            raise PoisonError("wrong-type", f"the field {quoted(name)} holds {found}, which JSON cannot write")


def _changed(value: Any) -> Any:
    """Return the first value that JSON would change, or None."""
    if isinstance(value, _BYTES):
        return value
    if isinstance(value, Decimal):
        return None if value.is_finite() else value
    if isinstance(value, float):
        return None if isfinite(value) else value
    found = (_changed(one) for one in _inside(value) if type(one) not in _UNCHANGED)
    return next((one for one in found if one is not None), None)


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return chain(value, value.values())
    return value if isinstance(value, list | tuple) else ()


class _Message(msgspec.Struct, frozen=True):
    """All that may say what a body means."""

    body: bytes
    type: str | None
    headers: Mapping[str, Any] | None
    content_type: str | None
    source: TypeSource | None

    @property
    def attributes(self) -> dict[str, Any] | None:
        """Those of a binary CloudEvent."""
        return cloudevents.attributes(self.headers)


def _event(value: Any, message: _Message) -> Event:
    """Return the event of a body that is JSON, in whichever format."""
    if not cloudevents.is_structured(value, message.content_type) and (attributes := message.attributes):
        return Event(_named(attributes, message.type), cloudevents.binary(attributes, value))
    if not isinstance(value, dict):
        return _without_object(value, message)
    if cloudevents.SPECVERSION in value:
        return Event(_named(value, message.type), cloudevents.structured(value))
    if message.source and (name := message.source.find(value, message.headers)):
        return Event(name, value)
    return _plain(value, message)


def _plain(fields: dict[str, Any], message: _Message) -> Event:
    """Return the event of an object that is not a CloudEvent."""
    if not message.type and ("__table" in fields or "__op" in fields) and (change := debezium.flattened(fields)):
        return Event(*change)
    if message.type and followed.is_change(message.type):  # whose row may have a column "type"
        return Event(message.type, followed.fields(fields))
    if name := _type(fields, message.type):
        return Event(name, fields)
    if change := debezium.read(fields):
        return Event(*change)
    raise no_type(fields, message.headers)


def _without_object(value: Any, message: _Message) -> Event:
    if value is None and not message.type:
        return Event(debezium.TOMBSTONE, {})
    if cloudevents.is_batch(value, message.content_type):
        raise PoisonError("batch", f"the body is a batch of {len(value)} CloudEvents: publish each in its own message")
    raise PoisonError("not-an-object", f"the body is {kind(value)}, not an object: {quoted(message.body)}")


def _from_odd_body(message: _Message, error: Exception) -> Event:
    """Return the event of a body that is empty, or not quite JSON, or the data of a CloudEvent that is not JSON."""
    body, attributes = message.body, message.attributes
    if not body and attributes:
        return Event(_named(attributes, message.type), cloudevents.binary(attributes, None))
    if body in (b"", debezium.NO_VALUE) and not message.type:
        return Event(debezium.TOMBSTONE, {})
    try:
        event = _event(reread(body, error), message)
    except PoisonError as reason:
        if not attributes or reason.reason not in cloudevents.UNREADABLE_DATA:
            raise
        return Event(_named(attributes, message.type), cloudevents.binary_unread(attributes, reason))
    if not _is_text(event.type):
        raise PoisonError("wrong-type", f"the type {quoted(event.type)} holds half of a surrogate pair")
    return event


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _named(fields: Mapping[str, Any], outside: str | None) -> str:
    if name := _type(fields, outside):
        return name
    raise no_type(fields, None)


def _type(fields: Mapping[str, Any], outside: str | None) -> str:
    """Return the event's type, or "" if it has none. In the body, null and "" count as no type."""
    inside = fields.get("type")
    if inside is None or inside == "":
        return outside or ""
    if not isinstance(inside, str):
        raise PoisonError("wrong-type", f'the field "type" is {kind(inside)}, not a string')
    if outside and outside != inside:
        raise PoisonError(
            "type-mismatch",
            f'the AMQP property "type" says {quoted(outside)}, the field "type" {quoted(inside)}: publish one type',
        )
    return inside
