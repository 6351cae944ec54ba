"""An event as applications publish it: one JSON object with a type.

    {"type": "product_updated", "id": "abc-123", "price": 109.99}  <->  Event("product_updated", {…})

CloudEvents and Debezium's change events are read too: see `invalidator.events.formats`.

Rules of this file:

1. For any bytes, `decode` returns an event or raises `PoisonError`. A message that it refuses never becomes readable
   by trying again.
2. The type is in the AMQP property ``type``, in the body's field ``type``, or in both. If both are there and differ,
   the event is refused. Trusting either one could mean that no rule matches, and nobody would notice.
3. Supporting foreign formats costs a native event one dict lookup ("specversion").
4. Error messages quote at most 80 characters of the message, escaped, because they end up in headers and logs.
"""

from collections.abc import Mapping
from decimal import Decimal
from math import isfinite
from typing import Any

import msgspec

from invalidator.errors import PoisonError
from invalidator.events import formats

#: The built-in event that names its keys itself: ``{"type": "cache_evict", "keys": ["product:1"]}``.
EVICT = "cache_evict"

#: Values of the AMQP property content_encoding that leave the body as it is; compared in lower case.
_PLAIN = {"utf-8", "utf8", "identity"}

_from_json = msgspec.json.Decoder().decode
_to_json = msgspec.json.Encoder().encode


class Event(msgspec.Struct, frozen=True, gc=False):
    """Something that happened, with everything the publisher said about it.

    ::

        event = Event("product_updated", {"id": 17, "price": 109.99})
    """

    type: str
    #: The whole JSON object as received, including its "type". For foreign formats: see `invalidator.events.formats`.
    fields: dict[str, Any]


def decode(
    body: bytes,
    type: str | None = None,
    encoding: str | None = None,
    headers: Mapping[str, Any] | None = None,
    limit: int = 262_144,
    content_type: str | None = None,
) -> Event:
    """Return the event in a message's body.

    `type`, `encoding` and `content_type` are the AMQP properties type, content_encoding and content_type. `headers` may
    be None if they cannot hold a CloudEvent. `limit` is in bytes.

    Raises:
        PoisonError: body-too-large, unknown-encoding, not-json, bad-utf8, too-deep, not-an-object, no-type,
            wrong-type, type-mismatch, or a reason of `invalidator.events.formats`.
    """
    if len(body) > limit:
        raise PoisonError("body-too-large", f"the body has {len(body)} bytes, {limit} are allowed (limits.body_bytes)")
    if encoding and encoding.lower() not in _PLAIN:
        raise PoisonError("unknown-encoding", f"content_encoding is {quoted(encoding)}: publish plain UTF-8 JSON")
    try:
        fields = _from_json(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _without_json(body, type, headers, error)
    in_body = headers is not None and formats.is_structured(fields, content_type)
    if headers is not None and not in_body and (attributes := formats.attributes(headers)):
        return _cloud_event(attributes, fields, type)
    if not isinstance(fields, dict):
        raise PoisonError("not-an-object", f"the body is {kind(fields)}, not an object: {quoted(body)}")
    if formats.SPECVERSION in fields:
        return _cloud_event(*formats.structured(fields), type)
    if type and fields.get("type") == type:  # the usual case, and quicker than checking all the others
        return Event(type, fields)
    name = _type(fields, type)
    return Event(name, fields) if name else _without_type(fields)


def encode(type: str, fields: Mapping[str, Any]) -> bytes:
    """Return an event's body, which `decode` reads back. Dates, decimals and UUIDs become strings.

    The worker's limits are not checked here.

    Raises:
        PoisonError: no-type, wrong-type, type-mismatch or too-deep: no worker could read such an event.
    """
    if not _type(fields, type):
        raise _no_type()
    if formats.SPECVERSION in fields:
        raise PoisonError("wrong-type", f'the field "{formats.SPECVERSION}" makes it a CloudEvent: rename the field')
    try:
        body = _to_json({"type": type} | {name: value for name, value in fields.items() if name != "type"})
        _refuse_not_finite(fields, body)
        return body
    except RecursionError as error:
        raise PoisonError("too-deep", "the event is nested too deeply, or holds itself") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise PoisonError("wrong-type", f"the event cannot be written as JSON: {error}") from error


def _refuse_not_finite(fields: Mapping[str, Any], body: bytes) -> None:
    """Raise PoisonError for a NaN or an infinity, which msgspec writes as null, or as text if it is a Decimal."""
    if b"null" in body or b"NaN" in body or b"Infinity" in body:
        for name, value in fields.items():
            if (found := _not_finite(msgspec.to_builtins(value, builtin_types=(Decimal,)))) is not None:
                raise PoisonError("wrong-type", f"the field {quoted(name)} holds {found}, which JSON cannot write")


def _not_finite(value: Any) -> float | Decimal | None:
    if isinstance(value, Decimal):
        return None if value.is_finite() else value
    if isinstance(value, float):
        return None if isfinite(value) else value
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return next((found for one in inside if (found := _not_finite(one)) is not None), None)


def quoted(data: str | bytes) -> str:
    """Return the first 80 characters of foreign data, escaped, for an error message."""
    text = data[:320].decode(errors="backslashreplace") if isinstance(data, bytes) else data
    return repr(text) if len(text) <= 80 else f"{text[:80]!r}…"


def kind(value: object) -> str:
    """Return the JSON name of a value's type with its article, as in "a list"."""
    for python, name in _KINDS:
        if isinstance(value, python):
            return name
    return "null"


#: bool comes before int because it is a subclass of int.
_KINDS = (
    (str, "a string"),
    (bool, "true or false"),
    (int, "a number"),
    (float, "a number with a fraction"),
    (list, "a list"),
    (dict, "an object"),
)


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


def _cloud_event(attributes: Mapping[str, Any], data: Any, type: str | None) -> Event:
    if not (name := _type(attributes, type)):
        raise _no_type()
    return Event(name, formats.cloud_event(attributes, data))


def _without_json(body: bytes, type: str | None, headers: Mapping[str, Any] | None, error: Exception) -> Event:
    """Return the event of a body that is not JSON: a CloudEvent in headers without a body, or Debezium's tombstone."""
    if not body and (attributes := formats.attributes(headers)):
        return _cloud_event(attributes, None, type)
    if body == formats.NO_VALUE and not type:
        return Event(formats.TOMBSTONE, {})
    raise _unreadable(error, body) from error


def _without_type(fields: dict[str, Any]) -> Event:
    if (change := formats.debezium(fields)) is None:
        raise _no_type()
    return Event(*change)


def _no_type() -> PoisonError:
    return PoisonError("no-type", 'the event has no type: set the AMQP property "type" or the field "type"')


def _unreadable(error: Exception, body: bytes) -> PoisonError:
    if isinstance(error, UnicodeDecodeError):
        return PoisonError(
            "bad-utf8", f"the body holds bytes that are not UTF-8, from {quoted(error.object[error.start :])} on"
        )
    if isinstance(error, RecursionError):
        return PoisonError("too-deep", "the body is nested too deeply")
    if isinstance(
        error, msgspec.ValidationError
    ):  # an untyped decoder raises it for one thing: a number of 4,301 digits
        return PoisonError("wrong-type", f"the body holds a number that is too large: {quoted(body)}")
    return PoisonError("not-json", f"the body is not JSON ({error}): {quoted(body)}")
