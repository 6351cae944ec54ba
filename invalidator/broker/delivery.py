"""One message as the broker delivered it; its properties are decoded only as far as somebody asks."""

from functools import lru_cache
from struct import Struct, error
from typing import Protocol

from aiormq.abc import DeliveredMessage
from pamqp import commands
from pamqp.exceptions import PAMQPException
from pamqp.header import ContentHeader

Properties = commands.Basic.Properties

_TAG = Struct(">Q").unpack_from
_FLAGS = Struct(">H").unpack_from
_LENGTH = Struct(">L").unpack_from

#: Where the property flags stand in a content header: behind class, weight and body size (AMQP 0-9-1, 2.3.5.2).
FLAGS_AT = 12
ENCODING, HEADERS, MESSAGE_ID, TYPE = 1 << 14, 1 << 13, 1 << 7, 1 << 5
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
#: The properties that an event's meaning depends on.
MEANING = ENCODING | MESSAGE_ID | TYPE

#: (type, content encoding, message id), each None where the publisher set none.
Meaning = tuple[str | None, str | None, str | None]
NOTHING_SAID: Meaning = (None, None, None)


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
    def meaning(self) -> Meaning: ...


class TappedDelivery:
    """A delivery as three byte strings, straight from the frames."""

    __slots__ = ("_header", "_method", "body", "tag")

    def __init__(self, method: bytes, header: bytes, body: bytes) -> None:
        #: Basic.Deliver's arguments behind the consumer tag: delivery tag, redelivered, exchange, routing key.
        self._method = method
        #: The content header's payload.
        self._header = header
        self.body = body
        self.tag: int = _TAG(method)[0]

    @property
    def exchange(self) -> str:
        return _short_string(self._method, 9)

    @property
    def properties(self) -> Properties:
        """All properties; none where they cannot be decoded: such a message is to be buried, not to kill."""
        header = ContentHeader()
        try:
            header.unmarshal(self._header)
        except (PAMQPException, ValueError, LookupError, error):
            return Properties()
        return header.properties

    def meaning(self) -> Meaning:
        """The three properties that matter, without decoding the others."""
        header = self._header
        flags = _FLAGS(header, FLAGS_AT)[0]
        if not flags & MEANING:
            return NOTHING_SAID
        said: dict[int, str] = {}
        at = FLAGS_AT + 2
        for flag, length in _present(flags):
            if flag & MEANING:
                said[flag] = _short_string(header, at)
            if length < 0:
                at += 4 + int(_LENGTH(header, at)[0])
            else:
                at += length or 1 + header[at]
        return said.get(TYPE), said.get(ENCODING), said.get(MESSAGE_ID)


class DecodedDelivery:
    """A delivery as aiormq's own consumer hands it over."""

    __slots__ = ("body", "exchange", "properties", "tag")

    def __init__(self, message: DeliveredMessage) -> None:
        deliver = message.delivery
        assert isinstance(deliver, commands.Basic.Deliver)
        assert deliver.delivery_tag is not None
        self.tag = deliver.delivery_tag
        self.body = message.body
        self.exchange = deliver.exchange or ""
        self.properties = message.header.properties

    def meaning(self) -> Meaning:
        properties = self.properties
        return properties.message_type, properties.content_encoding, properties.message_id


@lru_cache(256)
def _present(flags: int) -> tuple[tuple[int, int], ...]:
    """The rows of LAYOUT that a header with these flags has; one publisher sends the same ones again and again."""
    return tuple((flag, length) for flag, length in LAYOUT if flags & flag)


def _short_string(data: bytes, at: int) -> str:
    # A publisher may send any bytes here; what is no UTF-8 must still be readable in a dead letter's headers.
    return data[at + 1 : at + 1 + data[at]].decode("utf-8", "backslashreplace")
