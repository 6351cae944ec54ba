"""The guard: it changes frames that aiormq reads, so that no publisher's header or name can end our connection.

    content header ─> a header whose one table entry holds the properties as they came ─> aiormq ─> `header_of`
    delivery       ─> its exchange and routing key in ASCII, if they are not UTF-8     ─> aiormq

aiormq decodes each frame with pamqp, which fails on a timestamp out of range, on a name that is not UTF-8 and on deeply
nested tables. RabbitMQ lets all of that through, and would deliver the same message again on the next connection.
"""

from struct import Struct

from aiormq.abc import DeliveredMessage

from invalidator.broker.wire.header import FLAGS_AT, HEADERS, MESSAGE_ID
from invalidator.broker.wire.properties import split

METHOD, HEADER = 1, 2
FRAME_END = b"\xce"
#: The name of the table entry with the properties, and its beginning on the wire: name and type, bytes.
RAW = "x-raw"
_RAW = bytes([len(RAW)]) + RAW.encode() + b"x"
#: Class and method of what brings content: Basic.Deliver, Basic.GetOk, Basic.Return.
DELIVER, GET_OK, RETURN = b"\x00\x3c\x00\x3c", b"\x00\x3c\x00\x47", b"\x00\x3c\x00\x32"
#: Bytes of delivery tag and redelivered.
TAG_BYTES = 9

_frame_head = Struct(">BHL")
_size = Struct(">L")
_flags = Struct(">H")
#: Bytes of a name -> the same in ASCII, for `bytes.translate`.
_ASCII = bytes(range(0x80)) + b"?" * 0x80


def guarded(kind: int, channel: int, payload: bytes) -> bytes:
    """Return a whole frame with this payload, changed where pamqp might fail on it."""
    if kind == HEADER:
        payload = _enveloped(payload)
    elif kind == METHOD and (at := _names_at(payload)):
        payload = _with_readable_names(payload, at)
    return _frame_head.pack(kind, channel, len(payload)) + payload + FRAME_END


def header_of(message: DeliveredMessage) -> bytes:
    """Return the content header's payload from the property flags on, as the broker sent it."""
    headers = message.header.properties.headers or {}
    raw = headers[RAW]
    assert isinstance(raw, bytearray)
    return bytes(raw)


def _enveloped(payload: bytes) -> bytes:
    """Return a content header with the properties in one entry, and the id by which aiormq finds a returned message."""
    properties = payload[FLAGS_AT:]
    id = split(properties).get("message_id", b"")
    flags = HEADERS | MESSAGE_ID if id and _is_utf8(id[1:]) else HEADERS
    entry = _RAW + _size.pack(len(properties)) + properties
    table = _size.pack(len(entry)) + entry
    return payload[:FLAGS_AT] + _flags.pack(flags) + table + (id if flags & MESSAGE_ID else b"")


def _names_at(payload: bytes) -> int:
    """Return the offset of the exchange's name in a method that brings content, 0 for any other method."""
    method = payload[:4]
    if method == DELIVER:  # consumer tag, delivery tag, redelivered, exchange, routing key
        return 5 + payload[4] + TAG_BYTES
    if method == GET_OK:  # delivery tag, redelivered, exchange, routing key, message count
        return 4 + TAG_BYTES
    if method == RETURN:  # reply code, reply text, exchange, routing key
        return 7 + payload[6]
    return 0


def _with_readable_names(payload: bytes, at: int) -> bytes:
    """Return the method with exchange and routing key in ASCII, unless they are UTF-8."""
    exchange = payload[at + 1 : at + 1 + payload[at]]
    end = at + 1 + len(exchange)
    key = payload[end + 1 : end + 1 + payload[end]]
    if _is_utf8(exchange) and _is_utf8(key):
        return payload
    names = exchange.translate(_ASCII) + payload[end : end + 1] + key.translate(_ASCII)
    return payload[: at + 1] + names + payload[at + 1 + len(names) :]


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
