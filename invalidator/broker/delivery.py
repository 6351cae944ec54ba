"""One message as the broker delivered it; its properties are decoded only as far as somebody asks."""

from collections.abc import Callable, Sequence
from struct import Struct, error
from typing import Any, Protocol

import msgspec
from aiormq.abc import DeliveredMessage
from pamqp import commands
from pamqp.exceptions import PAMQPException
from pamqp.header import ContentHeader

from invalidator.broker.timestamp import MILLISECONDS
from invalidator.events.formats import SPECVERSION

Properties = commands.Basic.Properties

_TAG = Struct(">Q").unpack_from
_FLAGS = Struct(">H").unpack_from
_LENGTH = Struct(">L").unpack_from

#: Where the property flags stand in a content header: behind class, weight and body size (AMQP 0-9-1, 2.3.5.2).
FLAGS_AT = 12
_BEFORE_FLAGS = bytes.fromhex("003c 0000 0000000000000000")
ENCODING, HEADERS, MESSAGE_ID, TYPE = 1 << 14, 1 << 13, 1 << 7, 1 << 5
#: The property `reply-to`, 1 << 9, in the first of the two bytes of flags.
REPLY_TO = 1 << 1
#: The properties up to `type` as they follow each other: flag, and bytes if it is no string: -1 for a table.
LAYOUT = (
    (1 << 15, 0),  # content type
    (ENCODING, 0),
    (HEADERS, -1),
    (1 << 12, 1),  # delivery mode
    (1 << 11, 1),  # priority
    (1 << 10, 0),  # correlation id
    (1 << 9, 0),  # reply to
    (1 << 8, 0),  # expiration
    (MESSAGE_ID, 0),
    (1 << 6, 8),  # timestamp
    (TYPE, 0),
)

#: How the header that says when a message was published begins: its name, and the type of its value, 8 bytes.
_STAMP = bytes([len(MILLISECONDS)]) + MILLISECONDS.encode() + b"l"

#: (type, content encoding, message id, headers), each None where the publisher set none; headers only where they may
#: hold a CloudEvent.
Meaning = tuple[str | None, str | None, str | None, dict[str, Any] | None]


class Delivery(Protocol):
    """What a batch is made of; ``tag`` means something only on the channel that brought it."""

    @property
    def tag(self) -> int: ...
    @property
    def body(self) -> bytes: ...
    @property
    def exchange(self) -> str: ...
    @property
    def properties(self) -> Properties: ...
    @property
    def header(self) -> bytes:
        """The content header's payload from the property flags on."""
        ...

    def meaning(self) -> Meaning: ...


class TappedDelivery(msgspec.Struct, gc=False):
    """A delivery as three byte strings, straight from the frames."""

    #: Basic.Deliver's arguments behind the consumer tag: delivery tag, redelivered, exchange, routing key.
    method: bytes
    #: The content header's payload from the property flags on.
    header: bytes
    body: bytes

    @property
    def tag(self) -> int:
        return int(_TAG(self.method)[0])

    @property
    def exchange(self) -> str:
        return _short_string(self.method, 9)

    @property
    def properties(self) -> Properties:
        """All properties; none where they cannot be decoded: such a message is to be buried, not to kill."""
        header = ContentHeader()
        try:
            header.unmarshal(_BEFORE_FLAGS + self.header)
        except (PAMQPException, ValueError, LookupError, RecursionError, error):
            return Properties()
        return header.properties

    def meaning(self) -> Meaning:
        """The properties that matter, without decoding the others."""
        header = self.header
        form = _forms.get(len(header)) or _learn(header)
        start, middle, id, end = form.unpack(header)
        if not (start == form.start and middle == form.middle and end == form.end):
            form = _learn(header)
            id = form.unpack(header)[2]
        headers = self.properties.headers if form.may_be_cloud_event else None
        return form.type, form.encoding, _text(id) if form.has_id else None, headers


class _Form(msgspec.Struct, frozen=True):
    """A content header as one publisher writes it again and again: only message id and the two timestamps differ.

    Headers of the same length that agree in ``start``, ``middle`` and ``end`` mean the same but for the id.
    """

    #: Cuts a header into start, middle, id and end, and skips the timestamps between them.
    unpack: Callable[[bytes], tuple[bytes, ...]]
    #: From the property flags up to the milliseconds in the header `timestamp_in_ms`; empty without it.
    start: bytes
    #: From there on up to the message id, its length included.
    middle: bytes
    #: From the type on; in a header without one, from behind the timestamp.
    end: bytes
    has_id: bool
    type: str | None
    encoding: str | None
    may_be_cloud_event: bool


#: The last form of each length: one publisher's headers are equally long, and a worker meets a few dozen publishers.
_forms: dict[int, _Form] = {}
#: Above so many forms all are forgotten, and above so many bytes a header is not remembered at all.
FORMS, FORM_BYTES = 256, 1024


def _learn(header: bytes) -> _Form:
    """Find the properties by walking over those before them, and remember where they were."""
    flags = _FLAGS(header)[0]
    at = id_at = 2
    milliseconds_at = 0
    said: dict[int, str] = {}
    for flag, length in LAYOUT:
        if flag == MESSAGE_ID:
            id_at = at
        elif flag == TYPE:
            end_at = at
        if not flags & flag:
            continue
        if flag & (ENCODING | TYPE):
            said[flag] = _short_string(header, at)
        if length < 0:
            milliseconds_at = _milliseconds(header, at)
            at += 4 + int(_LENGTH(header, at)[0])
        else:
            at += length or 1 + header[at]
    has_id = bool(flags & MESSAGE_ID)
    # The id's length is compared, too: another length would move what follows.
    id_end = id_at + 1 + header[id_at] if has_id else id_at
    id_at += has_id
    stamp = 8 if milliseconds_at else 0
    start, middle, end = header[:milliseconds_at], header[milliseconds_at + stamp : id_at], header[end_at:]
    form = _Form(
        unpack=Struct(f"{len(start)}s{stamp}x{len(middle)}s{id_end - id_at}s{end_at - id_end}x{len(end)}s").unpack,
        start=start,
        middle=middle,
        end=end,
        has_id=has_id,
        type=said.get(TYPE),
        encoding=said.get(ENCODING),
        may_be_cloud_event=bool(flags & HEADERS) and SPECVERSION.encode() in header[:id_at],
    )
    if len(_forms) >= FORMS:
        _forms.clear()
    if len(header) <= FORM_BYTES:
        _forms[len(header)] = form
    return form


def _milliseconds(header: bytes, table_at: int) -> int:
    """Where the value of `timestamp_in_ms` stands in the table that begins there; 0 if there is none."""
    end = table_at + 4 + int(_LENGTH(header, table_at)[0])
    found = header.find(_STAMP, table_at, end - 8)
    return found + len(_STAMP) if found >= 0 else 0


class DecodedDelivery:
    """A delivery as aiormq's own consumer hands it over."""

    __slots__ = ("body", "exchange", "header", "properties", "tag")

    def __init__(self, message: DeliveredMessage) -> None:
        deliver = message.delivery
        assert isinstance(deliver, commands.Basic.Deliver)
        assert deliver.delivery_tag is not None
        self.tag = deliver.delivery_tag
        self.body = message.body
        self.exchange = deliver.exchange or ""
        self.properties = message.header.properties
        self.header = message.header.marshal()[FLAGS_AT:]

    def meaning(self) -> Meaning:
        properties = self.properties
        return properties.message_type, properties.content_encoding, properties.message_id, properties.headers


def wanting_receipts(deliveries: Sequence[Delivery]) -> list[Delivery]:
    """Those that say where to reply to: asked of every message, so it is one look at one byte of each."""
    return [delivery for delivery in deliveries if delivery.header[0] & REPLY_TO]


def _short_string(data: bytes, at: int) -> str:
    return _text(data[at + 1 : at + 1 + data[at]])


def _text(data: bytes) -> str:
    # A publisher may send any bytes here; what is no UTF-8 must still be readable in a dead letter's headers.
    return data.decode("utf-8", "backslashreplace")
