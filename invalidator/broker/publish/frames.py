"""A message as the frames of AMQP, in one piece.

pika makes three objects of each message and encodes them field by field, which is most of the cost of publishing. Here
everything that is the same from message to message is encoded once.

Source: AMQP 0-9-1, sections 2.3.5 (frames) and 4.2.5 (fields).
"""

from collections.abc import Mapping
from functools import lru_cache
from struct import Struct
from typing import Any

from pika import data, frame, spec

HEADER, BODY, END = 2, 3, b"\xce"
#: Bytes of a frame around its payload.
AROUND = 8

_frame = Struct(">BHI").pack
#: Class, weight, bytes of the body, property flags.
_content = Struct(">HHQH").pack
_uint = Struct(">I").pack
_long = Struct(">q").pack
_timestamp = Struct(">Q").pack

_INT_MAX = (1 << 31) - 1


def message_frames(channel: int, method: spec.Basic.Publish, properties: spec.BasicProperties, body: bytes) -> bytes:
    """Return the method, the header and the body, which must fit into one frame and not be empty."""
    flags, fields = _encoded(properties)
    return b"".join(
        (
            _method(channel, method.exchange, method.routing_key, method.mandatory),
            _frame(HEADER, channel, 14 + len(fields)),
            _content(spec.BasicProperties.INDEX, 0, len(body), flags),
            fields,
            END,
            _frame(BODY, channel, len(body)),
            body,
            END,
        )
    )


@lru_cache
def _method(channel: int, exchange: str, routing_key: str, mandatory: bool) -> bytes:
    method = spec.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=mandatory)
    return bytes(frame.Method(channel, method).marshal())


def _encoded(properties: spec.BasicProperties) -> tuple[int, bytes]:
    """Return the property flags and the properties."""
    if _has_rare(properties):
        flags, *fields = properties.encode()
        return int.from_bytes(flags), b"".join(fields)
    flags, fields = 0, []
    if properties.content_type is not None:
        flags |= spec.BasicProperties.FLAG_CONTENT_TYPE
        fields.append(_short(properties.content_type))
    if properties.headers is not None:
        flags |= spec.BasicProperties.FLAG_HEADERS
        fields.append(_table(properties.headers))
    if properties.delivery_mode is not None:
        flags |= spec.BasicProperties.FLAG_DELIVERY_MODE
        fields.append(bytes((properties.delivery_mode,)))
    if properties.message_id is not None:
        flags |= spec.BasicProperties.FLAG_MESSAGE_ID
        data.encode_short_string(fields, properties.message_id)
    if properties.timestamp is not None:
        flags |= spec.BasicProperties.FLAG_TIMESTAMP
        fields.append(_timestamp(properties.timestamp))
    if properties.type is not None:
        flags |= spec.BasicProperties.FLAG_TYPE
        fields.append(_short(properties.type))
    if properties.app_id is not None:
        flags |= spec.BasicProperties.FLAG_APP_ID
        fields.append(_short(properties.app_id))
    return flags, b"".join(fields)


def _has_rare(properties: spec.BasicProperties) -> bool:
    """Return True if there is a property that events seldom have."""
    return not (
        properties.content_encoding
        is properties.priority
        is properties.correlation_id
        is properties.reply_to
        is properties.expiration
        is properties.user_id
        is properties.cluster_id
        is None
    )


def _table(headers: Mapping[str, Any]) -> bytes:
    fields: list[bytes] = []
    for name, value in headers.items():
        fields.append(_short(name))
        if type(value) is int and value > _INT_MAX:
            fields += b"l", _long(value)
        else:
            data.encode_value(fields, value)
    table = b"".join(fields)
    return _uint(len(table)) + table


@lru_cache(maxsize=1024)
def _short(text: str) -> bytes:
    fields: list[bytes] = []
    data.encode_short_string(fields, text)
    return b"".join(fields)
